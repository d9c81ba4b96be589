// Kernel threads (kernel/kthread.c): tasks without user code or an address space of their own; they borrow what is loaded. A thread runs a
// function that was declared when the kernel was built, for a task keeps bytes: the function's number. It is not preempted: what takes long
// calls schedule(), and a loop that waits is a cut point, like the idle task's.
import { EINTR, type Errno, isErr } from "../../abi/index.ts";
import { cpu, fail, type Ptr } from "../../hardware/index.ts";
import { staticStruct } from "../static-data.ts";
import { current } from "./current.ts";
import { finishTaskSwitch, schedule } from "./schedule.ts";
import { selectCpu } from "./select-cpu.ts";
import { attachKernelThread, createTask, putTask, tasklistLock, tasklistUnlock, unlinkTask } from "./task.ts";
import { EXIT_DEAD, PF_EXITING, PF_KTHREAD, TASK_DEAD, TASK_UNINTERRUPTIBLE, TaskStruct } from "./task-struct.ts";
import { waitEvent, wakeUp } from "./wait-queue.ts";
import { WaitQueueHead } from "./wait-queue-struct.ts";
import { wakeUpProcess } from "./wake-up.ts";

/** What a kernel thread does with its data; its result is the thread's. */
type ThreadFunction = (data: number) => number;

/** Number of a declared function. */
export type KthreadFunction = number & { readonly __brand: "KthreadFunction" };

const functions: ThreadFunction[] = [];
const ALL_CPUS = 0xffffffff;
/** Where kthreadStop() waits, for any thread: that it ends is rare. */
const exited = staticStruct("kthread_exited", WaitQueueHead);

/** Declares what a thread can run. When the kernel is built: never while it runs. */
export function kthreadFunction(run: ThreadFunction): KthreadFunction {
  functions.push(run);
  return (functions.length - 1) as KthreadFunction; // the one place that makes them
}

/** A thread that is asleep until it is woken for the first time (kernel: `kthread_create()`). Process context. @returns ENOMEM. */
export function kthreadCreate(run: KthreadFunction, data: number, name: string): Ptr<"task_struct"> | Errno {
  const pointer = createTask(name);
  if (isErr(pointer)) return pointer;
  const task = TaskStruct.at(pointer);
  task.flags = PF_KTHREAD;
  task.kthread = run;
  task.kthreadData = data;
  task.cpusAllowed = ALL_CPUS;
  task.cpu = selectCpu(ALL_CPUS);
  task.state = TASK_UNINTERRUPTIBLE;
  tasklistLock();
  attachKernelThread(pointer);
  tasklistUnlock();
  return pointer;
}

/** Kernel: `kthread_run()`. @returns ENOMEM. */
export function kthreadRun(run: KthreadFunction, data: number, name: string): Ptr<"task_struct"> | Errno {
  const pointer = kthreadCreate(run, data, name);
  if (!isErr(pointer)) wakeUpProcess(pointer);
  return pointer;
}

/** Asks the thread to end, waits until it has, and releases it (kernel: `kthread_stop()`). Process context, no lock. @returns its result. */
export function kthreadStop(pointer: Ptr<"task_struct">): number {
  const task = TaskStruct.at(pointer);
  task.kthreadShouldStop = 1;
  wakeUpProcess(pointer);
  waitEvent(exited, () => task.exitState !== 0);
  const result = task.exitCode;
  putTask(pointer);
  return result;
}

/** The running thread was asked to end (kernel: `kthread_should_stop()`). After the state in which it would sleep was set. */
export function kthreadShouldStop(): boolean {
  return TaskStruct.at(current()).kthreadShouldStop !== 0;
}

/** Ends the running thread (kernel: `kthread_exit()`). Whoever made it still has to call kthreadStop(), else its memory stays. */
export function kthreadExit(result: number): never {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  task.flags |= PF_EXITING;
  task.exitCode = result;
  tasklistLock();
  unlinkTask(pointer);
  task.exitState = EXIT_DEAD;
  tasklistUnlock();
  wakeUp(exited);
  task.state = TASK_DEAD;
  schedule();
  return fail("a dead kernel thread runs");
}

/** First code of a kernel thread (kernel: `ret_from_fork()`, `kthread()`). Interrupts are off, the run queue's lock is held. */
export function kthreadMain(): void {
  finishTaskSwitch();
  cpu.enableInterrupts();
  const task = TaskStruct.at(current());
  const { kthread } = task;
  const run = functions[kthread] ?? fail(`kernel thread with function ${kthread}`);
  kthreadExit(kthreadShouldStop() ? EINTR : run(task.kthreadData));
}
