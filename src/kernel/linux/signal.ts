// Signals, as far as they kill: an exception of a user task becomes its end on the way back to user mode.
import { current } from "../sched/current.ts";
import { taskComm } from "../sched/task.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { printk } from "../trace.ts";

/** Kills the running task with `signal` before it runs user code again (kernel: `force_sig()`). `why` goes to the kernel log. */
export function forceSig(signal: number, why: string): void {
  const task = TaskStruct.at(current());
  task.pendingSignal = signal;
  printk(`${taskComm(current())}[${task.pid}]: killed by signal ${signal}: ${why}`);
}
