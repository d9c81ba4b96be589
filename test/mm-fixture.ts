// Memory management alone, for its tests: the early part of start_kernel() on one CPU of the bare abstract machine, interrupts off. There
// is no IDT: an access that faults fails the test.
import { cpu, type Observer, silentObserver } from "../src/hardware/index.ts";
import { asiGlobalInit, asiGlobalInitPgd } from "../src/kernel/asi/asi-global.ts";
import { asiFeature } from "../src/kernel/asi/asi-state.ts";
import { ptiFeature } from "../src/kernel/mitigations/feature-keys.ts";
import { mmCoreInit, setupArchMemory } from "../src/kernel/mm/boot-memory.ts";
import { ldtStubs } from "../src/kernel/mm/ldt-stubs.ts";
import { perCpuBase, setCpuOnline, setupPerCpuAreas } from "../src/kernel/mm/percpu.ts";
import { initializeTlbstateAndFlush } from "../src/kernel/mm/tlb.ts";
import { uaccessStubs } from "../src/kernel/mm/uaccess.ts";
import { currentTask } from "../src/kernel/sched/current.ts";
import { initBootTask, initTask } from "../src/kernel/sched/task.ts";
import { onBareMachine, type ResidueMachine } from "../src/residue/index.ts";

export interface MmFixtureOptions {
  readonly memoryBytes?: number;
  readonly asi?: boolean;
  readonly pti?: boolean;
  readonly observer?: Observer;
}

/** Boots the kernel's memory on one CPU and runs `body` there as kernel code. */
export function withMm<T>(body: (machine: ResidueMachine) => T, options: MmFixtureOptions = {}): T {
  const { memoryBytes = 64 * 2 ** 20, asi = false, pti = false, observer = silentObserver } = options;
  return onBareMachine({ memoryBytes, observer, stubs: [...uaccessStubs, ...ldtStubs] }, (machine) => {
    asiFeature.set(asi ? 1 : 0);
    ptiFeature.set(pti ? 1 : 0);
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
