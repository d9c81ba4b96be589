// The end of threads and processes (kernel/exit.c): what a task gives back itself, and what its parent learns.
import { CLD_EXITED, CLD_KILLED, SIGCHLD } from "../../abi/index.ts";
import { addVirt, cpu, fail, NULL, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { mmgrab, mmput } from "../mm/mm.ts";
import { kfree } from "../mm/slab.ts";
import { enterLazyTlb } from "../mm/switch-mm.ts";
import { current } from "../sched/current.ts";
import { schedule } from "../sched/schedule.ts";
import { SighandStruct, SignalStruct } from "../sched/signal-struct.ts";
import { allTasks, allThreads, initTask, putTask, tasklistLock, tasklistUnlock, unlinkTask } from "../sched/task.ts";
import { EXIT_DEAD, EXIT_ZOMBIE, PF_EXITING, TASK_DEAD, TaskStruct } from "../sched/task-struct.ts";
import { wakeUp } from "../sched/wait-queue.ts";
import { TRACE_PROCESS_EXIT, trace } from "../trace.ts";
import { putFiles } from "./files.ts";
import { mmRelease } from "./mm-release.ts";
import { iput } from "./ramfs.ts";
import { flushPending, ignoresChildren, sendToGroup, zapOtherThreads } from "./signal.ts";

/** As a shell says it: the status, or 128 and the signal. */
function shellStatus(code: number): number {
  return (code & 0x7f) === 0 ? (code >> 8) & 0xff : 128 + (code & 0x7f);
}

/** Ends every thread of the running task's process with `code`, as wait4() gives it (kernel: `do_group_exit()`). */
export function doGroupExit(code: number): never {
  const shared = SignalStruct.at(TaskStruct.at(current()).signal);
  tasklistLock();
  const isFirst = shared.isGroupExit === 0;
  if (isFirst) zapOtherThreads(code);
  const agreed = isFirst ? code : shared.groupExitCode;
  tasklistUnlock();
  return doExit(agreed);
}

/** Ends the running task with `code`, as wait4() gives it (kernel: `do_exit()`). Process context, interrupts on. */
export function doExit(code: number): never {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  task.flags |= PF_EXITING;
  task.exitCode = code;
  const { files } = task;
  task.files = NULL;
  if (files !== NULL) putFiles(files);
  exitMm(task);
  exitNotify(pointer);
  task.state = TASK_DEAD;
  schedule();
  return fail("a dead task runs");
}

/** Gives up the address space; its tables stay loaded, borrowed, until the next switch (kernel: `exit_mm()`). */
function exitMm(task: TaskStruct): void {
  const { mm } = task;
  if (mm === NULL) return;
  mmRelease(current());
  mmgrab(mm);
  task.mm = NULL;
  enterLazyTlb();
  mmput(mm);
}

/** Leaves the family: children find another parent, the parent learns of the end (kernel: `exit_notify()`). */
function exitNotify(pointer: Ptr<"task_struct">): void {
  const task = TaskStruct.at(pointer);
  const shared = SignalStruct.at(task.signal);
  tasklistLock();
  flushPending(task.pending);
  const { groupLeader } = task;
  const remaining = shared.nrThreads - 1;
  shared.nrThreads = remaining;
  if (remaining === 0) {
    flushPending(shared.sharedPending);
    trace(
      TRACE_PROCESS_EXIT,
      task.tgid,
      shellStatus(shared.isGroupExit !== 0 ? shared.groupExitCode : TaskStruct.at(groupLeader).exitCode),
    );
    forgetChildren(groupLeader);
  }
  const gone: Ptr<"task_struct">[] = [];
  if (pointer === groupLeader) task.exitState = EXIT_ZOMBIE;
  else {
    task.exitState = EXIT_DEAD;
    unhash(pointer);
    gone.push(pointer);
  }
  if (shared.execTask !== NULL) wakeUp(shared.waitChild);
  if (remaining === 0 && notifyParent(groupLeader)) {
    unhash(groupLeader);
    gone.push(groupLeader);
  }
  tasklistUnlock();
  for (const dead of gone) finishRelease(dead);
}

/** The children of a process that ends belong to the kernel's reaper: those that have ended too vanish. Under tasklist_lock. */
function forgetChildren(leader: Ptr<"task_struct">): void {
  for (const child of allTasks()) {
    const view = TaskStruct.at(child);
    if (view.realParent !== leader || child === leader) continue;
    view.realParent = initTask;
    if (view.groupLeader === child && view.exitState === EXIT_ZOMBIE && SignalStruct.at(view.signal).nrThreads === 0) {
      unhash(child);
      finishRelease(child);
    }
  }
}

/** Tells the parent that the whole process has ended. Under tasklist_lock. @returns true: nobody will ask, release it (kernel: `do_notify_parent()`). */
function notifyParent(leader: Ptr<"task_struct">): boolean {
  const task = TaskStruct.at(leader);
  const shared = SignalStruct.at(task.signal);
  if (shared.isGroupExit !== 0) task.exitCode = shared.groupExitCode;
  const parent = task.realParent;
  if (parent === initTask) {
    task.exitState = EXIT_DEAD;
    return true;
  }
  const ignored = task.exitSignal === SIGCHLD && ignoresChildren(parent);
  const { exitCode, exitSignal, tgid } = task;
  if (exitSignal > 0) {
    const isKilled = (exitCode & 0x7f) !== 0;
    const status = isKilled ? exitCode & 0x7f : (exitCode >> 8) & 0xff;
    sendToGroup(parent, exitSignal, { code: isKilled ? CLD_KILLED : CLD_EXITED, pid: tgid, status });
  }
  if (ignored) task.exitState = EXIT_DEAD;
  wakeUp(SignalStruct.at(TaskStruct.at(parent).signal).waitChild);
  return ignored;
}

/** Nobody finds the task any more (kernel: `__exit_signal()`, `__unhash_process()`). Under tasklist_lock. */
export function unhash(task: Ptr<"task_struct">): void {
  unlinkTask(task);
}

/** Frees what a task that was unhashed shares with nobody any more (kernel: `release_task()`). */
export function finishRelease(pointer: Ptr<"task_struct">): void {
  const task = TaskStruct.at(pointer);
  const { signal, sighand } = task;
  putShared(sighand, SighandStruct.offset.count);
  if (cpu.rmw("add", addVirt(signal, SignalStruct.offset.count), 4, 0xffffffff) === 1) {
    const { exe } = SignalStruct.at(signal);
    if (exe !== NULL) iput(exe);
    kfree(signal);
  }
  putTask(pointer);
}

function putShared(object: VirtAddr, countOffset: number): void {
  if (cpu.rmw("add", addVirt(object, countOffset), 4, 0xffffffff) === 1) kfree(object);
}

/** True when a zombie's whole process has ended, so that its parent may be told (kernel: `delay_group_leader()` is false). */
export function isGroupDead(leader: Ptr<"task_struct">): boolean {
  return SignalStruct.at(TaskStruct.at(leader).signal).nrThreads === 0;
}

/** Threads of the running task's process that have not ended, itself counted. */
export function livingThreads(): number {
  return allThreads(TaskStruct.at(current()).groupLeader).filter((thread) => TaskStruct.at(thread).exitState === 0).length;
}
