// The data of a task. Only declarations.
import { array, bytes, embedded, i32, pointer, struct, u32, type View, virtual, word } from "../../hardware/index.ts";
import { AsiState } from "../asi/asi-struct.ts";

/** Kernel: TASK_*. */
export const TASK_RUNNING = 0;
export const TASK_INTERRUPTIBLE = 1;
export const TASK_UNINTERRUPTIBLE = 2;
export const TASK_DEAD = 0x80;

/** Kernel: PF_*. */
export const PF_KTHREAD = 0x200000;
export const PF_IDLE = 2;

/** Kernel: THREAD_SIZE. Stacks are vmalloc memory: mapped in every restricted address space. */
export const THREAD_SIZE = 16384;
/** File descriptors of a process. */
export const NR_OPEN = 16;
export const TASK_COMM_LEN = 16;

/** Kernel: struct thread_struct. */
export const ThreadStruct = struct("thread_struct", {
  /** Saved RSP while the task does not run. Read and written by the stub __switch_to_asm. */
  sp: word,
  /** What the task asked for by prctl(PR_SET_SPECULATION_CTRL): TIF_SSBD, TIF_SPEC_IB and their kin (mitigations/spec-ctrl.ts). */
  specFlags: u32,
  asiState: embedded(AsiState),
});

/** Kernel: struct task_struct. */
export const TaskStruct = struct("task_struct", {
  // Under the run queue's lock of `cpu`, or by the task itself.
  state: u32,
  /** Others set it (wake-up, tick); the task clears it in schedule(). Kernel: TIF_NEED_RESCHED. */
  needResched: u32,
  /** The task wants no indirect branch speculation across processes; others set it too (kernel: TIF_SPEC_IB). */
  specIb: u32,
  /** Signal that kills the task on its way to user mode, or 0. Written by the task's own exceptions. */
  pendingSignal: u32,
  /** CPU to which the task moves once it no longer runs, plus 1; or 0. */
  migrateTo: u32,
  onRq: u32,
  /** CPU whose run queue the task is on; changed only while it is on none. */
  cpu: u32,
  cpusAllowed: u32,
  // Constant after creation.
  flags: u32,
  pid: i32,
  stack: virtual,
  mm: pointer("mm_struct"),
  comm: bytes(TASK_COMM_LEN),
  // Of the scheduler: the mm whose tables a kernel thread borrows.
  activeMm: pointer("mm_struct"),
  /** Next task of the run queue, or of the CPU's list of sleepers. */
  next: pointer("task_struct"),
  /** Next task of the wait queue. */
  waitNext: pointer("task_struct"),
  /** Time-stamp counter at which a sleeper wakes, or 0. */
  wakeTime: word,
  /** Next of all tasks, from init_task on; of the dead ones, from deadTasks on. */
  tasksNext: pointer("task_struct"),
  exitCode: i32,
  /** vCPU that the task has loaded: told when the task is switched away and back (kernel: preempt_notifiers). Its own. */
  preemptNotifier: pointer("kvm_vcpu"),
  thread: embedded(ThreadStruct),
  files: array(pointer("file"), NR_OPEN),
});
export type TaskStruct = View<typeof TaskStruct>;
