// Memory management alone, for its tests: the early part of start_kernel() on one CPU of the bare abstract machine, interrupts off. There
// is no IDT: an access that faults fails the test. Only tests import it.
import { cpu, type Observer, silentObserver } from "../../hardware/index.ts";
import { onBareMachine, type ResidueMachine } from "../../residue/index.ts";
import { asiGlobalInit, asiGlobalInitPgd } from "../asi/asi-global.ts";
import { asiFeature } from "../asi/asi-state.ts";
import { currentTask } from "../sched/current.ts";
import { initBootTask, initTask } from "../sched/task.ts";
import { mmCoreInit, setupArchMemory } from "./boot-memory.ts";
import { perCpuBase, setCpuOnline, setupPerCpuAreas } from "./percpu.ts";
import { initializeTlbstateAndFlush } from "./tlb.ts";
import { uaccessStubs } from "./uaccess.ts";

export interface MmFixtureOptions {
  readonly memoryBytes?: number;
  readonly asi?: boolean;
  readonly observer?: Observer;
}

/** Boots the kernel's memory on one CPU and runs `body` there as kernel code. */
export function withMm<T>(body: (machine: ResidueMachine) => T, options: MmFixtureOptions = {}): T {
  const { memoryBytes = 64 * 2 ** 20, asi = false, observer = silentObserver } = options;
  return onBareMachine({ memoryBytes, observer, stubs: uaccessStubs }, (machine) => {
    asiFeature.set(asi ? 1 : 0);
    setupArchMemory();
    asiGlobalInitPgd();
    setupPerCpuAreas(1);
    cpu.perCpuBase = perCpuBase(0);
    setCpuOnline(0);
    initBootTask();
    currentTask.set(initTask);
    initializeTlbstateAndFlush();
    mmCoreInit();
    asiGlobalInit();
    return body(machine);
  });
}

/** A reproducible sequence of integers in 0..bound-1 (a linear congruential generator; Numerical Recipes' constants). */
export function randomIntegers(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}
