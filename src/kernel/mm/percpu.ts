// The per-CPU areas: one unit for each CPU in the direct map, holding the static variables and, behind them, those that are allocated
// at run time, at the same offset in every unit. All of it is nonsensitive (spec 2.14).
import { addVirt, assert, cpu, PER_CPU_STATIC_BYTES, type VirtAddr } from "../../hardware/index.ts";
import { spinLockIrqsave, spinUnlockIrqrestore } from "../spinlock.ts";
import { shouldFailAlloc } from "./fail-alloc.ts";
import { NR_CPUS, va } from "./layout.ts";
import { memblockAlloc } from "./memblock.ts";
import { allocFromChunks, findRoom, freeToChunks, objectGranules, releaseGranules, takeGranules } from "./percpu-chunk.ts";
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

/** Kernel: `set_cpu_online(id, false)`. */
export function setCpuOffline(id: number): void {
  cpu.rmw("and", cpuOnlineMask, 4, ~(1 << id) >>> 0);
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
 * Zeroed memory of `bytes` bytes in every CPU's area, in the boot chunk or behind it (kernel: `alloc_percpu()`). May block. @returns its
 * offset from `perCpuBase`, or 0 when there is no memory. Aligned to a cache line; at most one unit.
 */
export function allocPercpu(bytes: number): number {
  if (shouldFailAlloc()) return 0;
  const areas = PerCpuAreas.at(perCpuAreas);
  const granules = Math.ceil(bytes / PERCPU_GRANULE_BYTES);
  const flags = spinLockIrqsave(areas.lock);
  const first = findRoom(areas, PERCPU_GRANULES, granules);
  if (first >= 0) takeGranules(areas, first, granules);
  spinUnlockIrqrestore(areas.lock, flags);
  const offset = first < 0 ? allocFromChunks(granules) : PER_CPU_STATIC_BYTES + first * PERCPU_GRANULE_BYTES;
  if (offset !== 0 && cpu.isLive) cpu.observer.allocated?.("percpu", offset as VirtAddr, bytes);
  return offset;
}

/** Gives back what `allocPercpu` gave, cleared on every CPU (kernel: `free_percpu()`). May block. 0 is fine. */
export function freePercpu(offset: number): void {
  if (offset === 0) return;
  const areas = PerCpuAreas.at(perCpuAreas);
  const { count } = areas;
  // Cleared while it is still its owner's: from the moment it is free it may be given out.
  const clear = (bytes: number): void => {
    for (let id = 0; id < count; id++) cpu.fill(addVirt(areas.base.get(id), offset), 0, bytes);
    if (cpu.isLive) cpu.observer.freed?.("percpu", offset as VirtAddr, bytes);
  };
  const isFreed = offset > 0 && offset < PERCPU_UNIT_BYTES ? freeToBootChunk(offset, clear) : freeToChunks(offset, clear);
  assert(isFreed, () => `free_percpu() of offset ${offset}, which is not allocated`);
}

function freeToBootChunk(offset: number, clear: (bytes: number) => void): boolean {
  const areas = PerCpuAreas.at(perCpuAreas);
  const first = (offset - PER_CPU_STATIC_BYTES) / PERCPU_GRANULE_BYTES;
  const flags = spinLockIrqsave(areas.lock);
  const granules = objectGranules(areas, first);
  if (granules > 0) {
    clear(granules * PERCPU_GRANULE_BYTES);
    releaseGranules(areas, first, granules);
  }
  spinUnlockIrqrestore(areas.lock, flags);
  return granules > 0;
}
