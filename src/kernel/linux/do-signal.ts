// Signals on the way to user mode (arch/x86/kernel/signal.c): a system call that a signal interrupted is restarted or ends with EINTR, and
// the program's handler gets its frame.
import { EINTR, SA_RESTART, SIG_DFL, SIGSEGV } from "../../abi/index.ts";
import type { VirtAddr } from "../../hardware/index.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { setupRtFrame } from "../entry/signal-frame.ts";
import { COMPAT_SYSCALL } from "../entry/syscall.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { actionOf, type DeliveredSignal, forceSig, getSignal, restoreSavedSigmask, signalDelivered } from "./signal.ts";
import { ERESTARTNOHAND, ERESTARTSYS } from "./syscall-results.ts";

/** SYSCALL and INT 0x80 are two bytes. */
const SYSCALL_INSTRUCTION_BYTES = 2;

/** The call is made again when user code goes on. */
function restart(regs: PtRegs): void {
  regs.rax = regs.origRax % COMPAT_SYSCALL;
  regs.rip -= SYSCALL_INSTRUCTION_BYTES;
}

/** Takes the signals of the running task (kernel: `arch_do_signal_or_restart()`). Interrupts on. `isSyscall`: on the way out of one. */
export function archDoSignalOrRestart(isSyscall: boolean): void {
  const regs = PtRegs.at(taskPtRegs(current()));
  const delivered = getSignal();
  // After sigreturn it is no system call any more.
  const result = isSyscall && regs.origRax !== -1 ? regs.rax : 0;
  const isInterrupted = result === ERESTARTSYS || result === ERESTARTNOHAND;
  if (delivered === undefined) {
    if (isInterrupted) restart(regs);
    restoreSavedSigmask();
    return;
  }
  if (isInterrupted) {
    if (result === ERESTARTSYS && (delivered.flags & SA_RESTART) !== 0) restart(regs);
    else regs.rax = EINTR;
  }
  handleSignal(delivered);
}

/** The handler runs next; without room for its frame the process ends (kernel: `handle_signal()`, `signal_setup_done()`). */
function handleSignal(delivered: DeliveredSignal): void {
  if (setupRtFrame(delivered) === 0) {
    signalDelivered(delivered);
    return;
  }
  const segv = actionOf(TaskStruct.at(current()), SIGSEGV);
  // A handler of SIGSEGV whose own frame does not fit would be tried for ever.
  if (delivered.signal === SIGSEGV) segv.handler = SIG_DFL as VirtAddr; // a disposition, not an address
  forceSig(SIGSEGV, `no room for the frame of signal ${delivered.signal}`);
}
