// Per-CPU memory beyond the boot chunk: chunks in vmalloc space with one unit for each CPU, at the same distance from each other as the
// boot units, so that one offset reaches a variable in every unit. Pages are there for what is allocated only (kernel: mm/percpu-vm.c),
// nonsensitive as all per-CPU memory (patch 18).
import {
  addVirt,
  array,
  NULL,
  PAGE_SIZE,
  type Ptr,
  pageDown,
  pageUp,
  pointer,
  struct,
  u32,
  type View,
  type VirtAddr,
  virtual,
} from "../../hardware/index.ts";
import { asiMap, asiUnmapNoflush } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { __GFP_ZERO, GFP_KERNEL } from "./gfp.ts";
import { kernelMapPage, kernelUnmapPage } from "./kernel-map.ts";
import { VMALLOC_END, VMALLOC_START } from "./layout.ts";
import { allocUnmappedPages, freePages } from "./page-alloc.ts";
import { type PagePtr, pageToPhys } from "./page-struct.ts";
import { PERCPU_GRANULE_BYTES, PERCPU_UNIT_BYTES, PerCpuAreas, perCpuAreas } from "./percpu-struct.ts";
import { kfree, kzalloc } from "./slab.ts";
import { flushTlbKernelRange } from "./tlb.ts";
import { removeArea, reserveArea, VmStruct } from "./vmap-area.ts";

const UNIT_GRANULES = PERCPU_UNIT_BYTES / PERCPU_GRANULE_BYTES;
const UNIT_PAGES = PERCPU_UNIT_BYTES / PAGE_SIZE;

/** Kernel: struct pcpu_chunk. */
const PcpuChunk = struct("pcpu_chunk", {
  next: pointer("pcpu_chunk"),
  area: pointer("vm_struct"),
  /** Unit of CPU 0. */
  base: virtual,
  /** One bit per page of a unit that is there, on every CPU. */
  populated: u32,
  /** Granules in use. */
  usedGranules: u32,
  used: array(u32, UNIT_GRANULES / 32),
  last: array(u32, UNIT_GRANULES / 32),
});
type PcpuChunk = View<typeof PcpuChunk>;
type PcpuChunkPtr = Ptr<"pcpu_chunk">;

const Chunks = struct("pcpu_slot", { lock: spinlock, first: pointer("pcpu_chunk") });
const chunks = staticStruct("pcpu_slot", Chunks);

/** Bits of granules, and bits that mark where an object ends. */
export interface GranuleMap {
  readonly used: { get(index: number): number; set(index: number, value: number): void };
  readonly last: { get(index: number): number; set(index: number, value: number): void };
}

/** First of `wanted` free granules in a row among `count`, or -1. Under the lock of the map. */
export function findRoom({ used }: GranuleMap, count: number, wanted: number): number {
  let run = 0;
  let bits = 0;
  for (let i = 0; i < count; i++) {
    if ((i & 31) === 0) bits = used.get(i >>> 5);
    run = (bits & (1 << (i & 31))) === 0 ? run + 1 : 0;
    if (run === wanted) return i - wanted + 1;
  }
  return -1;
}

export function takeGranules({ used, last }: GranuleMap, first: number, count: number): void {
  for (let i = first; i < first + count; i++) used.set(i >>> 5, (used.get(i >>> 5) | (1 << (i & 31))) >>> 0);
  const end = first + count - 1;
  last.set(end >>> 5, (last.get(end >>> 5) | (1 << (end & 31))) >>> 0);
}

/** Granules of the object that begins at `first`; 0: none begins there. */
export function objectGranules({ used, last }: GranuleMap, first: number): number {
  for (let end = first; ; end++) {
    const bit = (1 << (end & 31)) >>> 0;
    if ((used.get(end >>> 5) & bit) === 0) return 0;
    if ((last.get(end >>> 5) & bit) !== 0) return end - first + 1;
  }
}

export function releaseGranules({ used, last }: GranuleMap, first: number, count: number): void {
  for (let i = first; i < first + count; i++) used.set(i >>> 5, (used.get(i >>> 5) & ~(1 << (i & 31))) >>> 0);
  const end = first + count - 1;
  last.set(end >>> 5, (last.get(end >>> 5) & ~(1 << (end & 31))) >>> 0);
}

/** As `allocPercpu`, from a chunk in vmalloc space; makes one if need be. May block. @returns the offset, or 0 */
export function allocFromChunks(granules: number): number {
  if (granules > UNIT_GRANULES) return 0;
  const list = Chunks.at(chunks);
  spinLock(list.lock);
  let chunk = list.first;
  let first = -1;
  for (; chunk !== NULL; chunk = PcpuChunk.at(chunk).next) {
    first = findRoom(PcpuChunk.at(chunk), UNIT_GRANULES, granules);
    if (first >= 0) break;
  }
  if (chunk === NULL) {
    chunk = createChunk();
    first = 0;
  }
  const offset = chunk === NULL ? 0 : takeFrom(chunk, first, granules);
  spinUnlock(list.lock);
  return offset;
}

/** Gives back what `allocFromChunks` gave, after `clear` of its bytes. An empty chunk goes. @returns false: nothing begins there */
export function freeToChunks(offset: number, clear: (bytes: number) => void): boolean {
  const list = Chunks.at(chunks);
  spinLock(list.lock);
  let chunk = list.first;
  while (chunk !== NULL && !holds(PcpuChunk.at(chunk), offset)) chunk = PcpuChunk.at(chunk).next;
  let granules = 0;
  if (chunk !== NULL) {
    const view = PcpuChunk.at(chunk);
    const first = (offset - offsetOf(view)) / PERCPU_GRANULE_BYTES;
    granules = objectGranules(view, first);
    if (granules > 0) {
      clear(granules * PERCPU_GRANULE_BYTES);
      releaseGranules(view, first, granules);
      view.usedGranules -= granules;
      if (view.usedGranules === 0) destroyChunk(chunk);
    }
  }
  spinUnlock(list.lock);
  return granules > 0;
}

/** What is added to a CPU's base to be in its unit of the chunk. */
function offsetOf(chunk: PcpuChunk): number {
  return chunk.base - PerCpuAreas.at(perCpuAreas).base.get(0);
}

function holds(chunk: PcpuChunk, offset: number): boolean {
  const first = offsetOf(chunk);
  return offset >= first && offset < first + PERCPU_UNIT_BYTES;
}

function takeFrom(chunk: PcpuChunkPtr, first: number, granules: number): number {
  const view = PcpuChunk.at(chunk);
  if (!populate(view, first * PERCPU_GRANULE_BYTES, granules * PERCPU_GRANULE_BYTES)) {
    if (view.usedGranules === 0) destroyChunk(chunk);
    return 0;
  }
  takeGranules(view, first, granules);
  view.usedGranules += granules;
  return offsetOf(view) + first * PERCPU_GRANULE_BYTES;
}

/** Kernel: `pcpu_create_chunk()`. Addresses only. */
function createChunk(): PcpuChunkPtr {
  const chunk = kzalloc(PcpuChunk.bytes, GFP_KERNEL) as PcpuChunkPtr;
  if (chunk === NULL) return NULL;
  const cpus = PerCpuAreas.at(perCpuAreas).count;
  const area = reserveArea(cpus * PERCPU_UNIT_BYTES, 0, VMALLOC_START, VMALLOC_END);
  if (area === NULL) {
    kfree(chunk);
    return NULL;
  }
  const view = PcpuChunk.at(chunk);
  view.area = area;
  view.base = VmStruct.at(area).start;
  const list = Chunks.at(chunks);
  view.next = list.first;
  list.first = chunk;
  return chunk;
}

/** Kernel: `pcpu_destroy_chunk()`. */
function destroyChunk(chunk: PcpuChunkPtr): void {
  const view = PcpuChunk.at(chunk);
  const { populated, area, next } = view;
  for (let page = 0; page < UNIT_PAGES; page++) if ((populated & (1 << page)) !== 0) depopulate(view, page, Number.POSITIVE_INFINITY);
  const list = Chunks.at(chunks);
  if (list.first === chunk) list.first = next;
  else {
    let previous = list.first;
    while (PcpuChunk.at(previous).next !== chunk) previous = PcpuChunk.at(previous).next;
    PcpuChunk.at(previous).next = next;
  }
  removeArea(area, 0);
  kfree(chunk);
}

/** Makes the pages of `[from, from + bytes)` present in every unit (kernel: `pcpu_populate_chunk()`). @returns false: no memory, nothing done */
function populate(chunk: PcpuChunk, from: number, bytes: number): boolean {
  const before = chunk.populated;
  for (let at = pageDown(from); at < pageUp(from + bytes); at += PAGE_SIZE) {
    const page = at / PAGE_SIZE;
    if ((before & (1 << page)) !== 0) continue;
    if (populatePage(chunk, page)) {
      chunk.populated |= 1 << page;
      continue;
    }
    const added = chunk.populated & ~before;
    for (let other = 0; other < page; other++) if ((added & (1 << other)) !== 0) depopulate(chunk, other, Number.POSITIVE_INFINITY);
    return false;
  }
  return true;
}

/** One page in every unit (kernel: `pcpu_map_pages()`, with patch 18's asi_map). */
function populatePage(chunk: PcpuChunk, page: number): boolean {
  const cpus = PerCpuAreas.at(perCpuAreas).count;
  for (let id = 0; id < cpus; id++) {
    const address = addressOf(chunk, page, id);
    const frame = allocUnmappedPages(GFP_KERNEL | __GFP_ZERO, 0);
    const isMapped = frame !== NULL && kernelMapPage(address, pageToPhys(frame), true) === 0;
    if (isMapped && asiMap(ASI_GLOBAL_NONSENSITIVE, address, PAGE_SIZE) === 0) continue;
    if (frame !== NULL && !isMapped) freePages(frame, 0);
    depopulate(chunk, page, isMapped ? id + 1 : id);
    return false;
  }
  return true;
}

/** Takes a page out of the units of the first `units` CPUs, the restricted mapping first (S5, S8). */
function depopulate(chunk: PcpuChunk, page: number, units: number): void {
  const cpus = Math.min(PerCpuAreas.at(perCpuAreas).count, units);
  const pages: PagePtr[] = [];
  for (let id = 0; id < cpus; id++) {
    const address = addressOf(chunk, page, id);
    if (asiEnabled()) asiUnmapNoflush(ASI_GLOBAL_NONSENSITIVE, address, PAGE_SIZE);
    pages.push(kernelUnmapPage(address));
  }
  chunk.populated &= ~(1 << page);
  if (cpus === 0) return;
  flushTlbKernelRange(addressOf(chunk, page, 0), addVirt(addressOf(chunk, page, cpus - 1), PAGE_SIZE));
  for (const [id, each] of pages.entries()) {
    trace(TRACE_UNMAPPED, 0, addressOf(chunk, page, id), addressOf(chunk, page, id) + PAGE_SIZE);
    freePages(each, 0);
  }
}

function addressOf(chunk: PcpuChunk, page: number, id: number): VirtAddr {
  return addVirt(chunk.base, id * PERCPU_UNIT_BYTES + page * PAGE_SIZE);
}
