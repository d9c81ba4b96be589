// vfork(): the parent waits until the child has given up the address space that it borrowed. A signal that kills the parent ends the wait.
import { NULL, type Ptr } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { SignalStruct } from "../sched/signal-struct.ts";
import { allTasks, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { TASK_RUNNING, TASK_UNINTERRUPTIBLE, TaskStruct } from "../sched/task-struct.ts";
import { SLEEP } from "./syscall-results.ts";
import { RESUME_CALL } from "./syscall-sleep.ts";

function borrower(parent: Ptr<"task_struct">): Ptr<"task_struct"> {
  return allTasks().find((task) => TaskStruct.at(task).vforkParent === parent) ?? NULL;
}

/** One round of the wait (kernel: `wait_for_vfork_done()`). @returns the child's pid; SLEEP. */
export function vforkWait(): number {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  tasklistLock();
  task.state = TASK_UNINTERRUPTIBLE;
  const child = borrower(pointer);
  const isKilled = SignalStruct.at(task.signal).isGroupExit !== 0;
  const isOver = child === NULL || isKilled;
  if (isOver) {
    task.state = TASK_RUNNING;
    task.resume = RESUME_CALL;
    if (child !== NULL) TaskStruct.at(child).vforkParent = NULL;
  }
  tasklistUnlock();
  return isOver ? task.waitResult : SLEEP;
}
