// The end of a task.
import { assert, fail, NULL } from "../../hardware/index.ts";
import { mmgrab, mmput } from "../mm/mm.ts";
import { enterLazyTlb } from "../mm/switch-mm.ts";
import { current } from "../sched/current.ts";
import { schedule } from "../sched/schedule.ts";
import { unlinkTask } from "../sched/task.ts";
import { TASK_DEAD, TaskStruct } from "../sched/task-struct.ts";
import { TRACE_PROCESS_EXIT, trace } from "../trace.ts";
import { closeAll } from "./file.ts";

/** Ends the running task (kernel: `do_exit()`). Process context, interrupts on. */
export function doExit(code: number): never {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  trace(TRACE_PROCESS_EXIT, task.pid, code);
  task.exitCode = code;
  closeAll(pointer);
  const { mm } = task;
  assert(mm !== NULL, () => "a kernel thread may not exit");
  // The tables stay loaded, borrowed, until the next switch.
  mmgrab(mm);
  task.mm = NULL;
  enterLazyTlb();
  mmput(mm);
  unlinkTask(pointer);
  task.state = TASK_DEAD;
  schedule();
  return fail("a dead task runs");
}
