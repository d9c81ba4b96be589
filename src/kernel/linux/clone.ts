// Making processes and threads (kernel/fork.c). What a new task needs is made first and given to it; until it is attached nobody knows it,
// so that a failure only gives back what was made.
import {
  CLONE_CHILD_CLEARTID,
  CLONE_CHILD_SETTID,
  CLONE_FILES,
  CLONE_PARENT,
  CLONE_PARENT_SETTID,
  CLONE_SETTLS,
  CLONE_SIGHAND,
  CLONE_THREAD,
  CLONE_VFORK,
  CLONE_VM,
  CSIGNAL,
  EAGAIN,
  EINVAL,
  ENOMEM,
  type Errno,
  isErr,
} from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { STUB_SAVE_FPREGS } from "../entry/fpu-stubs.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { STUB_SAVE_DATA_SEGMENTS } from "../entry/switch-stub.ts";
import { dupMm } from "../mm/dup-mm.ts";
import { accessOk } from "../mm/layout.ts";
import { mmget, mmput } from "../mm/mm.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { kfree } from "../mm/slab.ts";
import { current } from "../sched/current.ts";
import { selectCpu } from "../sched/select-cpu.ts";
import { SighandStruct, SignalStruct } from "../sched/signal-struct.ts";
import { attachTask, createTask, discardTask, giveSignals, taskComm, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { activateOn } from "../sched/wake-up.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { TRACE_PROCESS_FORK, trace } from "../trace.ts";
import { dupFiles, getFiles, putFiles } from "./files.ts";
import { ihold } from "./ramfs.ts";
import { RESUME_VFORK } from "./syscall-sleep.ts";
import { giveUserBytes } from "./user-arguments.ts";
import { vforkWait } from "./vfork.ts";

/** Kernel: struct kernel_clone_args. Addresses are the user's; 0 for none. */
export interface CloneArgs {
  readonly flags: number;
  readonly exitSignal: number;
  /** Stack pointer of the child, or 0 for the parent's. */
  readonly stack: number;
  readonly parentTid: number;
  readonly childTid: number;
  readonly tls: number;
}

const fork: CloneArgs = { flags: 0, exitSignal: 17, stack: 0, parentTid: 0, childTid: 0, tls: 0 };

/** Arguments of fork(). */
export function forkArgs(): CloneArgs {
  return fork;
}

/** Arguments of vfork(). */
export function vforkArgs(): CloneArgs {
  return { ...fork, flags: CLONE_VFORK | CLONE_VM };
}

/** Flags of clone() with the exit signal in their low byte. */
export function cloneArgs(flags: number, stack: number, parentTid: number, childTid: number, tls: number): CloneArgs {
  return { flags: flags & ~CSIGNAL, exitSignal: flags & CSIGNAL, stack, parentTid, childTid, tls };
}

function checkFlags(args: CloneArgs): 0 | Errno {
  const { flags } = args;
  // A thread shares how signals are handled, which makes sense only in one address space.
  if ((flags & CLONE_THREAD) !== 0 && (flags & CLONE_SIGHAND) === 0) return EINVAL;
  if ((flags & CLONE_SIGHAND) !== 0 && (flags & CLONE_VM) === 0) return EINVAL;
  if (args.exitSignal > 64 || !accessOk(args.tls, 0) || !accessOk(args.stack, 0)) return EINVAL;
  return 0;
}

/** Kernel: `copy_mm()`. */
function copyMm(flags: number): MmPtr | Errno {
  const { mm } = TaskStruct.at(current());
  if ((flags & CLONE_VM) === 0) return dupMm(mm);
  mmget(mm);
  return mm;
}

/** Kernel: `copy_files()`. @returns false: no memory. */
function copyFiles(child: TaskStruct, flags: number): boolean {
  const { files } = TaskStruct.at(current());
  if ((flags & CLONE_FILES) !== 0) {
    getFiles(files);
    child.files = files;
    return true;
  }
  const copy = dupFiles(files);
  child.files = copy;
  return copy !== NULL;
}

function addTo(object: VirtAddr, offset: number): void {
  cpu.rmw("add", addVirt(object, offset), 4, 1);
}

/** Kernel: `copy_sighand()`, `copy_signal()`. @returns false: no memory. */
function copySignals(child: TaskStruct, flags: number): boolean {
  const parent = TaskStruct.at(current());
  if ((flags & CLONE_THREAD) !== 0) {
    addTo(parent.sighand, SighandStruct.offset.count);
    addTo(parent.signal, SignalStruct.offset.count);
    child.sighand = parent.sighand;
    child.signal = parent.signal;
    return true;
  }
  if (!giveSignals(child)) return false;
  const { exe } = SignalStruct.at(parent.signal);
  if (exe !== NULL) ihold(exe);
  SignalStruct.at(child.signal).exe = exe;
  const actions = SighandStruct.offset.actions;
  if ((flags & CLONE_SIGHAND) !== 0) {
    kfree(child.sighand);
    addTo(parent.sighand, SighandStruct.offset.count);
    child.sighand = parent.sighand;
  } else cpu.copy(addVirt(child.sighand, actions), addVirt(parent.sighand, actions), SighandStruct.bytes - actions);
  return true;
}

/** Registers and the user's segment bases: the child returns 0 from the same call (kernel: `copy_thread()`). */
function copyThread(pointer: Ptr<"task_struct">, args: CloneArgs): void {
  const parent = TaskStruct.at(current());
  const child = TaskStruct.at(pointer);
  cpu.copy(taskPtRegs(pointer), taskPtRegs(current()), PtRegs.bytes);
  const regs = PtRegs.at(taskPtRegs(pointer));
  regs.rax = 0;
  if (args.stack !== 0) regs.rsp = args.stack;
  child.thread.fsbase = (args.flags & CLONE_SETTLS) !== 0 ? args.tls : parent.thread.fsbase;
  child.thread.gsbase = parent.thread.gsbase;
  // The parent runs: its vector registers and data segments are in the CPU.
  cpu.callStub(STUB_SAVE_FPREGS, child.thread.fpu.xmm);
  cpu.callStub(STUB_SAVE_DATA_SEGMENTS, child.address);
}

/** What a child has of its parent without sharing it. */
function copyScalars(child: TaskStruct, args: CloneArgs): void {
  const parent = TaskStruct.at(current());
  child.cpusAllowed = parent.cpusAllowed;
  child.blockedLow = parent.blockedLow;
  child.blockedHigh = parent.blockedHigh;
  // An alternate stack belongs to one thread of an address space; a vfork() child runs alone on it.
  if ((args.flags & (CLONE_VM | CLONE_VFORK)) !== CLONE_VM) {
    child.sasSp = parent.sasSp;
    child.sasBytes = parent.sasBytes;
    child.sasFlags = parent.sasFlags;
  }
  if ((args.flags & CLONE_CHILD_SETTID) !== 0) child.setChildTid = args.childTid;
  if ((args.flags & CLONE_CHILD_CLEARTID) !== 0) child.clearChildTid = args.childTid;
}

/** Gives back the signals of a child that comes to nothing. */
function dropSignals(child: TaskStruct): void {
  const { signal, sighand } = child;
  if (cpu.rmw("add", addVirt(sighand, SighandStruct.offset.count), 4, 0xffffffff) === 1) kfree(sighand);
  if (cpu.rmw("add", addVirt(signal, SignalStruct.offset.count), 4, 0xffffffff) !== 1) return;
  const { exe } = SignalStruct.at(signal);
  if (exe !== NULL) cpu.rmw("add", addVirt(exe, 4), 4, 0xffffffff);
  kfree(signal);
}

/** A child that is whole but not known to anybody (kernel: `copy_process()`). @returns ENOMEM; EINVAL. */
function copyProcess(args: CloneArgs): Ptr<"task_struct"> | Errno {
  const invalid = checkFlags(args);
  if (invalid !== 0) return invalid;
  const pointer = createTask(taskComm(current()));
  if (isErr(pointer)) return pointer;
  const child = TaskStruct.at(pointer);
  if (!copyFiles(child, args.flags)) {
    discardTask(pointer);
    return ENOMEM;
  }
  if (!copySignals(child, args.flags)) {
    putFiles(child.files);
    discardTask(pointer);
    return ENOMEM;
  }
  const mm = copyMm(args.flags);
  if (isErr(mm)) {
    dropSignals(child);
    putFiles(child.files);
    discardTask(pointer);
    return mm;
  }
  child.mm = mm;
  child.activeMm = mm;
  copyThread(pointer, args);
  copyScalars(child, args);
  return pointer;
}

/** Puts the child where it belongs in the family. Under tasklist_lock. @returns false: the process is ending. */
function joinFamily(pointer: Ptr<"task_struct">, args: CloneArgs): boolean {
  const child = TaskStruct.at(pointer);
  const parent = TaskStruct.at(current());
  const shared = SignalStruct.at(parent.signal);
  if (shared.isGroupExit !== 0) return false;
  if ((args.flags & CLONE_THREAD) !== 0) {
    child.groupLeader = parent.groupLeader;
    child.realParent = parent.realParent;
    child.exitSignal = -1;
    shared.nrThreads += 1;
  } else {
    child.groupLeader = pointer;
    child.realParent = (args.flags & CLONE_PARENT) !== 0 ? parent.realParent : parent.groupLeader;
    child.exitSignal = args.exitSignal;
  }
  if ((args.flags & CLONE_VFORK) !== 0) child.vforkParent = current();
  attachTask(pointer);
  return true;
}

/**
 * Makes a process or thread like the running one and starts it (kernel: `kernel_clone()`). The last act of a system call: with CLONE_VFORK
 * the result comes after a sleep. @returns its pid; EAGAIN: the process is ending; EINVAL; ENOMEM; SLEEP.
 */
export function kernelClone(args: CloneArgs): number {
  const pointer = copyProcess(args);
  if (isErr(pointer)) return pointer;
  tasklistLock();
  const isAttached = joinFamily(pointer, args);
  tasklistUnlock();
  const child = TaskStruct.at(pointer);
  if (!isAttached) {
    const { mm } = child;
    dropSignals(child);
    putFiles(child.files);
    discardTask(pointer);
    mmput(mm);
    return EAGAIN;
  }
  const { pid } = child;
  trace(TRACE_PROCESS_FORK, TaskStruct.at(current()).pid, pid);
  if ((args.flags & CLONE_PARENT_SETTID) !== 0) giveUserBytes(args.parentTid, 4, (buffer) => cpu.store(buffer, 4, pid));
  const flags = localIrqSave();
  activateOn(pointer, selectCpu(child.cpusAllowed));
  localIrqRestore(flags);
  if ((args.flags & CLONE_VFORK) === 0) return pid;
  const parent = TaskStruct.at(current());
  parent.resume = RESUME_VFORK;
  parent.waitResult = pid;
  return vforkWait();
}

/** First act of a new user task: tells its pid where it was asked to (kernel: `schedule_tail()`). */
export function announceChild(): void {
  const task = TaskStruct.at(current());
  const { setChildTid } = task;
  if (setChildTid === 0) return;
  task.setChildTid = 0;
  const { pid } = task;
  giveUserBytes(setChildTid, 4, (buffer) => cpu.store(buffer, 4, pid));
}
