// The hooks of interrupts, exceptions and NMIs. Entry never switches the address space; the end of the outermost one on top of a
// critical section goes back to it, if something in between left it.
import { addVirt, cpu, NULL, type VirtAddr } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { TaskStruct, ThreadStruct } from "../sched/task-struct.ts";
import { asiEnabled } from "./asi-state.ts";
import { AsiState } from "./asi-struct.ts";
import { __asiEnter, asiIsTense } from "./asi-transition.ts";
import { siblingsHandlerEnter, siblingsHandlerExit } from "./siblings.ts";

function nestDepth(): VirtAddr {
  return addVirt(current(), TaskStruct.offset.thread + ThreadStruct.offset.asiState + AsiState.offset.intrNestDepth);
}

/** First statement of every interrupt or exception handler (kernel: `asi_intr_enter()`). */
export function asiIntrEnter(): void {
  siblingsHandlerEnter();
  if (!asiEnabled() || !asiIsTense()) return;
  cpu.rmw("add", nestDepth(), 4, 1);
}

/** Last statement of every interrupt or exception handler (kernel: `asi_intr_exit()`). */
export function asiIntrExit(): void {
  if (!asiEnabled() || !asiIsTense()) return;
  // The decrement stands between all sensitive accesses and the enter: an access after it would fault with depth 0 and loop; an enter
  // before it would let an interrupt in between believe that it is nested, and not go back.
  const before = cpu.rmw("add", nestDepth(), 4, 0xffffffff);
  if (before !== 1) return;
  __asiEnter();
  siblingsHandlerExit();
}

/** Interrupts on top of the running task's critical section (kernel: `asi_intr_nest_depth()`). */
export function asiIntrNestDepth(): number {
  return TaskStruct.at(current()).thread.asiState.intrNestDepth;
}

/** A new thread starts relaxed (kernel: `asi_init_thread_state()`). */
export function asiInitThreadState(task: TaskStruct): void {
  task.thread.asiState.target = NULL;
  task.thread.asiState.intrNestDepth = 0;
}
