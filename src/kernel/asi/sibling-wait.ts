// Option core_sched: where a thread of a core is quiet: idle, or waiting until its code may run beside the sibling's. Both are a critical
// section of the quiet domain, so that a handler that has left it goes back into it at its end, with what it brought in cleared.
import { cpu, NULL, type Ptr } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { __asiEnter, asiEnter } from "./asi-transition.ts";
import { quietDomain, siblingsApart, siblingsAskForTurn, siblingsMustWait, siblingsNotWaiting, siblingsWaitFor } from "./siblings.ts";

/** Nothing of this thread's is within the sibling's reach until asi_relax(). Interrupts off. */
export function siblingsEnterQuiet(): void {
  if (siblingsApart.isEnabled()) asiEnter(quietDomain);
}

/**
 * Waits, halted and quiet, until code of `domain` can run or `isCalledOff` says that something else comes first (kernel: forced idle).
 * Interrupts off, which they are again at the end.
 */
export function siblingsWait(domain: Ptr<"asi">, isCalledOff: () => boolean): void {
  // On the way back from a handler the critical section that it interrupted is still open: it rests meanwhile.
  const { asiState } = TaskStruct.at(current()).thread;
  const { target, intrNestDepth } = asiState;
  asiState.target = NULL;
  asiState.intrNestDepth = 0;
  siblingsWaitFor(domain);
  for (;;) {
    if (isCalledOff()) {
      siblingsNotWaiting();
      break;
    }
    if (!siblingsMustWait(domain)) break;
    asiState.target = quietDomain;
    __asiEnter();
    // After having said so: either the sibling sees it, or this sees what the sibling has done meanwhile.
    if (!siblingsMustWait(domain)) break;
    siblingsAskForTurn();
    cpu.halt();
    cpu.disableInterrupts();
  }
  asiState.target = NULL;
  asiState.intrNestDepth = intrNestDepth;
  asiState.target = target;
}
