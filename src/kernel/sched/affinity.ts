// On which CPUs a task may run, and its move when that excludes where it is.
import { EINVAL, type Errno } from "../../abi/index.ts";
import { cpu } from "../../hardware/index.ts";
import { syscallExit } from "../entry/syscall.ts";
import { onlineCpus } from "../mm/percpu.ts";
import { current } from "./current.ts";
import { schedule } from "./schedule.ts";
import { TaskStruct } from "./task-struct.ts";

/**
 * Restricts the running task to the CPUs of `mask`; on return it runs on one of them (kernel: `sched_setaffinity()`). Only as the last
 * act of a system call.
 */
export function schedSetaffinity(mask: number): 0 | Errno {
  const allowed = (mask & onlineCpus()) >>> 0;
  if (allowed === 0) return EINVAL;
  const task = TaskStruct.at(current());
  task.cpusAllowed = allowed;
  if ((allowed & (1 << task.cpu)) !== 0) return 0;
  task.migrateTo = 32 - Math.clz32(allowed & -allowed); // lowest allowed CPU, plus 1
  // What ran so far ran on this CPU, and may have asked which one it is: the other CPU must not run it again.
  cpu.cutPoint(finishMigration);
  schedule();
  return 0;
}

function finishMigration(): void {
  schedule();
  syscallExit(0);
}
