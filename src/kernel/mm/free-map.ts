// Which blocks of each order are free: bitmaps with summaries, instead of the kernel's linked lists. They find the lowest free block in a
// few loads, and their bytes depend on nothing but the set of free blocks, so that two histories that free the same memory end in the
// same state (the explorer of the abstract machine counts on it).
//
//   order o:  level 0: one bit per block of 2^o frames, set = free;  level n+1: one bit per word of level n, set = not zero;  ... one word
import { addVirt, cpu, type VirtAddr } from "../../hardware/index.ts";

/** Largest block: 2^10 frames, 4 MiB (kernel: MAX_PAGE_ORDER). */
export const MAX_PAGE_ORDER = 10;

/** Where the words of each map stand, relative to the first: pure arithmetic on the number of frames. */
export interface FreeMapLayout {
  readonly frames: number;
  /** `level[order]`: byte offset of each level, the lowest first. */
  readonly levels: readonly (readonly number[])[];
  readonly bytes: number;
}

export function freeMapLayout(frames: number): FreeMapLayout {
  const levels: number[][] = [];
  let at = 0;
  for (let order = 0; order <= MAX_PAGE_ORDER; order++) {
    const offsets: number[] = [];
    let bits = Math.max(1, Math.floor(frames / 2 ** order));
    do {
      const words = Math.ceil(bits / 32);
      offsets.push(at);
      at += words * 4;
      bits = words;
    } while (bits > 1);
    levels.push(offsets);
  }
  return { frames, levels, bytes: at };
}

function offsets(layout: FreeMapLayout, order: number): readonly number[] {
  return layout.levels[order] ?? [];
}

function word(base: VirtAddr, levels: readonly number[], level: number, index: number): VirtAddr {
  return addVirt(base, (levels[level] ?? 0) + index * 4);
}

export function isBlockFree(base: VirtAddr, layout: FreeMapLayout, order: number, block: number): boolean {
  return (cpu.load(word(base, offsets(layout, order), 0, block >>> 5), 4) & (1 << (block & 31))) !== 0;
}

/** Marks a block free. Under the zone's lock. */
export function setBlockFree(base: VirtAddr, layout: FreeMapLayout, order: number, block: number): void {
  const levels = offsets(layout, order);
  let index = block;
  for (let level = 0; level < levels.length; level++) {
    const before = cpu.rmw("or", word(base, levels, level, index >>> 5), 4, (1 << (index & 31)) >>> 0);
    if (before !== 0) return; // the summaries know it already
    index >>>= 5;
  }
}

/** Marks a block not free. Under the zone's lock. */
export function clearBlockFree(base: VirtAddr, layout: FreeMapLayout, order: number, block: number): void {
  const levels = offsets(layout, order);
  let index = block;
  for (let level = 0; level < levels.length; level++) {
    const bit = 1 << (index & 31);
    const before = cpu.rmw("and", word(base, levels, level, index >>> 5), 4, ~bit >>> 0);
    if ((before & ~bit) !== 0) return;
    index >>>= 5;
  }
}

/** The free block of `order` with the lowest address, or -1. */
export function lowestFreeBlock(base: VirtAddr, layout: FreeMapLayout, order: number): number {
  const levels = offsets(layout, order);
  let index = 0;
  for (let level = levels.length - 1; level >= 0; level--) {
    const bits = cpu.load(word(base, levels, level, index), 4);
    if (bits === 0) return -1; // only at the top: a summary bit is set where its word is not zero
    index = index * 32 + (31 - Math.clz32(bits & -bits));
  }
  return index;
}
