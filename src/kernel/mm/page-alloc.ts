// The page allocator, with the rule of address space isolation: a page that is not sensitive is mapped in every restricted address space
// when it is allocated, and is unmapped, and that flushed from every TLB, before its frame is used again (spec 2.14; S5, S8).
//
// Pages are cleared as the kernel does it, at allocation and for who asks (__GFP_ZERO, `clearHighpage`). Beyond that a frame is cleared in
// one case: it was sensitive and is about to be reachable in a restricted address space. What a nonsensitive owner left is no secret.
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
  pageUp,
  type VirtAddr,
} from "../../hardware/index.ts";
import { asiMapGfp, asiUnmapNoflush } from "../asi/asi-map.ts";
import { ephmap } from "../asi/asi-options.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { asyncFreeEnqueue, asyncFreePending, asyncFreeTakeAll, asyncFreeTakeBack } from "./async-free.ts";
import { buddyInit, countAllocated, freeBlock, freeFrames, freeMapBytes, takeBlock } from "./buddy.ts";
import { shouldFailAlloc } from "./fail-alloc.ts";
import { MAX_PAGE_ORDER } from "./free-map.ts";
import { __GFP_COMP, __GFP_SENSITIVE, __GFP_ZERO, type Gfp, gfpflagsAllowBlocking } from "./gfp.ts";
import { clearHighpage } from "./kmap.ts";
import { VMEMMAP_START } from "./layout.ts";
import { memblockFreeRanges } from "./memblock.ts";
import {
  getOrder,
  orderPages,
  Page,
  type PagePtr,
  PG_GLOBAL_NONSENSITIVE,
  PG_HEAD,
  PG_JUNK,
  PG_SENSITIVE,
  PG_UNCLEARED,
  pageAddress,
  pageToPfn,
  pfnToPage,
  virtToPage,
} from "./page-struct.ts";
import { flushTlbKernelRange } from "./tlb.ts";
import { lazyVmapPages, purgeVmapAreas } from "./vmap-area.ts";

export { nrFreePages, type PageAllocStatistics, pageAllocStatistics } from "./buddy.ts";

/** Queued frames at which an allocation that may block does the work first. */
const ASYNC_FREE_BATCH = 32;

/** Bytes behind the page array that the allocator needs for `frames` frames. */
export function pageAllocBytes(frames: number): number {
  return freeMapBytes(frames);
}

/** Takes over what memblock has left (kernel: `memblock_free_all()`). `frames`: all that may ever be there; `maps`: zeroed, for the maps. */
export function pageAllocInit(frames: number, maps: VirtAddr): void {
  buddyInit(frames, maps);
  for (const [first, end] of memblockFreeRanges()) freeFrames(first, end);
}

/**
 * Allocates 2^order frames, the lowest block of the smallest order that has one (kernel: `alloc_pages()`). Zero with __GFP_ZERO. With
 * __GFP_SENSITIVE they stay out of the restricted address spaces. Blocking flags: interrupts on, no spinlock held.
 * @returns NULL when there is no memory.
 */
export function allocPages(gfp: Gfp, order: number): PagePtr {
  const isMapped = (gfp & __GFP_SENSITIVE) === 0 && asiEnabled();
  const pfn = takeFromZone(gfp, order);
  if (pfn < 0) return isMapped ? takeBack(gfp, order) : NULL;
  if (!isMapped) return prepNewPage(pfn, gfp, order);
  // What must be cleared first is cleared before it is mapped, all else after, when a restricted CPU need not leave for it.
  const cleared = clearUncleared(pfn, order);
  const page = mapAllocedPages(prepNewPage(pfn, gfp & ~__GFP_ZERO, order), order, gfp);
  if (page !== NULL && (gfp & __GFP_ZERO) !== 0) clearRest(pfn, cleared);
  return page;
}

/**
 * As `allocPages`, but the direct-map alias of pages that are not sensitive is not mapped: they are reached by another address
 * (vmalloc), or map restricted address spaces themselves (kernel: the bulk allocator; asi_pgtbl_alloc()).
 */
export function allocUnmappedPages(gfp: Gfp, order: number): PagePtr {
  const pfn = takeFromZone(gfp, order);
  return pfn < 0 ? NULL : prepNewPage(pfn, gfp, order);
}

/**
 * Up to `count` single pages, each in its own state of sensitivity, as `allocUnmappedPages` gives them (kernel: `alloc_pages_bulk()`).
 * @returns those that there were; the caller frees them if it wants all or nothing.
 */
export function allocPagesBulk(gfp: Gfp, count: number): PagePtr[] {
  const pages: PagePtr[] = [];
  while (pages.length < count) {
    const page = allocUnmappedPages(gfp, 0);
    if (page === NULL) break;
    pages.push(page);
  }
  return pages;
}

/**
 * Direct-map address of contiguous frames for `bytes` bytes, or 0 (kernel: `alloc_pages_exact()`). The rest of the block goes back before
 * anything is mapped, so exactly the kept frames become nonsensitive; each is a page of its own.
 */
export function allocPagesExact(bytes: number, gfp: Gfp): VirtAddr {
  const order = getOrder(bytes);
  const pfn = takeFromZone(gfp, order);
  if (pfn < 0) return NULL;
  const kept = pageUp(bytes) / PAGE_SIZE;
  freeFrames(pfn + kept, pfn + orderPages(order));
  for (let i = 0; i < kept; i++) prepNewPage(pfn + i, gfp & ~__GFP_COMP, 0);
  const address = pageAddress(pfnToPage(pfn as Pfn));
  if ((gfp & __GFP_SENSITIVE) !== 0 || !asiEnabled()) return address;
  const error = asiMapGfp(ASI_GLOBAL_NONSENSITIVE, address, kept * PAGE_SIZE, gfp);
  setNonsensitive(pfn, kept);
  if (error === 0) return address;
  freePagesExact(address, bytes);
  return NULL;
}

/** Gives back what `allocPagesExact` gave, with the same size (kernel: `free_pages_exact()`). */
export function freePagesExact(address: VirtAddr, bytes: number): void {
  for (let at = 0; at < bytes; at += PAGE_SIZE) freePages(addVirt(address, at), 0);
}

/** Direct-map address of 2^order frames, or 0 (kernel: `__get_free_pages()`). */
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
 * Takes all queued blocks, those of other CPUs too, out of the restricted address spaces, with one flush, and gives them back (kernel:
 * `asi_async_free_work_fn()`). Interrupts on and no spinlock held: it waits for the other CPUs.
 */
export function asiAsyncFreeWork(): void {
  const pages = asyncFreeTakeAll();
  if (pages.length === 0) return;
  let start = Number.POSITIVE_INFINITY;
  let end = Number.NEGATIVE_INFINITY;
  for (const page of pages) {
    const address = pageAddress(page);
    const bytes = PAGE_SIZE * orderPages(Page.at(page).order);
    const [from, to] = asiUnmapNoflush(ASI_GLOBAL_NONSENSITIVE, address, bytes);
    start = Math.min(start, from);
    end = Math.max(end, to);
  }
  flushTlbKernelRange(start as VirtAddr, end as VirtAddr);
  for (const page of pages) {
    const { order } = Page.at(page);
    trace(TRACE_UNMAPPED, 0, pageAddress(page), pageAddress(page) + PAGE_SIZE * orderPages(order));
    finishFree(page, order, junk());
  }
}

/** @returns first frame of a free block, or -1. Memory that only waits to be unmapped is no reason to fail, if the caller may wait. */
function takeFromZone(gfp: Gfp, order: number): number {
  assert(order >= 0 && order <= MAX_PAGE_ORDER, () => `alloc_pages() of order ${order}`);
  if (shouldFailAlloc()) return -1;
  const mayBlock = gfpflagsAllowBlocking(gfp);
  if (mayBlock && asyncFreePending() >= ASYNC_FREE_BATCH) asiAsyncFreeWork();
  const pfn = takeBlock(order);
  if (pfn >= 0 || !mayBlock) return pfn;
  drainAllFrees();
  return takeBlock(order);
}

/** Everything that was freed is free: queued blocks, and areas that wait for a flush (kernel: `drain_all_pages()` and its kin). */
export function drainAllFrees(): void {
  if (lazyVmapPages() > 0) purgeVmapAreas();
  asiAsyncFreeWork();
}

/** Kernel: `prep_new_page()`. */
function prepNewPage(pfn: number, gfp: Gfp, order: number): PagePtr {
  const page = pfnToPage(pfn as Pfn);
  const isSensitive = (gfp & __GFP_SENSITIVE) !== 0;
  const isCompound = order > 0 && (gfp & __GFP_COMP) !== 0;
  if ((gfp & __GFP_ZERO) !== 0) clearForZero(pfn, order);
  else if (!isSensitive && asiEnabled()) clearUncleared(pfn, order);
  if (isCompound) for (let i = 1; i < orderPages(order); i++) Page.at(pfnToPage((pfn + i) as Pfn)).compoundHead = page;
  const view = Page.at(page);
  view.refcount = 1;
  view.order = order;
  view.flags = (isSensitive ? PG_SENSITIVE : 0) | (isCompound ? PG_HEAD : 0);
  countAllocated(isSensitive, orderPages(order));
  labelFrames(pfn, order, owner(OWNER_KERNEL, 0, isSensitive));
  if (cpu.isLive) cpu.observer.allocated?.("pages", pageAddress(page), PAGE_SIZE * orderPages(order));
  return page;
}

/** Clears the frames that may hold what a sensitive owner left (S5). @returns for each frame whether it was cleared */
function clearUncleared(pfn: number, order: number): boolean[] {
  const cleared: boolean[] = [];
  for (let i = 0; i < orderPages(order); i++) {
    const page = pfnToPage((pfn + i) as Pfn);
    const view = Page.at(page);
    const { flags } = view;
    const isUncleared = (flags & PG_UNCLEARED) !== 0;
    if (isUncleared) {
      clearHighpage(page);
      view.flags = 0;
    }
    cleared.push(isUncleared || isKnownZero(flags));
  }
  return cleared;
}

/** What tells a frame that a nonsensitive owner left from one that is zero; only where that makes a difference. */
function junk(): number {
  return ephmap.key.isEnabled() ? PG_JUNK : 0;
}

/** A free frame that nobody has written since it was cleared. As the kernel, others clear it all the same when they are asked to. */
function isKnownZero(flags: number): boolean {
  return ephmap.key.isEnabled() && (flags & (PG_UNCLEARED | PG_JUNK)) === 0;
}

function clearForZero(pfn: number, order: number): void {
  for (let i = 0; i < orderPages(order); i++) {
    const page = pfnToPage((pfn + i) as Pfn);
    if (!isKnownZero(Page.at(page).flags)) clearHighpage(page);
  }
}

/** Clears the frames that were not cleared yet (__GFP_ZERO). */
function clearRest(pfn: number, cleared: readonly boolean[]): void {
  for (const [i, isCleared] of cleared.entries()) if (!isCleared) clearHighpage(pfnToPage((pfn + i) as Pfn));
}

/**
 * Not sensitive: the direct-map alias goes into every restricted address space (kernel: `asi_map_alloced_pages()`). Where that fails half
 * way, the block takes the way of every nonsensitive page that is freed.
 */
function mapAllocedPages(page: PagePtr, order: number, gfp: Gfp): PagePtr {
  const error = asiMapGfp(ASI_GLOBAL_NONSENSITIVE, pageAddress(page), PAGE_SIZE * orderPages(order), gfp);
  setNonsensitive(pageToPfn(page), orderPages(order));
  if (error === 0) return page;
  freePages(page, order);
  return NULL;
}

/** For a nonsensitive allocation that may not wait: a queued block is still mapped where it has to be. */
function takeBack(gfp: Gfp, order: number): PagePtr {
  const page = asyncFreeTakeBack(order);
  if (page === NULL) return NULL;
  const pfn = pageToPfn(page);
  for (let i = 0; i < orderPages(order); i++) Page.at(pfnToPage((pfn + i) as Pfn)).flags = PG_JUNK;
  prepNewPage(pfn, gfp, order);
  setNonsensitive(pageToPfn(page), orderPages(order));
  return page;
}

/** Every frame says it, so that a part of a block can be asked. */
function setNonsensitive(pfn: number, frames: number): void {
  for (let i = 0; i < frames; i++) Page.at(pfnToPage((pfn + i) as Pfn)).flags |= PG_GLOBAL_NONSENSITIVE;
}

/** Last reference dropped: queues the block if restricted address spaces map it. */
function releaseBlock(page: PagePtr, order: number): void {
  const view = Page.at(page);
  const { flags } = view;
  const label = view.owner as Owner; // stored by setPageOwner() alone
  const pfn = pageToPfn(page);
  const isSensitive = (flags & PG_SENSITIVE) !== 0;
  if ((flags & PG_HEAD) !== 0) {
    for (let i = 1; i < orderPages(order); i++) Page.at(pfnToPage((pfn + i) as Pfn)).compoundHead = NULL;
  }
  // Where pages are mapped ephemerally, one that is new to a process must hold nobody's data: cleared now (kernel: init_on_free).
  const mustKeep = isSensitive && !ephmap.key.isEnabled();
  if (isSensitive && !mustKeep) cpu.fill(pageAddress(page), 0, PAGE_SIZE * orderPages(order));
  if (cpu.isLive) {
    // What a sensitive owner left stays his in the ground truth until it is cleared.
    labelFrames(pfn, order, !mustKeep ? OWNER_NONE : label === OWNER_NONE ? owner(OWNER_KERNEL, 0, true) : label);
    cpu.observer.freed?.("pages", pageAddress(page), PAGE_SIZE * orderPages(order));
  }
  view.owner = OWNER_NONE;
  countAllocated(isSensitive, -orderPages(order));
  if ((flags & PG_GLOBAL_NONSENSITIVE) === 0) {
    finishFree(page, order, mustKeep ? PG_UNCLEARED : isSensitive ? 0 : junk());
    return;
  }
  view.order = order;
  asyncFreeEnqueue(page);
}

function finishFree(page: PagePtr, order: number, flags: number): void {
  const view = Page.at(page);
  const pfn = pageToPfn(page);
  view.flags = flags;
  view.order = 0;
  for (let i = 1; i < orderPages(order); i++) Page.at(pfnToPage((pfn + i) as Pfn)).flags = flags;
  freeBlock(pfn, order);
}

function labelFrames(pfn: number, order: number, label: Owner): void {
  if (!cpu.isLive) return;
  for (let i = 0; i < orderPages(order); i++) cpu.observer.frameOwner((pfn + i) as Pfn, label);
}
