// The first kernel code of a new user task: it ends the switch that brought it here and goes to user mode.
import { cpu } from "../../hardware/index.ts";
import { announceChild } from "../linux/clone.ts";
import { finishTaskSwitch } from "../sched/schedule.ts";
import { exitToUserModePrepare } from "./exit-to-user.ts";

/** Kernel: `ret_from_fork()`. Interrupts are off, the run queue's lock is held. */
export function retFromFork(): void {
  finishTaskSwitch();
  // May fault: interrupts on. Like the end of the system call that made it.
  cpu.enableInterrupts();
  announceChild();
  exitToUserModePrepare(true);
}
