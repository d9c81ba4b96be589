// Virtually contiguous kernel memory: kernel stacks, large tables. Areas are handed out at the lowest free address, each followed by a
// page that stays unmapped. The alias is nonsensitive; the frames stay out of the restricted direct map (spec 2.14).
import {
  addVirt,
  assert,
  hex,
  NULL,
  PAGE_SIZE,
  type Ptr,
  pageUp,
  pointer,
  struct,
  u32,
  type VirtAddr,
  virtual,
  word,
} from "../../hardware/index.ts";
import { asiMapGfp, asiUnmap } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { shouldFailAlloc } from "./fail-alloc.ts";
import { __GFP_ZERO, GFP_KERNEL } from "./gfp.ts";
import { kernelMapPage, kernelUnmapPage } from "./kernel-map.ts";
import { VMALLOC_END, VMALLOC_START } from "./layout.ts";
import { allocUnmappedPages, freePages } from "./page-alloc.ts";
import { type PagePtr, pageToPhys } from "./page-struct.ts";
import { kfree, kmalloc } from "./slab.ts";
import { flushTlbKernelRange } from "./tlb.ts";

/** Kernel: struct vm_struct. */
const VmStruct = struct("vm_struct", {
  next: pointer("vm_struct"),
  start: virtual,
  /** Mapped bytes; the guard page is not counted. */
  bytes: word,
  pages: u32,
  /** 1: the frames belong to the area (vmalloc); 0: to the caller (vmap). */
  ownsPages: u32,
});
type VmStructPtr = Ptr<"vm_struct">;

const Areas = struct("vmap_area_list", { lock: spinlock, first: pointer("vm_struct") });
const areas = staticStruct("vmap_area_list", Areas);

/** At least `bytes` zeroed bytes, page aligned, or 0 (kernel: `vzalloc()`). May block. */
export function vmalloc(bytes: number): VirtAddr {
  const mapped = pageUp(bytes);
  const area = reserveArea(mapped, true);
  if (area === NULL) return NULL;
  const address = VmStruct.at(area).start;
  for (let at = 0; at < mapped; at += PAGE_SIZE) {
    const page = allocUnmappedPages(GFP_KERNEL | __GFP_ZERO, 0);
    if (page === NULL || kernelMapPage(addVirt(address, at), pageToPhys(page), true) !== 0) {
      if (page !== NULL) freePages(page, 0);
      removeArea(area, at);
      return NULL;
    }
  }
  return publishArea(area);
}

/** Maps `pages` in a row (kernel: `vmap()`). @returns 0 when there is no memory. */
export function vmap(pages: readonly PagePtr[]): VirtAddr {
  const area = mapPages(pages);
  return area === NULL ? NULL : publishArea(area);
}

/** As `vmap`, without the restricted address spaces: sensitive (kernel: `vm_map_ram()`). */
export function vmMapRam(pages: readonly PagePtr[]): VirtAddr {
  const area = mapPages(pages);
  return area === NULL ? NULL : VmStruct.at(area).start;
}

/** Unmaps an area; frees its frames if vmalloc() took them (kernel: `vfree()`, `vunmap()`, `vm_unmap_ram()`). May block. NULL is fine. */
export function vfree(address: VirtAddr): void {
  if (address === NULL) return;
  const area = findArea(address);
  assert(area !== NULL, () => `vfree() of ${hex(address)}, which is no area`);
  removeArea(area, VmStruct.at(area).bytes);
}

function mapPages(pages: readonly PagePtr[]): VmStructPtr {
  const area = reserveArea(pages.length * PAGE_SIZE, false);
  if (area === NULL) return NULL;
  const address = VmStruct.at(area).start;
  let at = 0;
  for (const page of pages) {
    if (kernelMapPage(addVirt(address, at), pageToPhys(page), true) !== 0) {
      removeArea(area, at);
      return NULL;
    }
    at += PAGE_SIZE;
  }
  return area;
}

/** Last step of a mapping: the restricted address spaces get it. */
function publishArea(area: VmStructPtr): VirtAddr {
  const view = VmStruct.at(area);
  const address = view.start;
  const { bytes } = view;
  if (asiMapGfp(ASI_GLOBAL_NONSENSITIVE, address, bytes, GFP_KERNEL) === 0) return address;
  removeArea(area, bytes);
  return NULL;
}

/** The lowest gap that holds `bytes` and a guard page. */
function reserveArea(bytes: number, ownsPages: boolean): VmStructPtr {
  if (shouldFailAlloc()) return NULL;
  const area = kmalloc(VmStruct.bytes, GFP_KERNEL) as VmStructPtr;
  if (area === NULL) return NULL;
  const list = Areas.at(areas);
  spinLock(list.lock);
  let previous: VmStructPtr = NULL;
  let at = VMALLOC_START;
  let next = list.first;
  while (next !== NULL) {
    const view = VmStruct.at(next);
    const { start } = view;
    if (start - at >= bytes + PAGE_SIZE) break;
    at = addVirt(start, view.bytes + PAGE_SIZE);
    previous = next;
    next = view.next;
  }
  assert(at + bytes < VMALLOC_END, () => "vmalloc space is full");
  const view = VmStruct.at(area);
  view.start = at;
  view.bytes = bytes;
  view.pages = bytes / PAGE_SIZE;
  view.ownsPages = ownsPages ? 1 : 0;
  view.next = next;
  if (previous === NULL) list.first = area;
  else VmStruct.at(previous).next = area;
  spinUnlock(list.lock);
  return area;
}

function findArea(address: VirtAddr): VmStructPtr {
  const list = Areas.at(areas);
  spinLock(list.lock);
  let area = list.first;
  while (area !== NULL && VmStruct.at(area).start !== address) area = VmStruct.at(area).next;
  spinUnlock(list.lock);
  return area;
}

/** Takes the first `mapped` bytes of an area away, restricted mappings first (S5), then the area itself. */
function removeArea(area: VmStructPtr, mapped: number): void {
  const view = VmStruct.at(area);
  const address = view.start;
  const ownsPages = view.ownsPages !== 0;
  if (asiEnabled() && mapped > 0) asiUnmap(ASI_GLOBAL_NONSENSITIVE, address, mapped);
  const pages: PagePtr[] = [];
  for (let at = 0; at < mapped; at += PAGE_SIZE) pages.push(kernelUnmapPage(addVirt(address, at)));
  if (mapped > 0) flushTlbKernelRange(address, addVirt(address, mapped));
  trace(TRACE_UNMAPPED, 0, address, address + mapped);
  if (ownsPages) for (const page of pages) freePages(page, 0);
  unlinkArea(area);
  kfree(area);
}

function unlinkArea(area: VmStructPtr): void {
  const list = Areas.at(areas);
  spinLock(list.lock);
  const { next } = VmStruct.at(area);
  if (list.first === area) list.first = next;
  else {
    let previous = list.first;
    while (VmStruct.at(previous).next !== area) previous = VmStruct.at(previous).next;
    VmStruct.at(previous).next = next;
  }
  spinUnlock(list.lock);
}
