// The data of a task. Only declarations.
import { bytes, embedded, i32, pointer, struct, u16, u32, type View, virtual, word } from "../../hardware/index.ts";
import { AsiState } from "../asi/asi-struct.ts";
import { Fpu } from "../entry/fpu-stubs.ts";
import { SigPending } from "./signal-struct.ts";

/** Kernel: TASK_*. */
export const TASK_RUNNING = 0;
export const TASK_INTERRUPTIBLE = 1;
export const TASK_UNINTERRUPTIBLE = 2;
export const TASK_DEAD = 0x80;

/** Of a task that has ended: its parent has not asked yet; or nobody will. Kernel: EXIT_ZOMBIE, EXIT_DEAD. */
export const EXIT_ZOMBIE = 0x20;
export const EXIT_DEAD = 0x10;

/** Kernel: PF_*. */
export const PF_KTHREAD = 0x200000;
export const PF_IDLE = 2;
export const PF_EXITING = 4;

/** Kernel: THREAD_SIZE. Stacks are vmalloc memory: mapped in every restricted address space. */
export const THREAD_SIZE = 16384;
export const TASK_COMM_LEN = 16;

/** Kernel: struct thread_struct. */
export const ThreadStruct = struct("thread_struct", {
  /** Saved RSP while the task does not run. Read and written by the stub __switch_to_asm. */
  sp: word,
  /** What the task asked for by prctl(PR_SET_SPECULATION_CTRL): TIF_SSBD, TIF_SPEC_IB and their kin (mitigations/spec-ctrl.ts). */
  specFlags: u32,
  asiState: embedded(AsiState),
  /** Bases of the user's FS and GS (kernel: fsbase, gsbase). The MSRs hold them while the task runs. */
  fsbase: word,
  gsbase: word,
  /** Data segment selectors of user code while the task does not run (kernel: thread.ds, thread.es). As the vector registers. */
  ds: u16,
  es: u16,
  /** Vector registers while the task does not run. Saved and loaded by __switch_to_asm. */
  fpu: embedded(Fpu),
});

/** Kernel: struct task_struct. */
export const TaskStruct = struct("task_struct", {
  // Under the run queue's lock of `cpu`, or by the task itself.
  state: u32,
  /** Others set it (wake-up, tick); the task clears it in schedule(). Kernel: TIF_NEED_RESCHED. */
  needResched: u32,
  /** Not 0: on its way to user mode the task must look for signals. Others set it too. Kernel: TIF_SIGPENDING. */
  pendingSignal: u32,
  /** CPU to which the task moves once it no longer runs, plus 1; or 0. */
  migrateTo: u32,
  /** CPU whose run queue the task is on; changed only while it is on none. */
  cpu: u32,
  cpusAllowed: u32,
  // Constant after creation, but that exec() may make a thread the leader.
  flags: u32,
  pid: i32,
  stack: virtual,
  mm: pointer("mm_struct"),
  comm: bytes(TASK_COMM_LEN),
  // Of the scheduler: the mm whose tables a kernel thread borrows.
  activeMm: pointer("mm_struct"),
  /** Next task of the run queue, or of the CPU's list of sleepers. */
  next: pointer("task_struct"),
  /** Next task of the wait queue `waitQueue`, or of a futex bucket. */
  waitNext: pointer("task_struct"),
  /** Wait queue that the task is on, or NULL. Under that queue's lock. */
  waitQueue: virtual,
  /** Time-stamp counter at which a sleeper wakes, or 0. */
  wakeTime: word,
  /** Next of all tasks, from init_task on; of the dead ones, from deadTasks on. Under tasklist_lock. */
  tasksNext: pointer("task_struct"),
  /** References: one of the scheduler until the last switch away, one until the task is released. Atomic. */
  usage: u32,
  /** vCPU that the task has loaded: told when the task is switched away and back (kernel: preempt_notifiers). Its own. */
  preemptNotifier: pointer("kvm_vcpu"),
  /** The task stands in try_to_freeze(). Its own. */
  frozen: u32,
  thread: embedded(ThreadStruct),
  files: pointer("files_struct"),

  // Families. Under tasklist_lock.
  /** Pid of the thread group's leader: what getpid() gives. */
  tgid: i32,
  /** 0 while it lives; EXIT_*. */
  exitState: u32,
  /** Leader of its thread group; itself for one. */
  groupLeader: pointer("task_struct"),
  /** Leader of the thread group that made this one; init_task for what the kernel made or adopted. */
  realParent: pointer("task_struct"),
  /** Signal that its end sends to the parent; 0 for none; -1 for threads. */
  exitSignal: i32,
  /** As wait4() gives it: status << 8, or a signal's number. */
  exitCode: i32,
  signal: pointer("signal_struct"),
  sighand: pointer("sighand_struct"),

  // Signals of this task alone. Under tasklist_lock.
  pending: embedded(SigPending),
  blockedLow: u32,
  blockedHigh: u32,
  /** Mask that sigsuspend() replaced, until the return to user mode (kernel: saved_sigmask, TIF_RESTORE_SIGMASK). */
  savedLow: u32,
  savedHigh: u32,
  restoreSigmask: u32,
  sasFlags: u32,
  sasSp: word,
  sasBytes: word,

  // System calls that sleep: they give up the CPU at a cut point and are called again (syscall-sleep.ts). Its own.
  /** What a sleeping system call goes on with: RESUME_*. */
  resume: u32,
  /** Time-stamp counter at which the wait in progress ends, or 0. */
  waitDeadline: word,
  /** Result of a call that waits for something else before it returns. */
  waitResult: word,
  /** FUTEX_STATE_*; the rest of the futex is valid while it is not 0. Under the bucket's lock. */
  futexState: u32,
  futexBitset: u32,
  futexKeyWord: word,
  futexKeyOwner: word,
  /** Kernel: clear_child_tid: zeroed and woken when the task gives up its mm. */
  clearChildTid: word,
  /** Kernel: set_child_tid: where a new task writes its pid. */
  setChildTid: word,
  /** Parent that waits in vfork() until this task gives up its mm, or NULL. Under tasklist_lock. */
  vforkParent: pointer("task_struct"),
  /** Of a kernel thread (kernel: struct kthread): its function's number, and what that was given. */
  kthread: u32,
  kthreadShouldStop: u32,
  kthreadData: word,
});
export type TaskStruct = View<typeof TaskStruct>;
