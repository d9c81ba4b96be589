// The run queue of a CPU: runnable tasks that do not run, first in first out, and the sleepers that a timer wakes. Only declarations and
// the list operations; whoever calls holds the queue's lock with interrupts off.
import {
  addVirt,
  cpu,
  embedded,
  NULL,
  type Ptr,
  perCpu,
  pointer,
  struct,
  u32,
  type View,
  type VirtAddr,
  word,
} from "../../hardware/index.ts";
import { spinlock } from "../spinlock.ts";
import { TaskStruct } from "./task-struct.ts";

/** Kernel: struct rq. */
export const RunQueue = struct("rq", {
  lock: spinlock,
  /** Tasks in the list. */
  nrQueued: u32,
  head: pointer("task_struct"),
  tail: pointer("task_struct"),
  /** Sleepers, the next to wake first. */
  sleepers: pointer("task_struct"),
  idle: pointer("task_struct"),
  /** Task that this CPU switches away from, until the next one has finished the switch. */
  prev: pointer("task_struct"),
  /** Address space that a kernel thread borrowed until this switch, or NULL. */
  prevMm: pointer("mm_struct"),
  /** Time-stamp counter at which the running task's slice ends. */
  tick: word,
});
export type RunQueue = View<typeof RunQueue>;

export const runqueues = perCpu("runqueues", embedded(RunQueue));

/** Run queue of the CPU whose per-CPU area is at `base` (kernel: `cpu_rq()`). */
export function runQueueAt(base: VirtAddr): RunQueue {
  return RunQueue.at(runqueues.at(base) as Ptr<"rq">); // what the per-CPU variable embeds
}

/** Kernel: `enqueue_task()`. A task that is on no list has no `next`. */
export function enqueueTask(rq: RunQueue, task: Ptr<"task_struct">): void {
  const { tail } = rq;
  if (tail === NULL) rq.head = task;
  else TaskStruct.at(tail).next = task;
  rq.tail = task;
  count(rq, 1);
}

function count(rq: RunQueue, by: number): void {
  cpu.rmw("add", addVirt(rq.address, RunQueue.offset.nrQueued), 4, by >>> 0);
}

/** Takes the first task, or NULL (kernel: `pick_next_task()`). */
export function pickNextTask(rq: RunQueue): Ptr<"task_struct"> {
  const task = rq.head;
  if (task === NULL) return NULL;
  const view = TaskStruct.at(task);
  const { next } = view;
  rq.head = next;
  if (next === NULL) rq.tail = NULL;
  else view.next = NULL;
  count(rq, -1);
  return task;
}

/** Takes the first task whose mm suits, or else the first task; NULL when there is none. */
export function pickTask(rq: RunQueue, suits: (mm: Ptr<"mm_struct">) => boolean): Ptr<"task_struct"> {
  let previous: Ptr<"task_struct"> = NULL;
  let at = rq.head;
  while (at !== NULL && !suits(TaskStruct.at(at).mm)) {
    previous = at;
    at = TaskStruct.at(at).next;
  }
  if (at === NULL || previous === NULL) return pickNextTask(rq);
  const view = TaskStruct.at(at);
  const { next } = view;
  TaskStruct.at(previous).next = next;
  if (next === NULL) rq.tail = previous;
  else view.next = NULL;
  count(rq, -1);
  return at;
}

/** Puts a sleeper in its place by wake time. */
export function addSleeper(rq: RunQueue, task: Ptr<"task_struct">): void {
  const view = TaskStruct.at(task);
  const { wakeTime } = view;
  let previous: Ptr<"task_struct"> = NULL;
  let next = rq.sleepers;
  while (next !== NULL && TaskStruct.at(next).wakeTime <= wakeTime) {
    previous = next;
    next = TaskStruct.at(next).next;
  }
  view.next = next;
  if (previous === NULL) rq.sleepers = task;
  else TaskStruct.at(previous).next = task;
}

/** Takes a sleeper out, wherever it is. */
export function removeSleeper(rq: RunQueue, task: Ptr<"task_struct">): void {
  let previous: Ptr<"task_struct"> = NULL;
  let at = rq.sleepers;
  while (at !== NULL && at !== task) {
    previous = at;
    at = TaskStruct.at(at).next;
  }
  if (at === NULL) return;
  const after = TaskStruct.at(task).next;
  if (previous === NULL) rq.sleepers = after;
  else TaskStruct.at(previous).next = after;
  TaskStruct.at(task).next = NULL;
}
