// System calls that sleep. What a call waits for stands in memory (its arguments in pt_regs, its progress in the task), so it need not
// keep its path: it puts the task on a queue and returns SLEEP; the caller of the table gives up the CPU at a cut point and calls again.
// So a sleeping task has nearly no log: it costs nothing to bring back, and may be woken on another CPU (law 3).
import { cpu, NULL } from "../../hardware/index.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { dispatchSyscall, syscallExit } from "../entry/syscall.ts";
import { current } from "../sched/current.ts";
import { finishSchedule, schedule } from "../sched/schedule.ts";
import { TASK_RUNNING, TaskStruct } from "../sched/task-struct.ts";
import { finishWait } from "../sched/wait-queue.ts";
import { SLEEP, SYSCALL_IS_OVER } from "./syscall-results.ts";
import { vforkWait } from "./vfork.ts";

/** What a sleeping call goes on with. */
export const RESUME_CALL = 0;
export const RESUME_VFORK = 1;

/**
 * The end of every call of the table: if `result` says so, it sleeps and calls again, and ends the system call itself, as the path does that
 * goes on from the cut point (kernel: the loops around schedule() in every blocking call). @returns the result; SYSCALL_IS_OVER.
 */
export function finishSyscall(result: number): number {
  if (result !== SLEEP) return result;
  cpu.cutPoint(resumeSyscall);
  resumeSyscall();
  return SYSCALL_IS_OVER;
}

/** Root of a path that slept in a system call. */
function resumeSyscall(): void {
  schedule(resumeSwitchedSyscall);
  repeatCall();
}

/** The same when it slept in the switch itself, as nearly all do. */
function resumeSwitchedSyscall(): void {
  finishSchedule();
  repeatCall();
}

function repeatCall(): void {
  let result = callAgain();
  while (result === SLEEP) {
    cpu.cutPoint(resumeSyscall);
    schedule(resumeSwitchedSyscall);
    result = callAgain();
  }
  syscallExit(result);
}

function callAgain(): number {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  if (task.waitQueue !== NULL) finishWait();
  else task.state = TASK_RUNNING;
  if (task.resume === RESUME_VFORK) return vforkWait();
  const regs = PtRegs.at(taskPtRegs(pointer));
  return dispatchSyscall(regs, regs.origRax);
}

/** True when a signal waits, so that a sleep must end (kernel: `signal_pending()`). */
export function signalPending(): boolean {
  return TaskStruct.at(current()).pendingSignal !== 0;
}
