// Results of the functions of the system call tables that are not for user space: what the end of a system call does about them. Together,
// so that none can mean two things.

/** The call has put the task to sleep and wants to be called again. Kernel: no such number. */
export const SLEEP = -600;
/** The system call has ended: nothing follows. */
export const SYSCALL_IS_OVER = -601;
/** The call has set the user's registers itself, RAX too (sigreturn). */
export const RESULT_IN_REGS = -602;
/** What the return to user mode turns into a restart or EINTR (kernel: linux/errno.h). */
export const ERESTARTSYS = -512;
export const ERESTARTNOHAND = -514;
