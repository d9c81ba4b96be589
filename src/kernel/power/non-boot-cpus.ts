// Taking CPUs offline and back (kernel: kernel/cpu.c). What makes Linux stop the machine for an instant is met here by freezing processes:
// nobody is woken, placed or moved while a CPU goes.
import { EBUSY, EINVAL, EPERM, type Errno } from "../../abi/index.ts";
import { cpu, NULL, type Ptr, u32 } from "../../hardware/index.ts";
import { startCpu } from "../boot/start-cpu.ts";
import { cpuBootable } from "../mitigations/smt.ts";
import { mmdrop, mmgrab } from "../mm/mm.ts";
import { initMm } from "../mm/mm-struct.ts";
import { nrCpuIds, onlineCpus, perCpuBase } from "../mm/percpu.ts";
import { currentTask } from "../sched/current.ts";
import { addSleeper, enqueueTask, pickNextTask, removeSleeper, runQueueAt } from "../sched/run-queue.ts";
import { thisRq } from "../sched/schedule.ts";
import { allTasks } from "../sched/task.ts";
import { PF_IDLE, TaskStruct } from "../sched/task-struct.ts";
import { programTimer } from "../sched/tick.ts";
import { reschedule } from "../sched/wake-up.ts";
import { localIrqRestore, localIrqSave, spinLock, spinUnlock } from "../spinlock.ts";
import { staticBytes } from "../static-data.ts";
import { freezeProcesses, thawProcesses } from "./freezer.ts";
import { setDyingCpu, takeBorrowedMm } from "./play-dead.ts";

/** CPUs that were taken offline for a sleep (kernel: frozen_cpus). */
const frozenCpus = staticBytes("frozen_cpus", 4, 4);

/** Takes one task from CPU `from`: runnable, or asleep until a time. @returns NULL: none is left. */
function takeTask(from: number): Ptr<"task_struct"> {
  const rq = runQueueAt(perCpuBase(from));
  spinLock(rq.lock);
  let task = pickNextTask(rq);
  if (task === NULL) {
    task = rq.sleepers;
    if (task !== NULL) removeSleeper(rq, task);
  }
  spinUnlock(rq.lock);
  return task;
}

/** Moves everything that is to run on CPU `from` to this one (kernel: `sched_cpu_dying()`, `migrate_tasks()`, `hrtimers_cpu_dying()`). */
function moveTasks(from: number): void {
  const flags = localIrqSave();
  for (let task = takeTask(from); task !== NULL; task = takeTask(from)) {
    const view = TaskStruct.at(task);
    view.cpu = cpu.id;
    const rq = thisRq();
    spinLock(rq.lock);
    if (view.wakeTime !== 0) addSleeper(rq, task);
    else enqueueTask(rq, task);
    spinUnlock(rq.lock);
  }
  // Who sleeps until somebody wakes it is on no list.
  for (const task of allTasks()) {
    const view = TaskStruct.at(task);
    if (view.cpu === from && (view.flags & PF_IDLE) === 0 && !isRunning(from, task)) view.cpu = cpu.id;
  }
  programTimer(thisRq());
  localIrqRestore(flags);
}

function isRunning(on: number, task: Ptr<"task_struct">): boolean {
  return cpu.loadWord(currentTask.at(perCpuBase(on))) === task;
}

/** Takes CPU `id` offline. Processes are frozen. */
function takeCpuDown(id: number): void {
  setDyingCpu(id);
  while ((onlineCpus() & (1 << id)) !== 0) {
    moveTasks(id);
    reschedule(id);
    cpu.pause();
  }
  setDyingCpu(undefined);
  const borrowed = takeBorrowedMm();
  mmgrab(initMm);
  if (borrowed !== NULL) mmdrop(borrowed);
}

/** Takes all CPUs but this one offline, processes being frozen (kernel: `freeze_secondary_cpus()`). @returns 0. */
export function suspendSecondaryCpus(): 0 | Errno {
  const mask = (onlineCpus() & ~(1 << cpu.id)) >>> 0;
  for (let id = 31; id >= 0; id--) if ((mask & (1 << id)) !== 0) takeCpuDown(id);
  u32.set(frozenCpus, mask);
  return 0;
}

/** Kernel: `thaw_secondary_cpus()`. */
export function resumeSecondaryCpus(): void {
  const mask = u32.get(frozenCpus);
  u32.set(frozenCpus, 0);
  for (let id = 0; id < 32; id++) if ((mask & (1 << id)) !== 0) startCpu(id);
}

/** Takes CPU `id` offline (kernel: `cpu_down()`). Process context, on another CPU. @returns 0; EINVAL: no such CPU is online; EBUSY. */
export function cpuDown(id: number): 0 | Errno {
  if (id < 0 || id >= nrCpuIds() || (onlineCpus() & (1 << id)) === 0) return EINVAL;
  if (id === cpu.id) return EBUSY;
  const error = freezeProcesses();
  if (error !== 0) return error;
  takeCpuDown(id);
  thawProcesses();
  return 0;
}

/** Brings CPU `id` back (kernel: `cpu_up()`). Process context. @returns 0; EINVAL; EPERM: a sibling, and SMT is off. */
export function cpuUp(id: number): 0 | Errno {
  if (id < 0 || id >= nrCpuIds() || (onlineCpus() & (1 << id)) !== 0) return EINVAL;
  if (!cpuBootable(id)) return EPERM;
  startCpu(id);
  return 0;
}
