// The running task: a per-CPU variable, as in the kernel.
import { type Ptr, perCpu, pointer, virtual } from "../../hardware/index.ts";

/** Kernel: pcpu_hot.current_task. */
export const currentTask = perCpu("current_task", pointer("task_struct"));
/** Top of the running task's kernel stack: what SYSCALL's entry loads into RSP (kernel: pcpu_hot.top_of_stack). */
export const topOfStack = perCpu("cpu_current_top_of_stack", virtual);

/** Kernel: `current`. */
export function current(): Ptr<"task_struct"> {
  return currentTask.get();
}
