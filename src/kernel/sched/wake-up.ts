// Waking tasks: apart from the switch, because memory management wakes too, and the switch needs memory management.
import { cpu, type Ptr } from "../../hardware/index.ts";
import { sendIpi } from "../entry/ipi.ts";
import { RESCHEDULE_VECTOR } from "../entry/vectors.ts";
import { perCpuBase } from "../mm/percpu.ts";
import { localIrqRestore, localIrqSave, spinLock, spinUnlock } from "../spinlock.ts";
import { currentTask } from "./current.ts";
import { enqueueTask, removeSleeper, runQueueAt } from "./run-queue.ts";
import { TASK_INTERRUPTIBLE, TASK_RUNNING, TASK_UNINTERRUPTIBLE, TaskStruct } from "./task-struct.ts";

/** Puts a task that runs nowhere on the queue of CPU `target` (kernel: `activate_task()`). Interrupts off. */
export function activateOn(task: Ptr<"task_struct">, target: number): void {
  const rq = runQueueAt(perCpuBase(target));
  spinLock(rq.lock);
  const view = TaskStruct.at(task);
  view.cpu = target;
  view.state = TASK_RUNNING;
  enqueueTask(rq, task);
  reschedule(target);
  spinUnlock(rq.lock);
}

/** Makes a sleeping task runnable on its CPU (kernel: `wake_up_process()`). Any context but NMI. @returns false if it was already. */
export function wakeUpProcess(task: Ptr<"task_struct">): boolean {
  return tryToWakeUp(task, TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE);
}

/** As `wakeUpProcess`, if it sleeps in one of `states` (kernel: `try_to_wake_up()`). */
export function tryToWakeUp(task: Ptr<"task_struct">, states: number): boolean {
  const view = TaskStruct.at(task);
  const flags = localIrqSave();
  const { cpu: target } = view;
  const rq = runQueueAt(perCpuBase(target));
  spinLock(rq.lock);
  const isAsleep = (view.state & states) !== 0;
  if (isAsleep) {
    view.state = TASK_RUNNING;
    // It may be on its way to schedule(), still running: then that finds it runnable.
    if (!isCurrentOn(target, task)) {
      if (view.wakeTime !== 0) removeSleeper(rq, task);
      enqueueTask(rq, task);
      reschedule(target);
    }
    view.wakeTime = 0;
  }
  spinUnlock(rq.lock);
  localIrqRestore(flags);
  return isAsleep;
}

/** If the task runs on another CPU, makes it enter the kernel, so that it sees what waits for it (kernel: `kick_process()`). */
export function kickProcess(task: Ptr<"task_struct">): void {
  const { cpu: target } = TaskStruct.at(task);
  if (isCurrentOn(target, task)) reschedule(target);
}

function isCurrentOn(target: number, task: Ptr<"task_struct">): boolean {
  return cpu.loadWord(currentTask.at(perCpuBase(target))) === task;
}

/** Asks CPU `target` to look at its run queue (kernel: `resched_curr()`). */
export function reschedule(target: number): void {
  const running = cpu.loadWord(currentTask.at(perCpuBase(target))) as Ptr<"task_struct">; // what the variable holds
  TaskStruct.at(running).needResched = 1;
  if (target !== cpu.id) sendIpi(target, RESCHEDULE_VECTOR);
}
