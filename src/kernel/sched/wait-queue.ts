// Wait queues (kernel/sched/wait.c): a task is on at most one, links itself before it looks at its condition, and is unlinked by whoever
// wakes it. Process context: no interrupt handler wakes a queue.
import { NULL, type Ptr, ptr, type VirtAddr } from "../../hardware/index.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { current } from "./current.ts";
import { schedule } from "./schedule.ts";
import { TASK_RUNNING, TASK_UNINTERRUPTIBLE, TaskStruct } from "./task-struct.ts";
import { WaitQueueHead } from "./wait-queue-struct.ts";
import { wakeUpProcess } from "./wake-up.ts";

function headOf(queue: VirtAddr): WaitQueueHead {
  return WaitQueueHead.at(ptr<"wait_queue_head">(queue));
}

/** Puts the running task on the queue, about to sleep in `state` (kernel: `prepare_to_wait()`). Before the condition is looked at. */
export function prepareToWait(queue: VirtAddr, state: number): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const head = headOf(queue);
  spinLock(head.lock);
  task.state = state;
  if (task.waitQueue === NULL) {
    task.waitQueue = queue;
    task.waitNext = NULL;
    const { tail } = head;
    if (tail === NULL) head.head = pointer;
    else TaskStruct.at(tail).waitNext = pointer;
    head.tail = pointer;
  }
  spinUnlock(head.lock);
}

/** The running task waits no longer (kernel: `finish_wait()`). */
export function finishWait(): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  task.state = TASK_RUNNING;
  const queue = task.waitQueue;
  if (queue === NULL) return;
  const head = headOf(queue);
  spinLock(head.lock);
  // A waker may have been first.
  if (task.waitQueue !== NULL) unlink(head, pointer);
  spinUnlock(head.lock);
}

function unlink(head: WaitQueueHead, task: Ptr<"task_struct">): void {
  let previous: Ptr<"task_struct"> = NULL;
  let at = head.head;
  while (at !== task && at !== NULL) {
    previous = at;
    at = TaskStruct.at(at).waitNext;
  }
  const view = TaskStruct.at(task);
  const next = view.waitNext;
  if (previous === NULL) head.head = next;
  else TaskStruct.at(previous).waitNext = next;
  if (next === NULL) head.tail = previous;
  view.waitNext = NULL;
  view.waitQueue = NULL;
}

/** Wakes everybody on the queue (kernel: `wake_up_all()`). */
export function wakeUp(queue: VirtAddr): void {
  const head = headOf(queue);
  if (head.head === NULL) return;
  spinLock(head.lock);
  for (let task = head.head; task !== NULL; task = head.head) wakeFirst(head, task);
  spinUnlock(head.lock);
}

/** Wakes who has waited longest (kernel: `wake_up()` of an exclusive waiter). @returns false: nobody waits. */
export function wakeUpOne(queue: VirtAddr): boolean {
  const head = headOf(queue);
  if (head.head === NULL) return false;
  spinLock(head.lock);
  const task = head.head;
  if (task !== NULL) wakeFirst(head, task);
  spinUnlock(head.lock);
  return task !== NULL;
}

function wakeFirst(head: WaitQueueHead, task: Ptr<"task_struct">): void {
  const view = TaskStruct.at(task);
  const next = view.waitNext;
  head.head = next;
  if (next === NULL) head.tail = NULL;
  view.waitNext = NULL;
  view.waitQueue = NULL;
  wakeUpProcess(task);
}

/** Sleeps until `condition` holds; signals do not disturb (kernel: `wait_event()`). Process context, no lock held. */
export function waitEvent(queue: VirtAddr, condition: () => boolean): void {
  while (!condition()) {
    prepareToWait(queue, TASK_UNINTERRUPTIBLE);
    if (!condition()) schedule();
    finishWait();
  }
}
