// Kernel addresses that are handed out: areas in order of address, each followed by a page that stays unmapped. An area that was freed
// keeps its address and its frames until one flush has covered it and its likes (kernel: lazily freed vmap areas): neither is used
// again while a TLB may know them (S8).
import {
  addVirt,
  assert,
  cpu,
  NULL,
  PAGE_SIZE,
  type Ptr,
  pointer,
  struct,
  u32,
  type View,
  type VirtAddr,
  virtual,
  word,
} from "../../hardware/index.ts";
import { asiUnmapNoflush } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { irqsDisabled, spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { shouldFailAlloc } from "./fail-alloc.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { kernelUnmapPage } from "./kernel-map.ts";
import { freePages } from "./page-alloc.ts";
import { Page, type PagePtr } from "./page-struct.ts";
import { kfree, kmalloc } from "./slab.ts";
import { flushTlbKernelRange } from "./tlb.ts";

/** Kernel: struct vm_struct, struct vmap_area. */
export const VmStruct = struct("vm_struct", {
  next: pointer("vm_struct"),
  start: virtual,
  /** Addresses without the guard page. */
  bytes: word,
  /** VM_*. */
  flags: u32,
  /** AREA_*. */
  state: u32,
  /** Freed, waiting for a flush: the frames, linked by `next`. */
  pages: pointer("page"),
});
export type VmStruct = View<typeof VmStruct>;
export type VmStructPtr = Ptr<"vm_struct">;

/** The frames belong to the area and go with it (kernel: VM_ALLOC; without: VM_MAP). */
export const VM_ALLOC = 0x2;
/** Rights that were changed are reset for every alias before the frames go (kernel: VM_FLUSH_RESET_PERMS). */
export const VM_FLUSH_RESET_PERMS = 0x100;
/** Not mapped in the restricted address spaces; frames of such an area are sensitive ones. */
export const VM_SENSITIVE = 0x10000;

export const AREA_LIVE = 0;
/** Freed; not flushed yet. */
const AREA_LAZY = 1;
/** A flush is under way. */
const AREA_PURGING = 2;

const Areas = struct("vmap_area_list", {
  lock: spinlock,
  first: pointer("vm_struct"),
  /** Pages of areas that are freed and not flushed (kernel: vmap_lazy_nr). Atomic. */
  lazyPages: u32,
});
const areas = staticStruct("vmap_area_list", Areas);

/** Pages that may wait for one flush (kernel: lazy_max_pages(), which is 32 MiB and more: here memory is small). */
export const LAZY_MAX_PAGES = 64;

/** The lowest gap of `[from, to)` that holds `bytes` and a guard page. @returns NULL: no memory, or no such gap */
export function reserveArea(bytes: number, flags: number, from: VirtAddr, to: VirtAddr): VmStructPtr {
  if (shouldFailAlloc()) return NULL;
  const area = kmalloc(VmStruct.bytes, GFP_KERNEL) as VmStructPtr;
  if (area === NULL) return NULL;
  const view = VmStruct.at(area);
  view.bytes = bytes;
  view.flags = flags;
  if (linkInGap(area, bytes, from, to)) return area;
  purgeVmapAreas();
  if (linkInGap(area, bytes, from, to)) return area;
  kfree(area);
  return NULL;
}

function linkInGap(area: VmStructPtr, bytes: number, from: VirtAddr, to: VirtAddr): boolean {
  const list = Areas.at(areas);
  spinLock(list.lock);
  let previous: VmStructPtr = NULL;
  let at = from;
  let next = list.first;
  while (next !== NULL) {
    const view = VmStruct.at(next);
    const { start } = view;
    if (start >= at && start - at >= bytes + PAGE_SIZE) break;
    at = Math.max(at, addVirt(start, view.bytes + PAGE_SIZE)) as VirtAddr;
    previous = next;
    next = view.next;
  }
  const isFound = at + bytes + PAGE_SIZE <= to;
  if (isFound) {
    const view = VmStruct.at(area);
    view.start = at;
    view.next = next;
    if (previous === NULL) list.first = area;
    else VmStruct.at(previous).next = area;
  }
  spinUnlock(list.lock);
  return isFound;
}

/** The live area that begins at `address`, or NULL (kernel: `find_vm_area()`). */
export function findArea(address: VirtAddr): VmStructPtr {
  const list = Areas.at(areas);
  spinLock(list.lock);
  let area = list.first;
  while (area !== NULL && VmStruct.at(area).start !== address) area = VmStruct.at(area).next;
  spinUnlock(list.lock);
  return area !== NULL && VmStruct.at(area).state === AREA_LIVE ? area : NULL;
}

/**
 * Takes the first `mapped` bytes of an area out of every table, the restricted ones first (S5). Frames that the area owns wait for the
 * next flush and go then; a caller that owns them gets its flush at once.
 */
export function removeArea(area: VmStructPtr, mapped: number): void {
  const view = VmStruct.at(area);
  const address = view.start;
  const { flags } = view;
  if (asiEnabled() && mapped > 0) asiUnmapNoflush(ASI_GLOBAL_NONSENSITIVE, address, mapped);
  let chain: PagePtr = NULL;
  for (let at = mapped - PAGE_SIZE; at >= 0; at -= PAGE_SIZE) {
    const page = kernelUnmapPage(addVirt(address, at));
    if ((flags & VM_ALLOC) === 0) continue;
    Page.at(page).next = chain;
    chain = page;
  }
  view.pages = chain;
  view.bytes = mapped;
  if ((flags & VM_ALLOC) !== 0 && mapped > 0) {
    view.state = AREA_LAZY;
    const waiting = cpu.rmw("add", addVirt(areas, Areas.offset.lazyPages), 4, mapped / PAGE_SIZE) + mapped / PAGE_SIZE;
    if (waiting > LAZY_MAX_PAGES && !irqsDisabled()) purgeVmapAreas();
    return;
  }
  if (mapped > 0) flushTlbKernelRange(address, addVirt(address, mapped));
  trace(TRACE_UNMAPPED, 0, address, address + mapped);
  unlinkArea(area);
  kfree(area);
}

/** Pages of freed areas that wait for a flush. */
export function lazyVmapPages(): number {
  return Areas.at(areas).lazyPages;
}

/** Flushes what all freed areas were mapped at, then gives frames and addresses back (kernel: `purge_vmap_area_lazy()`). Interrupts on. */
export function purgeVmapAreas(): void {
  const list = Areas.at(areas);
  const purged: VmStructPtr[] = [];
  let pages = 0;
  let start = Number.POSITIVE_INFINITY;
  let end = Number.NEGATIVE_INFINITY;
  spinLock(list.lock);
  for (let area = list.first; area !== NULL; area = VmStruct.at(area).next) {
    const view = VmStruct.at(area);
    if (view.state !== AREA_LAZY) continue;
    view.state = AREA_PURGING;
    purged.push(area);
    pages += view.bytes / PAGE_SIZE;
    start = Math.min(start, view.start);
    end = Math.max(end, view.start + view.bytes);
  }
  spinUnlock(list.lock);
  if (purged.length === 0) return;
  cpu.rmw("add", addVirt(areas, Areas.offset.lazyPages), 4, -pages >>> 0);
  flushTlbKernelRange(start as VirtAddr, end as VirtAddr);
  for (const area of purged) {
    const view = VmStruct.at(area);
    trace(TRACE_UNMAPPED, 0, view.start, view.start + view.bytes);
    let page = view.pages;
    while (page !== NULL) {
      const { next } = Page.at(page);
      Page.at(page).next = NULL;
      freePages(page, 0);
      page = next;
    }
    unlinkArea(area);
    kfree(area);
  }
}

function unlinkArea(area: VmStructPtr): void {
  const list = Areas.at(areas);
  spinLock(list.lock);
  const { next } = VmStruct.at(area);
  if (list.first === area) list.first = next;
  else {
    let previous = list.first;
    while (previous !== NULL && VmStruct.at(previous).next !== area) previous = VmStruct.at(previous).next;
    assert(previous !== NULL, () => "a vmap area that is on no list");
    VmStruct.at(previous).next = next;
  }
  spinUnlock(list.lock);
}
