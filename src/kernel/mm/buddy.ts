// Free memory as blocks of 2^order frames: what is free, taking the lowest block, joining buddies. Nothing here knows what a frame is for.
import { addVirt, assert, cpu, hex, type Pfn, pfnToPhys, struct, u32, type VirtAddr, virtual, word } from "../../hardware/index.ts";
import { spinLockIrqsave, spinlock, spinUnlockIrqrestore } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";
import {
  clearBlockFree,
  type FreeMapLayout,
  freeMapLayout,
  isBlockFree,
  lowestFreeBlock,
  MAX_PAGE_ORDER,
  setBlockFree,
} from "./free-map.ts";
import { orderPages } from "./page-struct.ts";

/** Kernel: struct zone; there is one. */
const Zone = struct("zone", {
  lock: spinlock,
  freePages: u32,
  /** Allocated frames by kind, and frames that wait to be taken out of the restricted address spaces (kernel: vm_stat). Atomic. */
  sensitivePages: u32,
  nonsensitivePages: u32,
  queuedPages: u32,
  /** Frames from physical 0 to the end of what may ever be added (kernel: spanned_pages). */
  spannedPages: word,
  /** The maps of free-map.ts. */
  freeMap: virtual,
});
const zone = staticStruct("contig_page_data.zone", Zone);

export interface PageAllocStatistics {
  readonly free: number;
  readonly sensitive: number;
  readonly nonsensitive: number;
  /** Freed, but not yet out of every restricted address space. */
  readonly queued: number;
}

/** Frames by state. */
export function pageAllocStatistics(): PageAllocStatistics {
  const view = Zone.at(zone);
  return { free: view.freePages, sensitive: view.sensitivePages, nonsensitive: view.nonsensitivePages, queued: view.queuedPages };
}

/** Counts frames that became allocated (`by` > 0) or are so no more. */
export function countAllocated(isSensitive: boolean, by: number): void {
  const offset = isSensitive ? Zone.offset.sensitivePages : Zone.offset.nonsensitivePages;
  cpu.rmw("add", addVirt(zone, offset), 4, by >>> 0);
}

export function countQueued(by: number): void {
  cpu.rmw("add", addVirt(zone, Zone.offset.queuedPages), 4, by >>> 0);
}

export function queuedPages(): number {
  return Zone.at(zone).queuedPages;
}

/** Free frames, queued ones not counted (kernel: nr_free_pages()). */
export function nrFreePages(): number {
  return Zone.at(zone).freePages;
}

/** The layout of the last number of frames asked for: arithmetic that is not worth repeating; may be dropped at any time. */
let cachedLayout: FreeMapLayout = freeMapLayout(0);

function layoutOf(frames: number): FreeMapLayout {
  if (cachedLayout.frames !== frames) cachedLayout = freeMapLayout(frames);
  return cachedLayout;
}

/** Bytes of the maps for `frames` frames. */
export function freeMapBytes(frames: number): number {
  return freeMapLayout(frames).bytes;
}

/** No frame is free yet. `maps`: zeroed memory of `freeMapBytes(frames)` bytes. */
export function buddyInit(frames: number, maps: VirtAddr): void {
  const view = Zone.at(zone);
  view.spannedPages = frames;
  view.freeMap = maps;
}

/** Frames that the zone may ever have. */
export function spannedPages(): number {
  return Zone.at(zone).spannedPages;
}

/** Gives the frames `[first, end)` to the zone, in blocks as large as they can be (kernel: `__free_pages_memory()`). */
export function freeFrames(first: number, end: number): void {
  let pfn = first;
  while (pfn < end) {
    let order = MAX_PAGE_ORDER;
    while (pfn % orderPages(order) !== 0 || pfn + orderPages(order) > end) order--;
    freeBlock(pfn as Pfn, order);
    pfn += orderPages(order);
  }
}

/** Gives a block back, joined with its buddies where they are free (kernel: `__free_one_page()`). */
export function freeBlock(pfn: Pfn, order: number): void {
  const view = Zone.at(zone);
  const flags = spinLockIrqsave(view.lock);
  const base = view.freeMap;
  const layout = layoutOf(view.spannedPages);
  let block = Math.floor(pfn / orderPages(order));
  let at = order;
  while (at < MAX_PAGE_ORDER && isBlockFree(base, layout, at, block ^ 1)) {
    clearBlockFree(base, layout, at, block ^ 1);
    block >>>= 1;
    at++;
  }
  setBlockFree(base, layout, at, block);
  view.freePages += orderPages(order);
  spinUnlockIrqrestore(view.lock, flags);
}

/** Takes the lowest block of the smallest order that has one, splits it (kernel: `rmqueue()`). @returns its first frame, or -1 */
export function takeBlock(order: number): number {
  const view = Zone.at(zone);
  const flags = spinLockIrqsave(view.lock);
  const base = view.freeMap;
  const layout = layoutOf(view.spannedPages);
  let pfn = -1;
  for (let at = order; at <= MAX_PAGE_ORDER; at++) {
    const block = lowestFreeBlock(base, layout, at);
    if (block < 0) continue;
    clearBlockFree(base, layout, at, block);
    pfn = block * orderPages(at);
    // The upper half of each split stays free.
    for (let half = at - 1; half >= order; half--) setBlockFree(base, layout, half, Math.floor(pfn / orderPages(half)) + 1);
    view.freePages -= orderPages(order);
    break;
  }
  spinUnlockIrqrestore(view.lock, flags);
  return pfn;
}

/**
 * Takes `[first, end)` out of the zone if every frame of it is free, else nothing (kernel: `alloc_contig_range()` without migration).
 * The ends are multiples of the largest block, so that no free block crosses them.
 */
export function takeFrames(first: number, end: number): boolean {
  const step = orderPages(MAX_PAGE_ORDER);
  assert(first % step === 0 && end % step === 0, () => `not whole blocks: ${hex(pfnToPhys(first as Pfn))}`);
  const view = Zone.at(zone);
  const flags = spinLockIrqsave(view.lock);
  const base = view.freeMap;
  const layout = layoutOf(view.spannedPages);
  let isFree = true;
  for (let pfn = first; pfn < end && isFree; pfn += step) isFree = isBlockFree(base, layout, MAX_PAGE_ORDER, pfn / step);
  if (isFree) {
    for (let pfn = first; pfn < end; pfn += step) clearBlockFree(base, layout, MAX_PAGE_ORDER, pfn / step);
    view.freePages -= end - first;
  }
  spinUnlockIrqrestore(view.lock, flags);
  return isFree;
}
