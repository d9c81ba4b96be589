// Switching tasks. Kernel code is never preempted: a task gives up the CPU here, on its way to user mode, in the vCPU loop, or to wait.
import { addVirt, assert, cpu, NULL, type PathRoot, type Ptr } from "../../hardware/index.ts";
import { switchRestricted } from "../asi/asi-options.ts";
import { ASI_CLASS_KVM, ASI_CLASS_USERSPACE } from "../asi/asi-struct.ts";
import { asiExit } from "../asi/asi-transition.ts";
import { siblingsApart, siblingsIsSpace, siblingsNotWaiting, siblingsPreferred } from "../asi/siblings.ts";
import { loadSp0 } from "../entry/descriptor-tables.ts";
import { kvmSchedIn, kvmSchedOut } from "../kvm/vcpu-load.ts";
import { hasTaskSpecCtrl, speculationCtrlUpdate } from "../mitigations/spec-ctrl.ts";
import { mmdrop, mmgrab } from "../mm/mm.ts";
import { Mm } from "../mm/mm-struct.ts";
import { enterLazyTlb, switchMmIrqsOff } from "../mm/switch-mm.ts";
import { localIrqRestore, localIrqSave, spinLock, spinUnlock } from "../spinlock.ts";
import { staticBytes } from "../static-data.ts";
import { EXIT_CONTEXT_SWITCH, TRACE_CONTEXT_SWITCH, trace } from "../trace.ts";
import { current, currentTask, topOfStack } from "./current.ts";
import { addSleeper, enqueueTask, pickNextTask, pickTask, type RunQueue, runqueues } from "./run-queue.ts";
import { loadSegmentBases } from "./segment-bases.ts";
import { putTask } from "./task.ts";
import { PF_IDLE, TASK_DEAD, TASK_INTERRUPTIBLE, TASK_RUNNING, TaskStruct, THREAD_SIZE } from "./task-struct.ts";
import { programTick } from "./tick.ts";
import { activateOn } from "./wake-up.ts";

/** Cycles of a context switch's work that is not stepped (scheduler class, accounting, FPU). Assumed; bare metal is about 1200 in all. */
const CONTEXT_SWITCH_CYCLES = 600;
/** Data that a real switch walks through, beyond ours: scheduling class, group accounting, perf, FPU state. Assumed: 64 lines. */
const CONTEXT_SWITCH_TOUCHED_BYTES = 4096;
const contextSwitchFootprint = staticBytes("context_switch_footprint", CONTEXT_SWITCH_TOUCHED_BYTES, 4096);

/** This CPU's run queue (kernel: `this_rq()`). */
export function thisRq(): RunQueue {
  return runqueues.get() as RunQueue; // embedded: a view
}

/** Kernel: `need_resched()`. */
export function needResched(): boolean {
  return TaskStruct.at(current()).needResched !== 0;
}

/** Kernel: `set_current_state()`. Before the condition that the task waits for is looked at. */
export function setCurrentState(state: number): void {
  TaskStruct.at(current()).state = state;
}

/**
 * Gives up the CPU: to the next runnable task, or to the idle task (kernel: `schedule()`). A task that is not TASK_RUNNING stays off
 * the queue until somebody wakes it. Process context; not while restricted in a critical section. With `resume` the path is cut before the
 * switch, so that it need not be run again when the task goes on: `resume` begins with finishSchedule() and does what the caller does behind
 * this call to the end of the event. Then: interrupts on, not inside a nested handler.
 */
export function schedule(resume?: PathRoot): void {
  const flags = localIrqSave();
  siblingsNotWaiting();
  const prev = current();
  const task = TaskStruct.at(prev);
  const rq = thisRq();
  spinLock(rq.lock);
  task.needResched = 0;
  if (isStaying(task) && task.migrateTo === 0) {
    if ((task.flags & PF_IDLE) === 0) enqueueTask(rq, prev);
  } else if (task.wakeTime !== 0) {
    addSleeper(rq, prev);
  }
  const picked = siblingsApart.isEnabled() ? pickBesideSibling(rq) : pickNextTask(rq);
  const next = picked === NULL ? rq.idle : picked;
  if (next === prev) {
    spinUnlock(rq.lock);
    localIrqRestore(flags);
    return;
  }
  prepareSwitch(rq, prev, next);
  if (resume !== undefined) {
    assert(flags !== 0, () => "a path is to be cut in schedule(), and interrupts are off: what would they be afterwards?");
    cpu.cutPoint(resume);
    finishSchedule();
    return;
  }
  switchTasks();
  localIrqRestore(flags);
}

/** The rest of schedule() behind its cut point: the switch, and when the task goes on, interrupts on. */
export function finishSchedule(): void {
  switchTasks();
  cpu.enableInterrupts();
}

/** The stack switch that prepareSwitch() made ready (kernel: `switch_to()`). */
function switchTasks(): void {
  cpu.switchTo("__switch_to_asm", thisRq().prev, current());
  finishTaskSwitch();
}

/**
 * Option core_sched: while it is the sibling's turn, the first task that may run beside it, if there is one; else the first of all, which
 * may have to wait before it is back in user mode (kernel: the core-wide `pick_next_task()`).
 */
function pickBesideSibling(rq: RunQueue): Ptr<"task_struct"> {
  const beside = siblingsPreferred();
  return beside === 0 ? pickNextTask(rq) : pickTask(rq, (mm) => mm !== NULL && isDomainOf(mm, beside));
}

function isDomainOf(mm: Ptr<"mm_struct">, space: number): boolean {
  for (const id of [ASI_CLASS_USERSPACE, ASI_CLASS_KVM]) if (siblingsIsSpace(Mm.at(mm).asi.address(id) as Ptr<"asi">, space)) return true; // an element of that array
  return false;
}

/** True when the running task wants to go on; a signal ends a sleep before it begins (kernel: `signal_pending_state()`). */
function isStaying(task: TaskStruct): boolean {
  const { state } = task;
  if (state === TASK_RUNNING) return true;
  if (state !== TASK_INTERRUPTIBLE || task.pendingSignal === 0) return false;
  task.state = TASK_RUNNING;
  task.wakeTime = 0;
  return true;
}

/** Interrupts off, the queue's lock held; the next task drops it (kernel: `context_switch()` up to `switch_to()`). */
function prepareSwitch(rq: RunQueue, prev: Ptr<"task_struct">, next: Ptr<"task_struct">): void {
  const from = TaskStruct.at(prev);
  const to = TaskStruct.at(next);
  const { mm } = to;
  // First of all: the domain belongs to prev's mm (spec, patch 3). With the option the CPU stays there as long as that mm stays loaded:
  // nothing below is sensitive, and a kernel thread that touches what is faults out like everybody.
  const keepsMm = switchRestricted.key.isEnabled() && (mm === NULL || mm === from.activeMm);
  if (!keepsMm) asiExit(EXIT_CONTEXT_SWITCH);
  const outgoing = from.preemptNotifier;
  if (outgoing !== NULL) kvmSchedOut(outgoing);
  trace(TRACE_CONTEXT_SWITCH, from.pid, to.pid);
  cpu.charge(CONTEXT_SWITCH_CYCLES);
  cpu.touch(contextSwitchFootprint, CONTEXT_SWITCH_TOUCHED_BYTES);
  if (mm === NULL) {
    // A kernel thread borrows the tables that are loaded, and keeps them alive.
    to.activeMm = from.activeMm;
    if (from.mm !== NULL) mmgrab(from.activeMm);
    else from.activeMm = NULL;
    enterLazyTlb();
  } else {
    switchMmIrqsOff(from.activeMm, mm, next);
    loadSegmentBases(to);
    if (from.mm === NULL) {
      rq.prevMm = from.activeMm;
      from.activeMm = NULL;
    }
  }
  // Kernel: __switch_to_xtra().
  if (hasTaskSpecCtrl()) speculationCtrlUpdate(from.thread.specFlags, to.thread.specFlags);
  rq.prev = prev;
  currentTask.set(next);
  const top = addVirt(to.stack, THREAD_SIZE);
  topOfStack.set(top);
  loadSp0(top);
  programTick(rq, to.flags);
}

/** First act of a task that was switched to (kernel: `finish_task_switch()`, `schedule_tail()`). */
export function finishTaskSwitch(): void {
  const rq = thisRq();
  const { prev, prevMm } = rq;
  if (prevMm !== NULL) rq.prevMm = NULL;
  spinUnlock(rq.lock);
  const incoming = TaskStruct.at(current()).preemptNotifier;
  if (incoming !== NULL) kvmSchedIn(incoming);
  if (prevMm !== NULL) mmdrop(prevMm);
  const task = TaskStruct.at(prev);
  if (task.state === TASK_DEAD) {
    putTask(prev);
    return;
  }
  const { migrateTo } = task;
  if (migrateTo !== 0) {
    task.migrateTo = 0;
    activateOn(prev, migrateTo - 1);
  }
}

/** Wakes the sleepers of this CPU whose time has come. Timer interrupt; interrupts off. */
export function wakeSleepers(now: number): void {
  const rq = thisRq();
  spinLock(rq.lock);
  let woke = false;
  for (let task = rq.sleepers; task !== NULL && TaskStruct.at(task).wakeTime <= now; task = rq.sleepers) {
    const view = TaskStruct.at(task);
    rq.sleepers = view.next;
    view.next = NULL;
    view.wakeTime = 0;
    view.state = TASK_RUNNING;
    enqueueTask(rq, task);
    woke = true;
  }
  spinUnlock(rq.lock);
  if (woke) TaskStruct.at(current()).needResched = 1;
}

/** Sleeps until the time-stamp counter reaches `deadline` or somebody wakes the task (kernel: `schedule_hrtimeout()`). */
export function sleepUntil(deadline: number): void {
  const task = TaskStruct.at(current());
  task.wakeTime = deadline;
  task.state = TASK_INTERRUPTIBLE;
  schedule();
}
