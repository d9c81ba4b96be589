// Time: the TSC-deadline timer of each CPU, which ends time slices and wakes sleepers. An idle CPU has no tick, only wake-ups.
import { cpu, high32, LVTT_TSC_DEADLINE, low32, MSR_IA32_TSC_DEADLINE, MSR_X2APIC_LVTT, NULL, word } from "../../hardware/index.ts";
import { siblingsTick } from "../asi/siblings.ts";
import { LOCAL_TIMER_VECTOR } from "../entry/vectors.ts";
import { staticBytes } from "../static-data.ts";
import { current } from "./current.ts";
import type { RunQueue } from "./run-queue.ts";
import { thisRq, wakeSleepers } from "./schedule.ts";
import { PF_IDLE, TaskStruct } from "./task-struct.ts";

const CPUID_TSC = 0x15;
/** Where CPUID does not tell: 2.1 GHz, the base clock of the CPU models. */
const DEFAULT_TSC_KHZ = 2_100_000;
/** Ticks per second (kernel: CONFIG_HZ). */
export const HZ = 1000;

/** Kernel: tsc_khz. */
const tscKhzAddress = staticBytes("tsc_khz", 8, 8);

/** Learns the frequency of the TSC (kernel: `native_calibrate_tsc()`). */
export function calibrateTsc(): void {
  const denominator = cpu.cpuid(CPUID_TSC, 0, 0) >>> 0;
  const numerator = cpu.cpuid(CPUID_TSC, 0, 1) >>> 0;
  const crystal = cpu.cpuid(CPUID_TSC, 0, 2) >>> 0;
  const known = denominator !== 0 && crystal !== 0;
  word.set(tscKhzAddress, known ? Math.round(((crystal / 1000) * numerator) / denominator) : DEFAULT_TSC_KHZ);
}

/** TSC cycles of a number of nanoseconds. */
export function nanosecondsToCycles(nanoseconds: number): number {
  return Math.ceil((nanoseconds * word.get(tscKhzAddress)) / 1_000_000);
}

/** Whole nanoseconds of a number of TSC cycles. */
export function cyclesToNanoseconds(cycles: number): number {
  return Math.floor((cycles * 1_000_000) / word.get(tscKhzAddress));
}

/** Turns this CPU's timer on (kernel: `setup_APIC_timer()`). */
export function setupTimer(): void {
  cpu.writeMsr(MSR_X2APIC_LVTT, LVTT_TSC_DEADLINE | LOCAL_TIMER_VECTOR, 0);
}

function tickCycles(): number {
  return Math.floor((word.get(tscKhzAddress) * 1000) / HZ);
}

/**
 * A slice for the task that was just switched to; none for the idle task. A tick that is on its way already ends this slice, as it would
 * end the one before (kernel: the tick goes on over switches).
 */
export function programTick(rq: RunQueue, flags: number): void {
  const isIdle = (flags & PF_IDLE) !== 0;
  const { tick, sleepers } = rq;
  if (!isIdle && tick !== 0 && sleepers === NULL) return;
  rq.tick = isIdle ? 0 : cpu.readTsc() + tickCycles();
  programTimer(rq);
}

/** Sets the timer to the end of the slice or the next sleeper's time, whichever is first (kernel: `clockevents_program_event()`). */
export function programTimer(rq: RunQueue): void {
  const { tick, sleepers } = rq;
  const wake = sleepers === NULL ? 0 : TaskStruct.at(sleepers).wakeTime;
  const next = tick === 0 ? wake : wake === 0 ? tick : Math.min(tick, wake);
  // 0 disarms. SDM vol. 3, 12.5.4.1.
  cpu.writeMsr(MSR_IA32_TSC_DEADLINE, low32(next), high32(next));
}

/** The timer interrupt's work (kernel: `hrtimer_interrupt()`, `sched_tick()`). */
export function timerInterrupt(): void {
  siblingsTick();
  const now = cpu.readTsc();
  wakeSleepers(now);
  const rq = thisRq();
  const { tick } = rq;
  if (tick !== 0 && tick <= now) {
    if (rq.nrQueued > 0) TaskStruct.at(current()).needResched = 1;
    // From the present on: a tick that came late does not shorten the next slice.
    rq.tick = cpu.readTsc() + tickCycles();
  }
  programTimer(rq);
}
