// Making tasks and burying them. A new task has a kernel stack that looks as if it had called __switch_to_asm, so that the first switch
// to it returns into ret_from_fork.

import { ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, pointer, STUB_RETURN, word } from "../../hardware/index.ts";
import { asiInitThreadState } from "../asi/asi-intr.ts";
import { initStack } from "../boot/boot-stubs.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { INACTIVE_FRAME_REGISTERS } from "../entry/switch-stub.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { mmgrab } from "../mm/mm.ts";
import { initMm } from "../mm/mm-struct.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { vfree, vmalloc } from "../mm/vmalloc.ts";
import { spinLock, spinLockIrqsave, spinUnlock, spinUnlockIrqrestore } from "../spinlock.ts";
import { staticBytes, staticStruct } from "../static-data.ts";
import { current } from "./current.ts";
import { SighandStruct, SignalStruct } from "./signal-struct.ts";
import { PF_IDLE, PF_KTHREAD, TASK_COMM_LEN, TASK_RUNNING, TaskStruct, THREAD_SIZE } from "./task-struct.ts";

/** The boot CPU's idle task (kernel: init_task). */
export const initTask: Ptr<"task_struct"> = staticStruct("init_task", TaskStruct);
const lastPid = staticBytes("last_pid", 8, 8);
/** Kernel threads ever made. Their pids lie beyond those of processes, so that the processes of a run count from 1. */
const lastKthread = staticBytes("last_kthread", 8, 8);
/** Kernel: PID_MAX_LIMIT. */
const PID_MAX_LIMIT = 0x400000;
/** Kernel: tasklist_lock, and every siglock. */
const tasklist = staticBytes("tasklist_lock", 4, 4);
/** Dead tasks whose memory is still there: freeing a stack waits for other CPUs, which a task switch cannot. */
const deadTasks = staticBytes("dead_tasks", 8, 8);
const deadTasksLock = staticBytes("dead_tasks_lock", 4, 4);
const taskPointer = pointer("task_struct");

/** Takes the lock of the list of tasks, of families and of signals. Process context; nothing that waits for other CPUs happens under it. */
export function tasklistLock(): void {
  spinLock(tasklist);
}

/** Gives it back. */
export function tasklistUnlock(): void {
  spinUnlock(tasklist);
}

/** Sets the command name, cut to 15 characters (kernel: `__set_task_comm()`). */
export function setComm(task: Ptr<"task_struct">, name: string): void {
  const comm = TaskStruct.at(task).comm;
  for (let i = 0; i < TASK_COMM_LEN; i++) cpu.store(addVirt(comm, i), 1, i < TASK_COMM_LEN - 1 ? name.charCodeAt(i) || 0 : 0);
}

/** The command name of a task. */
export function taskComm(task: Ptr<"task_struct">): string {
  const comm = TaskStruct.at(task).comm;
  let name = "";
  for (let i = 0; i < TASK_COMM_LEN; i++) {
    const code = cpu.load(addVirt(comm, i), 1);
    if (code === 0) break;
    name += String.fromCharCode(code);
  }
  return name;
}

/** The idle task of the boot CPU: it runs already, on the image's stack. */
export function initBootTask(): void {
  const task = TaskStruct.at(initTask);
  task.stack = initStack;
  task.flags = PF_IDLE | PF_KTHREAD;
  task.state = TASK_RUNNING;
  borrowInitMm(task);
  setComm(initTask, "swapper/0");
}

/** Tables for a task without an mm of its own, until its first switch. */
function borrowInitMm(task: TaskStruct): void {
  mmgrab(initMm);
  task.activeMm = initMm;
}

/** An idle task for another CPU (kernel: `fork_idle()`). */
export function forkIdle(cpuNumber: number): Ptr<"task_struct"> | Errno {
  const created = allocTask(`swapper/${cpuNumber}`);
  if (created < 0 && created >= -4095) return created;
  const task = TaskStruct.at(created as Ptr<"task_struct">); // not an error
  task.flags = PF_IDLE | PF_KTHREAD;
  task.cpu = cpuNumber;
  borrowInitMm(task);
  return created;
}

function allocTask(name: string): Ptr<"task_struct"> | Errno {
  const address = kzalloc(TaskStruct.bytes, GFP_KERNEL);
  if (address === 0) return ENOMEM;
  const stack = vmalloc(THREAD_SIZE);
  if (stack === 0) {
    kfree(address);
    return ENOMEM;
  }
  const created = address as Ptr<"task_struct">; // just allocated
  TaskStruct.at(created).stack = stack;
  setComm(created, name);
  return created;
}

/**
 * A user task of its own process that is not started yet and that nobody finds (kernel: the beginning of `copy_process()`): `registers`
 * are set by the caller at taskPtRegs(), `attachTask` makes it known. Signals, actions and descriptors are the caller's to give.
 * @returns ENOMEM.
 */
export function createTask(name: string): Ptr<"task_struct"> | Errno {
  reapDeadTasks();
  const created = allocTask(name);
  if (created < 0 && created >= -4095) return created;
  const pointer = created as Ptr<"task_struct">; // not an error
  const task = TaskStruct.at(pointer);
  task.usage = 2;
  task.groupLeader = pointer;
  task.realParent = initTask;
  asiInitThreadState(task);
  prepareFirstSwitch(pointer);
  return pointer;
}

/** Gives back a task that was never attached: with it goes nothing that the caller gave it. */
export function discardTask(task: Ptr<"task_struct">): void {
  cpu.forgetPath(task);
  vfree(TaskStruct.at(task).stack);
  kfree(task);
}

/** Gives a kernel thread a pid and puts it in the list of all. Under tasklist_lock. */
export function attachKernelThread(pointer: Ptr<"task_struct">): void {
  const task = TaskStruct.at(pointer);
  const made = word.get(lastKthread) + 1;
  word.set(lastKthread, made);
  task.pid = PID_MAX_LIMIT + made;
  task.tgid = task.pid;
  linkTask(pointer);
}

/** Gives the task a pid and puts it in the list of all. Under tasklist_lock. */
export function attachTask(pointer: Ptr<"task_struct">): void {
  const task = TaskStruct.at(pointer);
  task.pid = word.get(lastPid) + 1;
  word.set(lastPid, task.pid);
  task.tgid = task.groupLeader === pointer ? task.pid : TaskStruct.at(task.groupLeader).tgid;
  linkTask(pointer);
}

function linkTask(pointer: Ptr<"task_struct">): void {
  const task = TaskStruct.at(pointer);
  const init = TaskStruct.at(initTask);
  task.tasksNext = init.tasksNext;
  init.tasksNext = pointer;
}

/** Signals and their actions for a process of its own (kernel: `copy_signal()`, `copy_sighand()`). @returns false: no memory. */
export function giveSignals(task: TaskStruct): boolean {
  const signal = kzalloc(SignalStruct.bytes, GFP_KERNEL) as Ptr<"signal_struct">; // just allocated
  const sighand = kzalloc(SighandStruct.bytes, GFP_KERNEL) as Ptr<"sighand_struct">;
  if (signal === NULL || sighand === NULL) {
    kfree(signal);
    kfree(sighand);
    return false;
  }
  SignalStruct.at(signal).count = 1;
  SignalStruct.at(signal).nrThreads = 1;
  SighandStruct.at(sighand).count = 1;
  task.signal = signal;
  task.sighand = sighand;
  return true;
}

/** Fills the stack of a task that has never run. */
function prepareFirstSwitch(task: Ptr<"task_struct">): void {
  const regs = taskPtRegs(task);
  cpu.fill(regs, 0, PtRegs.bytes);
  word.set(addVirt(regs, -8), symbolAddress("ret_from_fork"));
  word.set(addVirt(regs, -16), symbolAddress(STUB_RETURN));
  const frame = addVirt(regs, -16 - 8 * INACTIVE_FRAME_REGISTERS);
  cpu.fill(frame, 0, 8 * INACTIVE_FRAME_REGISTERS);
  TaskStruct.at(task).thread.sp = frame;
}

/** Drops a reference to a task; with the last it waits for reapDeadTasks() (kernel: `put_task_struct()`). Any context but NMI. */
export function putTask(task: Ptr<"task_struct">): void {
  if (cpu.rmw("add", addVirt(task, TaskStruct.offset.usage), 4, 0xffffffff) !== 1) return;
  const flags = spinLockIrqsave(deadTasksLock);
  TaskStruct.at(task).tasksNext = taskPointer.get(deadTasks);
  taskPointer.set(deadTasks, task);
  spinUnlockIrqrestore(deadTasksLock, flags);
}

/** Frees the dead (kernel: `delayed_put_task_struct()`). Process context or idle, interrupts on. */
export function reapDeadTasks(): void {
  if (taskPointer.get(deadTasks) === NULL) return;
  const flags = spinLockIrqsave(deadTasksLock);
  let task = taskPointer.get(deadTasks);
  taskPointer.set(deadTasks, NULL);
  spinUnlockIrqrestore(deadTasksLock, flags);
  while (task !== NULL) {
    const { tasksNext, stack } = TaskStruct.at(task);
    cpu.forgetPath(task);
    vfree(stack);
    kfree(task);
    task = tasksNext;
  }
}

/** Takes a task out of the list of all (kernel: `__unhash_process()`). Under tasklist_lock. */
export function unlinkTask(task: Ptr<"task_struct">): void {
  let at = initTask;
  while (at !== NULL) {
    const view = TaskStruct.at(at);
    const next = view.tasksNext;
    if (next === task) {
      view.tasksNext = TaskStruct.at(task).tasksNext;
      return;
    }
    at = next;
  }
}

/** Tasks that are not released yet, the newest first. Under tasklist_lock; without it for reports and tests. */
export function allTasks(): readonly Ptr<"task_struct">[] {
  const tasks: Ptr<"task_struct">[] = [];
  for (let task = TaskStruct.at(initTask).tasksNext; task !== NULL; task = TaskStruct.at(task).tasksNext) tasks.push(task);
  return tasks;
}

/** Threads of a process, the leader too (kernel: `for_each_thread()`). Under tasklist_lock. */
export function allThreads(leader: Ptr<"task_struct">): readonly Ptr<"task_struct">[] {
  return allTasks().filter((task) => TaskStruct.at(task).groupLeader === leader);
}

/** Task of a pid, or NULL (kernel: `find_task_by_vpid()`). Under tasklist_lock. */
export function findTask(pid: number): Ptr<"task_struct"> {
  for (let task = TaskStruct.at(initTask).tasksNext; task !== NULL; task = TaskStruct.at(task).tasksNext) {
    if (TaskStruct.at(task).pid === pid) return task;
  }
  return NULL;
}

/** Pid of the running task. */
export function currentPid(): number {
  return TaskStruct.at(current()).pid;
}
