// Keeping processes from running while the machine sleeps: each stops where it would return to user mode or to a guest, and goes on from
// there (kernel: kernel/freezer.c, kernel/power/process.c). A process that sleeps in the kernel is left asleep: should something wake it,
// it comes by the same place before it runs any of its own code.
import { EBUSY, type Errno } from "../../abi/index.ts";
import { NULL, type Ptr, u32 } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { schedule, setCurrentState } from "../sched/schedule.ts";
import { allTasks } from "../sched/task.ts";
import { TASK_RUNNING, TASK_UNINTERRUPTIBLE, TaskStruct } from "../sched/task-struct.ts";
import { reschedule, wakeUpProcess } from "../sched/wake-up.ts";
import { staticBytes } from "../static-data.ts";

/** User processes are to stop (kernel: pm_freezing). */
const pmFreezing = staticBytes("pm_freezing", 4, 4);
/** Rounds of asking and yielding before it is given up (kernel: 20 seconds). */
const FREEZE_ROUNDS = 1000;

/** On the way to user mode or to a guest, with interrupts on, when the task is asked to reschedule (kernel: `try_to_freeze()`). */
export function tryToFreeze(): void {
  if (u32.get(pmFreezing) === 0) return;
  const task = TaskStruct.at(current());
  if (task.mm === NULL) return;
  task.frozen = 1;
  while (u32.get(pmFreezing) !== 0) {
    setCurrentState(TASK_UNINTERRUPTIBLE);
    if (u32.get(pmFreezing) === 0) break;
    schedule();
  }
  setCurrentState(TASK_RUNNING);
  task.frozen = 0;
}

/** Asks a running process to come by tryToFreeze(). @returns false: it is stopped, or sleeps. */
function ask(task: Ptr<"task_struct">, self: Ptr<"task_struct">): boolean {
  const view = TaskStruct.at(task);
  if (task === self || view.mm === NULL || view.frozen !== 0 || view.state !== TASK_RUNNING) return false;
  view.needResched = 1;
  reschedule(view.cpu);
  return true;
}

/** Stops every process but the caller's task (kernel: `freeze_processes()`). Process context. @returns 0; EBUSY: nothing is stopped then. */
export function freezeProcesses(): 0 | Errno {
  u32.set(pmFreezing, 1);
  const self = current();
  for (let round = 0; round < FREEZE_ROUNDS; round++) {
    let isSomeoneRunning = false;
    for (const task of allTasks()) if (ask(task, self)) isSomeoneRunning = true;
    if (!isSomeoneRunning) return 0;
    schedule();
  }
  thawProcesses();
  return EBUSY;
}

/** Kernel: `thaw_processes()`. */
export function thawProcesses(): void {
  u32.set(pmFreezing, 0);
  for (const task of allTasks()) if (TaskStruct.at(task).frozen !== 0) wakeUpProcess(task);
}
