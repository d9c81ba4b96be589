// The data of signals: what waits for a task or a process, and how a process wants them handled. Only declarations.

import { NSIG } from "../../abi/index.ts";
import { bytes, embedded, i32, pointer, struct, u32, type View, virtual, word } from "../../hardware/index.ts";
import { waitQueueHead } from "./wait-queue-struct.ts";

/** A signal that was sent, with what its handler is told (kernel: struct sigqueue, kernel_siginfo). */
export const SigQueue = struct("sigqueue", {
  next: pointer("sigqueue"),
  signo: u32,
  code: i32,
  /** Sender. */
  pid: i32,
  /** SIGCHLD: the child's status. */
  status: i32,
  /** Of a fault (kernel: si_addr). */
  faultAddress: word,
});
export type SigQueue = View<typeof SigQueue>;

/** Kernel: struct sigpending: the set, and details as far as there was memory for them. */
export const SigPending = struct("sigpending", {
  low: u32,
  high: u32,
  list: pointer("sigqueue"),
});
export type SigPending = View<typeof SigPending>;

/** Of a process: what its threads share (kernel: struct signal_struct). Under tasklist_lock. */
export const SignalStruct = struct("signal_struct", {
  /** Tasks that refer to it. */
  count: u32,
  /** Threads that have not ended. */
  nrThreads: u32,
  /** 1: every thread is on its way to its end with `groupExitCode` (kernel: SIGNAL_GROUP_EXIT). */
  isGroupExit: u32,
  groupExitCode: i32,
  sharedPending: embedded(SigPending),
  /** Who waits in wait4() for children. */
  waitChild: waitQueueHead,
  /** Thread that waits in execve() for all others to end; those end alone. Kernel: group_exec_task. */
  execTask: pointer("task_struct"),
  /** Program that runs, with a reference, or NULL for puppets (kernel: mm->exe_file). */
  exe: pointer("inode"),
});
export type SignalStruct = View<typeof SignalStruct>;

/** What a process does with one signal (kernel: struct k_sigaction). */
export const KSigaction = struct("k_sigaction", {
  handler: virtual,
  flags: u32,
  padding: u32,
  restorer: virtual,
  maskLow: u32,
  maskHigh: u32,
});
export type KSigaction = View<typeof KSigaction>;

/** Kernel: struct sighand_struct. */
export const SighandStruct = struct("sighand_struct", {
  count: u32,
  padding: u32,
  actions: bytes(NSIG * KSigaction.bytes, 8),
});
export type SighandStruct = View<typeof SighandStruct>;
