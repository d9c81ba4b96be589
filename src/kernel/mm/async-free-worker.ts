// The kernel thread that does the page allocator's asynchronous frees, so that memory comes back even if nobody allocates (kernel:
// asi_async_free_work_fn() in mm_percpu_wq). One for all CPUs: a flush reaches all of them anyhow.
import { isErr } from "../../abi/index.ts";
import { cpu } from "../../hardware/index.ts";
import { asiEnabled } from "../asi/asi-state.ts";
import { kthreadExit, kthreadFunction, kthreadRun, kthreadShouldStop } from "../sched/kthread.ts";
import { schedule, setCurrentState } from "../sched/schedule.ts";
import { TASK_RUNNING, TASK_UNINTERRUPTIBLE } from "../sched/task-struct.ts";
import { printk } from "../trace.ts";
import { setAsyncFreeWorker, takeAsyncFreeWork } from "./async-free.ts";
import { asiAsyncFreeWork } from "./page-alloc.ts";

const worker = kthreadFunction(work);

/** For ever, a round of work and a sleep. Each round is a cut point: nothing of those before is needed. */
function work(): number {
  for (;;) {
    cpu.cutPoint(work);
    // Before the question whether there is work: what comes behind it wakes this task.
    setCurrentState(TASK_UNINTERRUPTIBLE);
    if (kthreadShouldStop()) kthreadExit(0);
    if (takeAsyncFreeWork()) {
      setCurrentState(TASK_RUNNING);
      asiAsyncFreeWork();
    } else schedule();
  }
}

/** Starts the worker, where restricted address spaces are (kernel: `asi_init()` of the page allocator). At boot. */
export function startAsyncFreeWorker(): void {
  if (!asiEnabled()) return;
  const task = kthreadRun(worker, 0, "asi_async_free");
  if (isErr(task)) {
    // Allocations do its work all the same, when they find much of it or nothing else.
    printk(`asi: no worker for asynchronous frees (error ${task})`);
    return;
  }
  setAsyncFreeWorker(task);
}
