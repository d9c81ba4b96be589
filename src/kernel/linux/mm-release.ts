// What a task does when it gives up an address space, by its end or by a new program (kernel/fork.c: mm_release()).
import { NULL, type Ptr, virtAddr } from "../../hardware/index.ts";
import { accessOk } from "../mm/layout.ts";
import { tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { TASK_UNINTERRUPTIBLE, TaskStruct } from "../sched/task-struct.ts";
import { tryToWakeUp } from "../sched/wake-up.ts";
import { clearUser } from "./devices.ts";
import { wakeFutexAt } from "./futex.ts";

/** The address space is still loaded (kernel: `exit_mm_release()`, `exec_mm_release()`). */
export function mmRelease(pointer: Ptr<"task_struct">): void {
  const task = TaskStruct.at(pointer);
  const { clearChildTid } = task;
  if (clearChildTid !== 0) {
    task.clearChildTid = 0;
    // pthread_join() waits for this word.
    if (accessOk(clearChildTid, 4) && clearUser(virtAddr(clearChildTid), 4) === 0) wakeFutexAt(virtAddr(clearChildTid), 1);
  }
  completeVfork(task);
}

/** The parent that lent its address space goes on (kernel: `complete_vfork_done()`). */
function completeVfork(task: TaskStruct): void {
  if (task.vforkParent === NULL) return;
  tasklistLock();
  const parent = task.vforkParent;
  task.vforkParent = NULL;
  if (parent !== NULL) tryToWakeUp(parent, TASK_UNINTERRUPTIBLE);
  tasklistUnlock();
}
