// The last thing before user code runs again.
import { cpu } from "../../hardware/index.ts";
import { asiEnterUserspace } from "../asi/asi-user.ts";
import { doExit } from "../linux/exit.ts";
import { vmscapeExitToUser } from "../mitigations/vmscape.ts";
import { current } from "../sched/current.ts";
import { schedule } from "../sched/schedule.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { TRACE_USER_RETURN, trace } from "../trace.ts";

/**
 * Does what is pending for the running task; returns with interrupts off (kernel: `exit_to_user_mode_prepare()`). May switch tasks, and
 * does not return for a task that was killed.
 */
export function exitToUserModePrepare(): void {
  cpu.disableInterrupts();
  const task = TaskStruct.at(current());
  for (;;) {
    const signal = task.pendingSignal;
    const hasWork = signal !== 0 || task.needResched !== 0;
    if (!hasWork) break;
    cpu.enableInterrupts();
    if (signal !== 0) doExit(128 + signal);
    schedule();
    cpu.disableInterrupts();
  }
  vmscapeExitToUser();
  trace(TRACE_USER_RETURN);
  asiEnterUserspace();
}
