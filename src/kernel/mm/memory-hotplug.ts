// Memory that comes and goes while the kernel runs (mm/memory_hotplug.c). Booted with mem= the kernel leaves the rest of RAM alone; it can
// be added section by section: its part of the page array and of the direct map first, then its frames. The restricted address spaces see
// the page array by shared tables, and of the direct map what is allocated nonsensitive: the tables that domains copied by their root
// entries reach to the last frame that may ever be there (patch 12).
import { EBUSY, EEXIST, EINVAL, ENOMEM, type Errno } from "../../abi/index.ts";
import {
  addVirt,
  cpu,
  entryFrame,
  LARGE_PAGE_SIZE,
  PAGE_SIZE,
  type Pfn,
  type PhysAddr,
  PTE_GLOBAL,
  PTE_LARGE,
  PTE_PRESENT,
  pfnOf,
  type VirtAddr,
} from "../../hardware/index.ts";
import { asiUnmapNoflush } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { staticBytes } from "../static-data.ts";
import { printk, TRACE_UNMAPPED, trace } from "../trace.ts";
import { freeFrames, takeFrames } from "./buddy.ts";
import { kernelPagesAreGlobal } from "./cr3.ts";
import { __GFP_ZERO, GFP_KERNEL } from "./gfp.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { VMEMMAP_START, va } from "./layout.ts";
import { memblockEnd, memblockMaxPossible } from "./memblock.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { allocUnmappedPages, drainAllFrees, freePages } from "./page-alloc.ts";
import { PAGE_STRUCT_BYTES, Page, PG_UNCLEARED, pageToPhys, pfnToPage, physToPage } from "./page-struct.ts";
import { clearEntry, entryAlloc, entryAt, frameOf, isPresent, KERNPG_TABLE, lookupAddress, PAGE_KERNEL, setLeaf } from "./page-table.ts";
import { flushTlbAll } from "./tlb.ts";

/** What is added and removed at a time (kernel: SECTION_SIZE, memory_block_size_bytes()). Its part of the page array is one large page. */
export const SECTION_BYTES = 128 * 2 ** 20;
const SECTION_ARRAY_ORDER = 9;

const ABSENT = 0;
const OFFLINE = 1;
const ONLINE = 2;
/** A byte for each section behind what booting found. 0: absent. */
const SECTIONS = 512;
const sectionStates = staticBytes("mem_section", SECTIONS, 8);

/** Numbers of the sections of a range, or undefined if it is none: whole sections behind boot memory, within what may ever be there. */
function sectionsOf(start: PhysAddr, bytes: number): readonly number[] | undefined {
  if (bytes <= 0 || start % SECTION_BYTES !== 0 || bytes % SECTION_BYTES !== 0) return undefined;
  if (start < memblockEnd() || start + bytes > memblockMaxPossible()) return undefined;
  return Array.from({ length: bytes / SECTION_BYTES }, (_, i) => start / SECTION_BYTES + i);
}

function stateOf(section: number): number {
  return cpu.load(addVirt(sectionStates, section), 1);
}

function setState(sections: readonly number[], state: number): void {
  for (const section of sections) cpu.store(addVirt(sectionStates, section), 1, state);
}

/**
 * Makes `[start, start + bytes)` known to the kernel: page array and direct map (kernel: `add_memory()`). Its frames are offline. May block.
 * @returns 0; EINVAL: not whole sections that may be there; EEXIST; ENOMEM, and nothing was added
 */
export function addMemory(start: PhysAddr, bytes: number): 0 | Errno {
  const sections = sectionsOf(start, bytes);
  if (sections === undefined) return EINVAL;
  if (sections.some((section) => stateOf(section) !== ABSENT)) return EEXIST;
  for (const [i, section] of sections.entries()) {
    if (addSection(section)) continue;
    removeSections(sections.slice(0, i));
    return ENOMEM;
  }
  setState(sections, OFFLINE);
  return 0;
}

/** Gives the frames of added memory to the page allocator (kernel: `online_pages()`). @returns 0; EINVAL: not offline memory */
export function onlinePages(start: PhysAddr, bytes: number): 0 | Errno {
  const sections = sectionsOf(start, bytes);
  if (sections === undefined || sections.some((section) => stateOf(section) !== OFFLINE)) return EINVAL;
  const first = pfnOf(start);
  const end = first + bytes / PAGE_SIZE;
  // Nobody knows what is in there: it may have been in use before it was removed (S5).
  for (let pfn: number = first; pfn < end; pfn++) Page.at(pfnToPage(pfn as Pfn)).flags = PG_UNCLEARED;
  setState(sections, ONLINE);
  freeFrames(first, end);
  printk(`memory: ${bytes / 2 ** 20} MiB online`);
  return 0;
}

/**
 * Takes the frames out of use (kernel: `offline_pages()`, without migration). May block. @returns 0; EINVAL: not online memory; EBUSY: a
 * frame is in use, and nothing has changed
 */
export function offlinePages(start: PhysAddr, bytes: number): 0 | Errno {
  const sections = sectionsOf(start, bytes);
  if (sections === undefined || sections.some((section) => stateOf(section) !== ONLINE)) return EINVAL;
  drainAllFrees();
  const first = pfnOf(start);
  if (!takeFrames(first, first + bytes / PAGE_SIZE)) return EBUSY;
  setState(sections, OFFLINE);
  return 0;
}

/** Forgets memory that is offline: no address space maps it any more when this returns (kernel: `remove_memory()`). @returns 0; EINVAL; EBUSY */
export function removeMemory(start: PhysAddr, bytes: number): 0 | Errno {
  const sections = sectionsOf(start, bytes);
  if (sections === undefined || sections.some((section) => stateOf(section) === ABSENT)) return EINVAL;
  if (sections.some((section) => stateOf(section) !== OFFLINE)) return EBUSY;
  setState(sections, ABSENT);
  removeSections(sections);
  return 0;
}

function arrayOf(section: number): VirtAddr {
  return addVirt(VMEMMAP_START, section * (SECTION_BYTES / PAGE_SIZE) * PAGE_STRUCT_BYTES);
}

/** Page array and direct map of one section. @returns false: no memory, and nothing of it is there */
function addSection(section: number): boolean {
  const { pgd } = Mm.at(initMm);
  const flags = PAGE_KERNEL | PTE_LARGE | (kernelPagesAreGlobal() ? PTE_GLOBAL : 0);
  const array = allocUnmappedPages(GFP_KERNEL | __GFP_ZERO, SECTION_ARRAY_ORDER);
  if (array === 0) return false;
  const entry = entryAlloc(pgd, arrayOf(section), 2, KERNPG_TABLE, allocKernelTable, freeTable);
  if (entry === 0) {
    freePages(array, SECTION_ARRAY_ORDER);
    return false;
  }
  setLeaf(entry, pageToPhys(array), flags, true);
  const start = section * SECTION_BYTES;
  for (let at = 0; at < SECTION_BYTES; at += LARGE_PAGE_SIZE) {
    const frame = (start + at) as PhysAddr;
    const leaf = entryAlloc(pgd, va(frame), 2, KERNPG_TABLE, allocKernelTable, freeTable);
    if (leaf === 0) {
      removeSections([section]);
      return false;
    }
    setLeaf(leaf, frame, flags, true);
  }
  return true;
}

/** Unmaps sections everywhere, restricted address spaces first (S5), flushes, and frees what they were described and mapped with. */
function removeSections(sections: readonly number[]): void {
  const { pgd } = Mm.at(initMm);
  const arrays: PhysAddr[] = [];
  const tables: PhysAddr[] = [];
  for (const section of sections) {
    const start = va((section * SECTION_BYTES) as PhysAddr);
    if (asiEnabled()) asiUnmapNoflush(ASI_GLOBAL_NONSENSITIVE, start, SECTION_BYTES);
    for (let at = 0; at < SECTION_BYTES; at += LARGE_PAGE_SIZE) {
      const table = unmapLarge(pgd, addVirt(start, at));
      if (table !== 0) tables.push(table);
    }
    const array = lookupAddress(pgd, arrayOf(section));
    if (!isPresent(array)) continue;
    arrays.push(frameOf(array));
    clearEntry(array.entry);
  }
  // A table that a walk of another CPU still reads is freed after this.
  flushTlbAll();
  for (const section of sections) {
    const start = va((section * SECTION_BYTES) as PhysAddr);
    trace(TRACE_UNMAPPED, 0, start, start + SECTION_BYTES);
  }
  for (const table of tables) freeTable(table);
  for (const array of arrays) freePages(physToPage(array), SECTION_ARRAY_ORDER);
}

/** Takes 2 MiB of the direct map away, a leaf or a table that it was split into. @returns that table, to be freed after a flush, or 0 */
function unmapLarge(pgd: PhysAddr, address: VirtAddr): PhysAddr | 0 {
  let table = pgd;
  for (const level of [4, 3] as const) {
    const low = cpu.load64(entryAt(va(table), address, level));
    if ((low & PTE_PRESENT) === 0) return 0;
    table = entryFrame(low, cpu.high);
  }
  const entry = entryAt(va(table), address, 2);
  const low = cpu.load64(entry);
  const below = entryFrame(low, cpu.high);
  clearEntry(entry);
  return (low & PTE_PRESENT) !== 0 && (low & PTE_LARGE) === 0 ? below : 0;
}
