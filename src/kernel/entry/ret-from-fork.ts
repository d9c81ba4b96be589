// The first kernel code of a new task: it ends the switch that brought it here and goes to user mode; a kernel thread never does.
import { cpu } from "../../hardware/index.ts";
import { announceChild } from "../linux/clone.ts";
import { current } from "../sched/current.ts";
import { kthreadMain } from "../sched/kthread.ts";
import { finishTaskSwitch } from "../sched/schedule.ts";
import { PF_KTHREAD, TaskStruct } from "../sched/task-struct.ts";
import { exitToUserModePrepare } from "./exit-to-user.ts";

/** Kernel: `ret_from_fork()`. Interrupts are off, the run queue's lock is held. */
export function retFromFork(): void {
  if ((TaskStruct.at(current()).flags & PF_KTHREAD) !== 0) kthreadMain();
  finishTaskSwitch();
  // May fault: interrupts on. Like the end of the system call that made it.
  cpu.enableInterrupts();
  announceChild();
  exitToUserModePrepare(true);
}
