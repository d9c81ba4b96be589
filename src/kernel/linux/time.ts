// Clocks and sleeping (kernel/time/). Time is the TSC's: monotonic from boot, and the calendar's from a fixed instant on, so that every run
// gives the same.
import {
  CLOCK_BOOTTIME,
  CLOCK_MONOTONIC,
  CLOCK_PROCESS_CPUTIME_ID,
  CLOCK_REALTIME,
  EINTR,
  EINVAL,
  TIMER_ABSTIME,
  TIMESPEC_BYTES,
} from "../../abi/index.ts";
import { addVirt, cpu } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { TASK_INTERRUPTIBLE, TASK_RUNNING, TaskStruct } from "../sched/task-struct.ts";
import { cyclesToNanoseconds, nanosecondsToCycles } from "../sched/tick.ts";
import { ERESTARTNOHAND, SLEEP } from "./syscall-results.ts";
import { signalPending } from "./syscall-sleep.ts";
import { giveUserBytes, withUserBytes } from "./user-arguments.ts";

const NANOSECONDS = 1_000_000_000;
/** The calendar's time at boot: 2026-01-01 00:00:00 UTC, for no reason but that it is fixed. */
const REALTIME_AT_BOOT = 1_767_225_600;
/** Longer sleeps end with the simulation. Cycles stay exact. */
const FOREVER_SECONDS = 100_000;

/** A struct timespec of user memory in nanoseconds, cut to what the clock counts. @returns EFAULT; EINVAL. */
function userNanoseconds(address: number): number {
  return withUserBytes(address, TIMESPEC_BYTES, (buffer) => {
    const seconds = cpu.loadWord(buffer);
    const nanoseconds = cpu.loadWord(addVirt(buffer, 8));
    if (seconds < 0 || nanoseconds < 0 || nanoseconds >= NANOSECONDS) return EINVAL;
    return Math.min(seconds, REALTIME_AT_BOOT + FOREVER_SECONDS) * NANOSECONDS + nanoseconds;
  });
}

/** Time-stamp counter at which a timeout of user memory is over. @returns EFAULT; EINVAL. */
export function deadlineOf(timeoutAt: number, isAbsolute: boolean, isRealtime: boolean): number {
  const nanoseconds = userNanoseconds(timeoutAt);
  if (nanoseconds < 0) return nanoseconds;
  const since = isRealtime && isAbsolute ? nanoseconds - REALTIME_AT_BOOT * NANOSECONDS : nanoseconds;
  const limited = Math.max(0, Math.min(since, FOREVER_SECONDS * NANOSECONDS));
  return Math.max(1, (isAbsolute ? 0 : cpu.readTsc()) + nanosecondsToCycles(limited));
}

/** Sleeps until the task's deadline. @returns 0; SLEEP; ERESTARTNOHAND. */
function sleepOn(task: TaskStruct, deadline: number): number {
  task.state = TASK_INTERRUPTIBLE;
  const isOver = cpu.readTsc() >= deadline;
  if (isOver || signalPending()) {
    task.state = TASK_RUNNING;
    task.waitDeadline = 0;
    return isOver ? 0 : ERESTARTNOHAND;
  }
  task.waitDeadline = deadline;
  task.wakeTime = deadline;
  return SLEEP;
}

/** Kernel: `common_nsleep()`, `hrtimer_nanosleep()`. @returns 0; EINTR, with what is left at `remainingAt`; EFAULT; EINVAL. */
export function doNanosleep(clock: number, flags: number, requestAt: number, remainingAt: number): number {
  const isRealtime = clock === CLOCK_REALTIME;
  if (!isRealtime && clock !== CLOCK_MONOTONIC && clock !== CLOCK_BOOTTIME) return EINVAL;
  const task = TaskStruct.at(current());
  const isAbsolute = (flags & TIMER_ABSTIME) !== 0;
  const begun = task.waitDeadline;
  const deadline = begun !== 0 ? begun : deadlineOf(requestAt, isAbsolute, isRealtime);
  if (deadline < 0) return deadline;
  const result = sleepOn(task, deadline);
  if (result !== ERESTARTNOHAND) return result;
  // A relative sleep cannot be called again as it was: it would begin anew.
  if (isAbsolute) return ERESTARTNOHAND;
  if (remainingAt !== 0) {
    const left = Math.max(0, cyclesToNanoseconds(deadline - cpu.readTsc()));
    const error = giveTimespec(remainingAt, left);
    if (error !== 0) return error;
  }
  return EINTR;
}

function giveTimespec(address: number, nanoseconds: number, extraSeconds = 0): number {
  return giveUserBytes(address, TIMESPEC_BYTES, (buffer) => {
    cpu.storeWord(buffer, Math.floor(nanoseconds / NANOSECONDS) + extraSeconds);
    cpu.storeWord(addVirt(buffer, 8), nanoseconds % NANOSECONDS);
  });
}

/** Kernel: `clock_gettime()`. @returns 0; EINVAL; EFAULT. */
export function doClockGettime(clock: number, to: number): number {
  switch (clock) {
    case CLOCK_REALTIME:
      return giveTimespec(to, cyclesToNanoseconds(cpu.readTsc()), REALTIME_AT_BOOT);
    // No accounting of CPU time: what a process used is what has passed.
    case CLOCK_MONOTONIC:
    case CLOCK_BOOTTIME:
    case CLOCK_PROCESS_CPUTIME_ID:
      return giveTimespec(to, cyclesToNanoseconds(cpu.readTsc()));
    default:
      return EINVAL;
  }
}
