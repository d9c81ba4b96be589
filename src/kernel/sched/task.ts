// Making tasks and burying them. A new task has a kernel stack that looks as if it had called __switch_to_asm, so that the first switch
// to it returns into ret_from_fork.

import { ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, STUB_RETURN, word } from "../../hardware/index.ts";
import { asiInitThreadState } from "../asi/asi-intr.ts";
import { initStack } from "../boot/boot-stubs.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { INACTIVE_FRAME_REGISTERS } from "../entry/entry-stubs.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { mmgrab } from "../mm/mm.ts";
import { initMm, type MmPtr } from "../mm/mm-struct.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { vfree, vmalloc } from "../mm/vmalloc.ts";
import { staticBytes, staticStruct } from "../static-data.ts";
import { current } from "./current.ts";
import { PF_IDLE, PF_KTHREAD, TASK_COMM_LEN, TASK_RUNNING, TaskStruct, THREAD_SIZE } from "./task-struct.ts";

/** The boot CPU's idle task (kernel: init_task). */
export const initTask: Ptr<"task_struct"> = staticStruct("init_task", TaskStruct);
const lastPid = staticBytes("last_pid", 8, 8);
/** Dead tasks whose memory is still there: freeing a stack waits for other CPUs, which a task switch cannot. */
const deadTasks = staticBytes("dead_tasks", 8, 8);

function setComm(task: Ptr<"task_struct">, name: string): void {
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
 * A user task that is not started yet: `registers` are set by the caller at taskPtRegs() (kernel: `copy_process()`). It holds the
 * reference to `mm` that the caller passes. @returns ENOMEM.
 */
export function createUserTask(name: string, mm: MmPtr): Ptr<"task_struct"> | Errno {
  const created = allocTask(name);
  if (created < 0 && created >= -4095) return created;
  const pointer = created as Ptr<"task_struct">; // not an error
  const task = TaskStruct.at(pointer);
  task.pid = word.get(lastPid) + 1;
  word.set(lastPid, task.pid);
  task.mm = mm;
  task.activeMm = mm;
  asiInitThreadState(task);
  prepareFirstSwitch(pointer);
  const init = TaskStruct.at(initTask);
  task.tasksNext = init.tasksNext;
  init.tasksNext = pointer;
  return pointer;
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

/** A dead task no longer runs: it waits for reapDeadTasks(). Interrupts off. */
export function buryTask(task: Ptr<"task_struct">): void {
  TaskStruct.at(task).tasksNext = cpu.exchangeWord(deadTasks, task) as Ptr<"task_struct">;
}

/** Frees the dead (kernel: `delayed_put_task_struct()`). Process context or idle, interrupts on. */
export function reapDeadTasks(): void {
  if (cpu.loadWord(deadTasks) === 0) return;
  let task = cpu.exchangeWord(deadTasks, 0) as Ptr<"task_struct">;
  while (task !== NULL) {
    const { tasksNext, stack } = TaskStruct.at(task);
    vfree(stack);
    kfree(task);
    task = tasksNext;
  }
}

/** Takes a task out of the list of all (kernel: `release_task()`). */
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

/** Tasks that are alive, for reports and tests. */
export function allTasks(): readonly Ptr<"task_struct">[] {
  const tasks: Ptr<"task_struct">[] = [];
  for (let task = TaskStruct.at(initTask).tasksNext; task !== NULL; task = TaskStruct.at(task).tasksNext) tasks.push(task);
  return tasks;
}

/** Pid of the running task. */
export function currentPid(): number {
  return TaskStruct.at(current()).pid;
}
