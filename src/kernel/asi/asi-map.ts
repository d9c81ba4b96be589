// What a restricted address space maps: translations copied, page by page, from the unrestricted tables, at the same virtual address
// and to the same frame. Kernel-half tables below the root are shared by all domains and never freed.

import { EBUSY, ENOMEM, type Errno } from "../../abi/index.ts";
import {
  addVirt,
  assert,
  cpu,
  entryHigh,
  entryLow,
  hex,
  isPageAligned,
  levelSize,
  PAGE_SIZE,
  type PhysAddr,
  PTE_LARGE,
  PTE_NX_HIGH,
  PTE_PRESENT,
  type Ptr,
  tableIndex,
  type VirtAddr,
} from "../../hardware/index.ts";
import { ESPFIX_BASE_ADDR } from "../entry/espfix-layout.ts";
import { __GFP_RECLAIM, __GFP_ZERO, GFP_KERNEL, GFP_NOWAIT, type Gfp } from "../mm/gfp.ts";
import { CPU_ENTRY_AREA_BASE, VMEMMAP_START, va } from "../mm/layout.ts";
import { Mm } from "../mm/mm-struct.ts";
import { allocUnmappedPages, freePages } from "../mm/page-alloc.ts";
import { pageToPhys } from "../mm/page-struct.ts";
import {
  clearEntry,
  entryAlloc,
  entryAt,
  frameOf,
  isPresent,
  KERNPG_TABLE,
  lookupAddress,
  splitLargeLeaf,
  type Translation,
  translate,
} from "../mm/page-table.ts";
import { nrCpuIds, perCpuBase } from "../mm/percpu.ts";
import { flushTlbKernelRange } from "../mm/tlb.ts";
import { TRACE_UNMAPPED, trace, WARN_MAP_CONFLICT, WARN_MAP_IN_CRITICAL, warn } from "../trace.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "./asi-state.ts";
import { Asi } from "./asi-struct.ts";
import { asiInCriticalSection } from "./asi-transition.ts";

function checkRange(address: VirtAddr, bytes: number): void {
  assert(isPageAligned(address) && isPageAligned(bytes) && address < 0, () => `asi_map: not kernel pages: ${hex(address)} + ${bytes}`);
  if (asiInCriticalSection()) warn(WARN_MAP_IN_CRITICAL);
}

/**
 * A zeroed page for a table, or 0. Not mapped on allocation, which would need another table; then mapped as far as that succeeds, so
 * that allocating a page in the restricted address space need not leave it (kernel: `asi_pgtbl_alloc()`).
 */
function allocTable(gfp: Gfp): PhysAddr | 0 {
  const page = allocUnmappedPages((gfp & __GFP_RECLAIM) | __GFP_ZERO, 0);
  return page === 0 ? 0 : pageToPhys(page);
}

function freeTable(table: PhysAddr): void {
  freePages(va(table), 0);
}

/** Makes the nonsensitive range `[address, address + bytes)` visible in `asi` with GFP_KERNEL. Kernel: `asi_map()`. */
export function asiMap(asi: Ptr<"asi">, address: VirtAddr, bytes: number): 0 | Errno {
  return asiMapGfp(asi, address, bytes, GFP_KERNEL);
}

/**
 * Makes `[address, address + bytes)` visible in `asi` by copying translations that the unrestricted tables hold (kernel:
 * `asi_map_gfp()`). Pages that are absent there are skipped. Page aligned; not inside a critical section. Nothing is flushed.
 * @returns 0; ENOMEM: what was mapped so far stays, the caller unmaps it; EBUSY: a larger leaf already maps another frame.
 */
export function asiMapGfp(asi: Ptr<"asi">, address: VirtAddr, bytes: number, gfp: Gfp): 0 | Errno {
  if (!asiEnabled()) return 0;
  checkRange(address, bytes);
  const { pgd, mm } = Asi.at(asi);
  const unrestricted = Mm.at(mm).pgd;
  let at = 0;
  while (at < bytes) {
    const here = addVirt(address, at);
    const source = lookupAddress(unrestricted, here);
    const size = levelSize(source.level);
    const inside = here - Math.floor(here / size) * size;
    if (!isPresent(source)) {
      at += size - inside;
      continue;
    }
    const isWhole = source.level > 1 && inside === 0 && bytes - at >= size;
    if (isWhole && mapLeaf(pgd, here, source, gfp)) {
      at += size;
      continue;
    }
    const error = mapPage(pgd, here, source, gfp);
    if (error !== 0) return error;
    at += PAGE_SIZE;
  }
  return 0;
}

/** Copies a large leaf whole. @returns false where tables for smaller pages are there already, or no memory. */
function mapLeaf(pgd: PhysAddr, address: VirtAddr, source: Translation, gfp: Gfp): boolean {
  const made: PhysAddr[] = [];
  const entry = entryAlloc(pgd, address, source.level, KERNPG_TABLE, () => noted(made, gfp), freeTable);
  mapTables(made, gfp);
  if (entry === 0) return false;
  const low = cpu.load64(entry);
  if ((low & PTE_PRESENT) !== 0 && (low & PTE_LARGE) === 0) return false;
  cpu.store64(entry, source.low, source.high);
  return true;
}

/** Maps one 4 KiB page of `source`. */
function mapPage(pgd: PhysAddr, address: VirtAddr, source: Translation, gfp: Gfp): 0 | Errno {
  const made: PhysAddr[] = [];
  const entry = entryAlloc(pgd, address, 1, KERNPG_TABLE, () => noted(made, gfp), freeTable);
  mapTables(made, gfp);
  const frame = translate(source, address);
  const page = (frame - (frame % PAGE_SIZE)) as PhysAddr;
  if (entry === 0) {
    const there = lookupAddress(pgd, address);
    return isPresent(there) ? sameFrame(translate(there, address), frame) : ENOMEM;
  }
  // The attributes of the source, without its size bit, and NX.
  const flags = source.level === 1 ? source.low & 0xfff : source.low & 0xfff & ~PTE_LARGE;
  const low = entryLow(page, flags);
  const high = entryHigh(page, (source.high & PTE_NX_HIGH) >>> 0);
  if (cpu.compareExchange64(entry, 0, 0, low, high)) return 0;
  const there = lookupAddress(pgd, address);
  if (!isPresent(there)) return mapPage(pgd, address, source, gfp);
  const error = sameFrame(translate(there, address), frame);
  if (error === 0) cpu.store64(there.entry, low, high);
  return error;
}

/** What is mapped already must be what is asked for: a present entry is never turned to another frame without a flush. */
function sameFrame(there: PhysAddr, wanted: PhysAddr): 0 | Errno {
  if (there === wanted) return 0;
  warn(WARN_MAP_CONFLICT);
  return EBUSY;
}

function noted(made: PhysAddr[], gfp: Gfp): PhysAddr | 0 {
  const table = allocTable(gfp);
  if (table !== 0) made.push(table);
  return table;
}

/** Maps new tables in the direct map of every domain; a failure only costs an exit later. */
function mapTables(made: readonly PhysAddr[], gfp: Gfp): void {
  for (const table of made) asiMapGfp(ASI_GLOBAL_NONSENSITIVE, va(table), PAGE_SIZE, gfp);
}

/**
 * Takes `[address, address + bytes)` out of `asi` and flushes it from the TLBs of every CPU (kernel: `asi_unmap()`). Interrupts on; may
 * wait. Exactly that range goes: a large leaf that it cuts is split.
 */
export function asiUnmap(asi: Ptr<"asi">, address: VirtAddr, bytes: number): void {
  if (!asiEnabled() || bytes === 0) return;
  const [start, end] = asiUnmapNoflush(asi, address, bytes);
  flushTlbKernelRange(start, end);
  trace(TRACE_UNMAPPED, 0, address, address + bytes);
}

/**
 * As `asiUnmap` without the flush, for callers that flush more at once. @returns the range to be flushed. It is wider than what was asked
 * for where a large leaf had to go whole, because there was no memory to split it: what is lost so costs exits and no safety.
 */
export function asiUnmapNoflush(asi: Ptr<"asi">, address: VirtAddr, bytes: number): readonly [VirtAddr, VirtAddr] {
  checkRange(address, bytes);
  assert(!isShared(address), () => `asi_unmap() of tables that the unrestricted address space shares: ${hex(address)}`);
  const { pgd } = Asi.at(asi);
  let start = address;
  let end = addVirt(address, bytes);
  let at = 0;
  while (at < bytes) {
    const here = addVirt(address, at);
    const found = lookupAddress(pgd, here);
    const size = levelSize(found.level);
    const inside = here - Math.floor(here / size) * size;
    if (isPresent(found)) {
      const isWhole = inside === 0 && bytes - at >= size;
      if (!isWhole && splitRestricted(found)) continue;
      clearEntry(found.entry);
      start = Math.min(start, here - inside) as VirtAddr;
      end = Math.max(end, here - inside + size) as VirtAddr;
    }
    at += size - inside;
  }
  return [start, end];
}

/** Splits a large leaf of restricted tables. Never waits: it serves unmapping, which must get on. @returns false: no memory */
export function splitRestricted(found: Translation): boolean {
  const made: PhysAddr[] = [];
  const done = splitLargeLeaf(found, () => noted(made, GFP_NOWAIT), freeTable);
  mapTables(made, GFP_NOWAIT);
  return done;
}

/** Address space areas whose lower tables are those of the unrestricted address space (`asiClonePgd`). */
function isShared(address: VirtAddr): boolean {
  return [VMEMMAP_START, CPU_ENTRY_AREA_BASE, ESPFIX_BASE_ADDR].some((shared) => tableIndex(address, 4) === tableIndex(shared, 4));
}

/** Maps `[offset, offset + bytes)` of every CPU's area (kernel: `asi_map_percpu()`). @returns 0, or as `asiMap` */
export function asiMapPercpu(offset: number, bytes: number): 0 | Errno {
  const cpus = nrCpuIds();
  for (let id = 0; id < cpus; id++) {
    const error = asiMap(ASI_GLOBAL_NONSENSITIVE, addVirt(perCpuBase(id), offset), bytes);
    if (error !== 0) return error;
  }
  return 0;
}

/** Shares the tables below the root that map `address` (kernel: `asi_clone_pgd()`, and `asi_clone_p4d()`, which is the same with four levels): what they get later, every domain has too. */
export function asiClonePgd(address: VirtAddr): void {
  const global = Asi.at(ASI_GLOBAL_NONSENSITIVE);
  const from = entryAt(va(Mm.at(global.mm).pgd), address, 4);
  const low = cpu.load64(from);
  cpu.store64(entryAt(va(global.pgd), address, 4), low, cpu.high);
}

/** True when `address` is mapped in the tables at `pgd`. For assertions and tests. */
export function isMappedIn(pgd: PhysAddr, address: VirtAddr): boolean {
  return isPresent(lookupAddress(pgd, address));
}

/** Frame that `pgd` maps `address` to, or undefined. For tests. */
export function frameIn(pgd: PhysAddr, address: VirtAddr): PhysAddr | undefined {
  const found = lookupAddress(pgd, address);
  return isPresent(found) ? frameOf(found) : undefined;
}
