// The last thing before user code runs again.
import { cpu } from "../../hardware/index.ts";
import { asiIntrExit } from "../asi/asi-intr.ts";
import { asiIsTense } from "../asi/asi-transition.ts";
import { asiEnterUserspace, userDomain } from "../asi/asi-user.ts";
import { siblingsWait } from "../asi/sibling-wait.ts";
import { siblingsApart, siblingsGate, siblingsGateAtHandlerExit, siblingsMustWait } from "../asi/siblings.ts";
import { archDoSignalOrRestart } from "../linux/do-signal.ts";
import { vmscapeExitToUser } from "../mitigations/vmscape.ts";
import { tryToFreeze } from "../power/freezer.ts";
import { current } from "../sched/current.ts";
import { finishSchedule, schedule } from "../sched/schedule.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { TRACE_USER_RETURN, trace } from "../trace.ts";

/**
 * Does what is pending for the running task; returns with interrupts off (kernel: `exit_to_user_mode_prepare()`). May switch tasks, and
 * does not return for a task that was killed. `isSyscall`: at the end of a system call, which a signal may restart. `decide`: how to leave,
 * asked when nothing is pending any more.
 */
export function exitToUserModePrepare(isSyscall: boolean, decide?: () => void): void {
  cpu.disableInterrupts();
  const task = TaskStruct.at(current());
  for (;;) {
    const signal = task.pendingSignal;
    const hasWork = signal !== 0 || task.needResched !== 0;
    if (!hasWork) {
      if (!siblingsApart.isEnabled() || !siblingsMustWait(userDomain(task.mm))) break;
      siblingsWait(userDomain(task.mm), () => task.pendingSignal !== 0 || task.needResched !== 0);
      continue;
    }
    cpu.enableInterrupts();
    if (signal !== 0) archDoSignalOrRestart(isSyscall);
    tryToFreeze();
    if (task.needResched !== 0) {
      // What ran so far is over: when the task goes on, here or on another CPU, none of it is run again.
      cpu.cutPoint(isSyscall ? resumeSyscallExit : resumeInterruptExit);
      // Step by step what those do: the path may be suspended at any of them. So `decide` is not asked: IRET is always right.
      schedule(isSyscall ? finishSyscallExit : finishInterruptExit);
      exitToUserModePrepare(isSyscall);
      return;
    }
    cpu.disableInterrupts();
  }
  vmscapeExitToUser();
  trace(TRACE_USER_RETURN);
  decide?.();
  // The very last act: from here on only NMIs come, and they go back to where this leads.
  if (!siblingsApart.isEnabled()) {
    asiEnterUserspace();
    return;
  }
  const isInHandler = asiIsTense();
  asiEnterUserspace();
  if (isInHandler) siblingsGateAtHandlerExit(userDomain(task.mm));
  else siblingsGate(userDomain(task.mm));
}

/** What a task goes on with that was switched away at the end of a system call, or before its first user code. It leaves by IRET. */
function resumeSyscallExit(): void {
  schedule(finishSyscallExit);
  exitToUserModePrepare(true);
}

/** The same when the switch itself has come. */
function finishSyscallExit(): void {
  finishSchedule();
  exitToUserModePrepare(true);
}

/** The same at the end of an interrupt or exception of user mode: the rest of idtentry(). */
function resumeInterruptExit(): void {
  schedule(finishInterruptExit);
  exitToUserModePrepare(false);
  asiIntrExit();
}

function finishInterruptExit(): void {
  finishSchedule();
  exitToUserModePrepare(false);
  asiIntrExit();
}
