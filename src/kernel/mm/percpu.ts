// The per-CPU areas: one unit for each CPU in the direct map, holding the static variables and, behind them, those that are allocated
// at run time, at the same offset in every unit. All of it is nonsensitive (spec 2.14).
import { addVirt, assert, cpu, PER_CPU_STATIC_BYTES, type VirtAddr } from "../../hardware/index.ts";
import { spinLockIrqsave, spinUnlockIrqrestore } from "../spinlock.ts";
import { shouldFailAlloc } from "./fail-alloc.ts";
import { NR_CPUS, va } from "./layout.ts";
import { memblockAlloc } from "./memblock.ts";
import { cpuOnlineMask, PERCPU_GRANULE_BYTES, PERCPU_GRANULES, PERCPU_UNIT_BYTES, PerCpuAreas, perCpuAreas } from "./percpu-struct.ts";

/** Makes the areas of `cpus` CPUs (kernel: `setup_per_cpu_areas()`). */
export function setupPerCpuAreas(cpus: number): void {
  assert(cpus >= 1 && cpus <= NR_CPUS, () => `the kernel runs 1 to ${NR_CPUS} CPUs, not ${cpus}`);
  const areas = PerCpuAreas.at(perCpuAreas);
  areas.count = cpus;
  const first = va(memblockAlloc(cpus * PERCPU_UNIT_BYTES, PERCPU_UNIT_BYTES));
  for (let i = 0; i < cpus; i++) areas.base.set(i, addVirt(first, i * PERCPU_UNIT_BYTES));
}

/** Base of the area of CPU `id`: what its GS base holds (kernel: `per_cpu_offset()`). */
export function perCpuBase(id: number): VirtAddr {
  return PerCpuAreas.at(perCpuAreas).base.get(id);
}

/** CPUs that have an area (kernel: nr_cpu_ids). */
export function nrCpuIds(): number {
  return PerCpuAreas.at(perCpuAreas).count;
}

/** Kernel: `set_cpu_online()`. */
export function setCpuOnline(id: number): void {
  cpu.rmw("or", cpuOnlineMask, 4, (1 << id) >>> 0);
}

/** One bit per CPU that runs (kernel: cpu_online_mask). */
export function onlineCpus(): number {
  return cpu.load(cpuOnlineMask, 4);
}

/**
 * Zeroed memory of `bytes` bytes in every CPU's area (kernel: `alloc_percpu()`). @returns its offset from `perCpuBase`, or 0 when there
 * is no room. Aligned to a cache line.
 */
export function allocPercpu(bytes: number): number {
  if (shouldFailAlloc()) return 0;
  const areas = PerCpuAreas.at(perCpuAreas);
  const granules = Math.ceil(bytes / PERCPU_GRANULE_BYTES);
  const flags = spinLockIrqsave(areas.lock);
  const first = findRoom(granules);
  if (first >= 0) {
    for (let i = first; i < first + granules; i++) areas.used.set(i >>> 5, areas.used.get(i >>> 5) | (1 << (i & 31)));
    const last = first + granules - 1;
    areas.last.set(last >>> 5, areas.last.get(last >>> 5) | (1 << (last & 31)));
  }
  spinUnlockIrqrestore(areas.lock, flags);
  return first < 0 ? 0 : PER_CPU_STATIC_BYTES + first * PERCPU_GRANULE_BYTES;
}

/** Gives back what `allocPercpu` gave, cleared on every CPU (kernel: `free_percpu()`). */
export function freePercpu(offset: number): void {
  const areas = PerCpuAreas.at(perCpuAreas);
  const first = (offset - PER_CPU_STATIC_BYTES) / PERCPU_GRANULE_BYTES;
  const flags = spinLockIrqsave(areas.lock);
  let end = first;
  for (let isLast = false; !isLast; end++) {
    const bit = 1 << (end & 31);
    const used = areas.used.get(end >>> 5);
    assert((used & bit) !== 0, () => `free_percpu() of offset ${offset}, which is not allocated`);
    isLast = (areas.last.get(end >>> 5) & bit) !== 0;
    areas.used.set(end >>> 5, used & ~bit);
    areas.last.set(end >>> 5, areas.last.get(end >>> 5) & ~bit);
  }
  const { count } = areas;
  for (let id = 0; id < count; id++) cpu.fill(addVirt(areas.base.get(id), offset), 0, (end - first) * PERCPU_GRANULE_BYTES);
  spinUnlockIrqrestore(areas.lock, flags);
}

/** First of `granules` free granules in a row, or -1. Under the lock. */
function findRoom(granules: number): number {
  const { used } = PerCpuAreas.at(perCpuAreas);
  let run = 0;
  let bits = 0;
  for (let i = 0; i < PERCPU_GRANULES; i++) {
    if ((i & 31) === 0) bits = used.get(i >>> 5);
    run = (bits & (1 << (i & 31))) === 0 ? run + 1 : 0;
    if (run === granules) return i - granules + 1;
  }
  return -1;
}
