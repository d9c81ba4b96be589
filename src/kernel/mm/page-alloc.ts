// The buddy allocator, with the rule of address space isolation: a page that is not sensitive is mapped in every restricted address
// space when it is allocated, and is unmapped, and that flushed from every TLB, before its frame is used again (spec 2.14; S5, S8).
//
// All free memory is zero: a block is cleared when it is freed (kernel: init_on_free=1), and RAM is zero at boot. So __GFP_ZERO costs
// nothing, and no frame reaches a restricted address space with somebody's data in it.
import {
  addVirt,
  assert,
  cpu,
  hex,
  NULL,
  OWNER_KERNEL,
  OWNER_NONE,
  type Owner,
  owner,
  PAGE_SIZE,
  type Pfn,
  struct,
  u32,
  type VirtAddr,
  virtual,
  word,
} from "../../hardware/index.ts";
import { asiMapGfp, asiUnmap } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { spinLockIrqsave, spinlock, spinUnlockIrqrestore } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";
import { asyncFreeEnqueue, asyncFreePending, asyncFreeTake } from "./async-free.ts";
import { shouldFailAlloc } from "./fail-alloc.ts";
import {
  clearBlockFree,
  type FreeMapLayout,
  freeMapLayout,
  isBlockFree,
  lowestFreeBlock,
  MAX_PAGE_ORDER,
  setBlockFree,
} from "./free-map.ts";
import { __GFP_COMP, __GFP_SENSITIVE, type Gfp, gfpflagsAllowBlocking } from "./gfp.ts";
import { VMEMMAP_START } from "./layout.ts";
import { memblockFreeRanges } from "./memblock.ts";
import {
  orderPages,
  PAGE_STRUCT_BYTES,
  Page,
  type PagePtr,
  PG_GLOBAL_NONSENSITIVE,
  PG_HEAD,
  PG_SENSITIVE,
  pageAddress,
  pageToPfn,
  pfnToPage,
  virtToPage,
} from "./page-struct.ts";

/** Kernel: struct zone; there is one. */
const Zone = struct("zone", {
  lock: spinlock,
  freePages: u32,
  /** Frames from physical 0 (kernel: spanned_pages). */
  spannedPages: word,
  /** The maps of free-map.ts. */
  freeMap: virtual,
});
const zone = staticStruct("contig_page_data.zone", Zone);

/** Queued frees at which an allocation that may block does the work first. */
const ASYNC_FREE_BATCH = 32;

/** The layout of the last number of frames asked for: arithmetic that is not worth repeating; may be dropped at any time. */
let cachedLayout: FreeMapLayout = freeMapLayout(0);

function layoutOf(frames: number): FreeMapLayout {
  if (cachedLayout.frames !== frames) cachedLayout = freeMapLayout(frames);
  return cachedLayout;
}

/** Bytes behind the page array that the allocator needs for `frames` frames. */
export function pageAllocBytes(frames: number): number {
  return freeMapLayout(frames).bytes;
}

/** Takes over what memblock has left (kernel: `memblock_free_all()`). `frames`: all RAM. */
export function pageAllocInit(frames: number): void {
  const view = Zone.at(zone);
  view.spannedPages = frames;
  view.freeMap = addVirt(VMEMMAP_START, frames * PAGE_STRUCT_BYTES);
  for (const [first, end] of memblockFreeRanges()) {
    let pfn: number = first;
    while (pfn < end) {
      let order = MAX_PAGE_ORDER;
      while (pfn % orderPages(order) !== 0 || pfn + orderPages(order) > end) order--;
      freeBlock(pfn as Pfn, order);
      pfn += orderPages(order);
    }
  }
}

/** Free frames, queued ones not counted (kernel: nr_free_pages()). */
export function nrFreePages(): number {
  return Zone.at(zone).freePages;
}

/**
 * Allocates 2^order zeroed frames, the lowest block of the smallest order that has one (kernel: `alloc_pages()`). With __GFP_SENSITIVE they stay out of the
 * restricted address spaces. Blocking flags: interrupts on, no spinlock held. @returns NULL when there is no memory.
 */
export function allocPages(gfp: Gfp, order: number): PagePtr {
  const page = allocUnmappedPages(gfp, order);
  if (page === 0 || (gfp & __GFP_SENSITIVE) !== 0 || !asiEnabled()) return page;
  // Not sensitive: its direct-map alias goes into every restricted address space (kernel: asi_map_alloced_pages()).
  if (asiMapGfp(ASI_GLOBAL_NONSENSITIVE, pageAddress(page), PAGE_SIZE * orderPages(order), gfp) !== 0) {
    asiUnmap(ASI_GLOBAL_NONSENSITIVE, pageAddress(page), PAGE_SIZE * orderPages(order));
    releaseBlock(page, order);
    return NULL;
  }
  const view = Page.at(page);
  view.flags |= PG_GLOBAL_NONSENSITIVE;
  return page;
}

/**
 * As `allocPages`, but the direct-map alias of pages that are not sensitive is not mapped: they are reached by another address
 * (vmalloc), or map restricted address spaces themselves (kernel: the bulk allocator; asi_pgtbl_alloc()).
 */
export function allocUnmappedPages(gfp: Gfp, order: number): PagePtr {
  assert(order >= 0 && order <= MAX_PAGE_ORDER, () => `alloc_pages() of order ${order}`);
  if (shouldFailAlloc()) return NULL;
  const mayBlock = gfpflagsAllowBlocking(gfp);
  if (mayBlock && asyncFreePending() >= ASYNC_FREE_BATCH) asiAsyncFreeWork();
  let pfn = takeBlock(order);
  if (pfn < 0 && mayBlock && asyncFreePending() > 0) {
    asiAsyncFreeWork();
    pfn = takeBlock(order);
  }
  if (pfn < 0) return NULL;
  const page = pfnToPage(pfn as Pfn);
  const isSensitive = (gfp & __GFP_SENSITIVE) !== 0;
  const view = Page.at(page);
  view.refcount = 1;
  view.order = order;
  view.flags = (isSensitive ? PG_SENSITIVE : 0) | (order > 0 && (gfp & __GFP_COMP) !== 0 ? PG_HEAD : 0);
  if (order > 0 && (gfp & __GFP_COMP) !== 0) {
    for (let i = 1; i < orderPages(order); i++) Page.at(pfnToPage((pfn + i) as Pfn)).compoundHead = page;
  }
  labelFrames(pfn, order, owner(OWNER_KERNEL, 0, isSensitive));
  return page;
}

/** Direct-map address of 2^order zeroed frames, or 0 (kernel: `__get_free_pages()`). */
export function getFreePages(gfp: Gfp, order: number): VirtAddr {
  const page = allocPages(gfp, order);
  return page === 0 ? NULL : pageAddress(page);
}

/** Drops the reference that `allocPages` gave (kernel: `__free_pages()`, and `free_pages()` for a direct-map address). Any context but NMI. */
export function freePages(pageOrAddress: PagePtr | VirtAddr, order: number): void {
  const page = pageOrAddress >= VMEMMAP_START ? (pageOrAddress as PagePtr) : virtToPage(pageOrAddress);
  const references = cpu.rmw("add", addVirt(page, Page.offset.refcount), 4, 0xffffffff) | 0;
  assert(references > 0, () => `page freed twice: ${hex(pageAddress(page))}, count ${references}`);
  if (references === 1) releaseBlock(page, order);
}

/** Takes another reference to an allocated page (kernel: `get_page()`). */
export function getPage(page: PagePtr): void {
  const references = cpu.rmw("add", addVirt(page, Page.offset.refcount), 4, 1) | 0;
  assert(references > 0, () => `get_page() of a free page: ${hex(pageAddress(page))}`);
}

/** Drops a reference; the last one frees the page with all of its block (kernel: `put_page()`). */
export function putPage(page: PagePtr): void {
  freePages(page, Page.at(page).order);
}

/** Says whose data a page holds from now on; for the machine's ground truth and for reports. */
export function setPageOwner(page: PagePtr, label: Owner): void {
  Page.at(page).owner = label;
  labelFrames(pageToPfn(page), 0, label);
}

/**
 * Takes the queued pages of this CPU out of the restricted address spaces and gives them back (kernel: `asi_async_free_work_fn()`). Needs
 * interrupts on and no spinlock: it flushes the TLBs of every CPU.
 */
export function asiAsyncFreeWork(): void {
  for (let page = asyncFreeTake(); page !== 0; page = asyncFreeTake()) {
    const { order } = Page.at(page);
    asiUnmap(ASI_GLOBAL_NONSENSITIVE, pageAddress(page), PAGE_SIZE * orderPages(order));
    finishFree(page, order);
  }
}

/** Last reference dropped: clears the block, and queues it if restricted address spaces map it. */
function releaseBlock(page: PagePtr, order: number): void {
  const view = Page.at(page);
  const { flags } = view;
  if ((flags & PG_HEAD) !== 0) {
    const pfn = pageToPfn(page);
    for (let i = 1; i < orderPages(order); i++) Page.at(pfnToPage((pfn + i) as Pfn)).compoundHead = NULL;
  }
  cpu.fill(pageAddress(page), 0, PAGE_SIZE * orderPages(order));
  labelFrames(pageToPfn(page), order, OWNER_NONE);
  view.owner = OWNER_NONE;
  if ((flags & PG_GLOBAL_NONSENSITIVE) === 0) {
    finishFree(page, order);
    return;
  }
  view.order = order;
  asyncFreeEnqueue(page);
}

function finishFree(page: PagePtr, order: number): void {
  const view = Page.at(page);
  view.flags = 0;
  view.order = 0;
  freeBlock(pageToPfn(page), order);
}

/** Gives a block back, joined with its buddies where they are free (kernel: `__free_one_page()`). */
function freeBlock(pfn: Pfn, order: number): void {
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
function takeBlock(order: number): number {
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

function labelFrames(pfn: number, order: number, label: Owner): void {
  if (!cpu.isLive) return;
  for (let i = 0; i < orderPages(order); i++) cpu.observer.frameOwner((pfn + i) as Pfn, label);
}
