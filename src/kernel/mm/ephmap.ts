// Ephemeral mappings (option ephmap; Google's mermap): while a system call of a process looks into a page, the page is mapped for this CPU in
// the process's own address spaces, so that reading a file or copying a page does not leave the restricted one.
//
// Where: one root entry of the kernel half, of each mm its own, that its unrestricted tables and its domain of the class for processes
// share. No other process's tables and no guest's have it (a class without user addresses goes on by the direct map). Each CPU has slots of
// its own, so that a flush on that CPU is enough. What a process could reach so while the slot is in use is the page that it is reading,
// writing or getting. Pages are cleared when they are freed while this is on, so that a page which is new to a process holds nobody's data.
import {
  addVirt,
  cpu,
  entryFrame,
  entryHigh,
  entryLow,
  NULL,
  PAGE_SIZE,
  type PhysAddr,
  PTE_PRESENT,
  pageDown,
  type VirtAddr,
} from "../../hardware/index.ts";
import { ephmap } from "../asi/asi-options.ts";
import { asiTaints, currAsi } from "../asi/asi-state.ts";
import { ASI_CLASS_USERSPACE, ASI_TAINT_KERNEL_DATA, Asi } from "../asi/asi-struct.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { __GFP_ZERO, GFP_ATOMIC } from "./gfp.ts";
import { freeTable } from "./kernel-map.ts";
import { EPHMAP_BASE, NR_CPUS, va } from "./layout.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { allocPages } from "./page-alloc.ts";
import { type PagePtr, pageToPhys } from "./page-struct.ts";
import { clearEntry, entryAlloc, entryAt, isPresent, KERNPG_TABLE, lookupAddress, PAGE_KERNEL } from "./page-table.ts";
import { flushTlbKernelRange, flushTlbOneLocal } from "./tlb.ts";
import { loadedMm, loadedMmAsid } from "./tlb-struct.ts";

/** Slots of one CPU: uses nest, in handlers too. All CPUs' are one table of pages. */
const SLOTS = 512 / NR_CPUS;
const CPU_BYTES = SLOTS * PAGE_SIZE;
/** The ASID under which the slot is used: software bits 11:9 of the entry. */
const ASID_SHIFT = 9;
/** A slot that is given back and not flushed yet: not present, not free. */
const SLOT_BUSY = 1 << 9;

/** True for an address that `ephmapMap` gave. */
export function isEphmapAddress(address: VirtAddr): boolean {
  return address >= EPHMAP_BASE && address < EPHMAP_BASE + NR_CPUS * CPU_BYTES;
}

/**
 * Maps `page` for this CPU, if it runs in the restricted address space of a process. Any context. @returns 0: use the direct map (the
 * option is off, the CPU is elsewhere, no slot, or no memory for the tables)
 */
export function ephmapMap(page: PagePtr): VirtAddr | 0 {
  if (!ephmap.key.isEnabled()) return 0;
  const domain = currAsi.get();
  if (domain === NULL) return 0;
  const asi = Asi.at(domain);
  if (asi.classId !== ASI_CLASS_USERSPACE) return 0;
  // By the task, not by cpu.id: a path that migrates is run again.
  const first = addVirt(EPHMAP_BASE, TaskStruct.at(current()).cpu * CPU_BYTES);
  let found = lookupAddress(asi.pgd, first);
  if (found.level !== 1) {
    if (!makeTables(asi.mm, asi.pgd)) return 0;
    found = lookupAddress(asi.pgd, first);
  }
  const frame = pageToPhys(page);
  const flags = PAGE_KERNEL | (loadedMmAsid.get() << ASID_SHIFT);
  for (let slot = 0; slot < SLOTS; slot++) {
    const entry = addVirt(found.entry, slot * 8);
    if (!cpu.compareExchange64(entry, 0, 0, entryLow(frame, flags), entryHigh(frame, 0x80000000))) continue;
    // What stands in the page beside what the process may see of it goes through L1D: the next way to user mode owes a flush, no exit (S10).
    asiTaints.or(ASI_TAINT_KERNEL_DATA);
    return addVirt(first, slot * PAGE_SIZE);
  }
  return 0;
}

/** Gives a slot back; nothing on this CPU knows it any more when this returns. The task may have slept meanwhile, or moved. */
export function ephmapUnmap(address: VirtAddr): void {
  const at = pageDown(address) as VirtAddr;
  const { entry, low } = lookupAddress(Mm.at(loadedMm.get()).pgd, at);
  // Not free before it is flushed: a handler in between must not take it.
  cpu.store64(entry, SLOT_BUSY, 0);
  const isHere = Math.floor((at - EPHMAP_BASE) / CPU_BYTES) === TaskStruct.at(current()).cpu;
  if (isHere && ((low >>> ASID_SHIFT) & 7) === loadedMmAsid.get()) flushTlbOneLocal(at, ASI_CLASS_USERSPACE);
  else flushTlbKernelRange(at, addVirt(at, PAGE_SIZE));
  trace(TRACE_UNMAPPED, 0, at, at + PAGE_SIZE);
  clearEntry(entry);
}

/** The tables for the slots of `mm`, shared by its unrestricted root and `restricted`. @returns false: no memory; what is there stays */
function makeTables(mm: MmPtr, restricted: PhysAddr): boolean {
  const { pgd } = Mm.at(mm);
  const allocate = (): PhysAddr | 0 => {
    const page = allocPages(GFP_ATOMIC | __GFP_ZERO, 0);
    return page === NULL ? 0 : pageToPhys(page);
  };
  if (entryAlloc(pgd, EPHMAP_BASE, 1, KERNPG_TABLE, allocate, freeTable) === 0) return false;
  const low = cpu.load64(entryAt(va(pgd), EPHMAP_BASE, 4));
  cpu.store64(entryAt(va(restricted), EPHMAP_BASE, 4), low, cpu.high);
  return true;
}

/** Frees the tables. No slot is in use, and no CPU has the mm or its domain loaded. */
export function ephmapDestroy(mm: MmPtr): void {
  if (!ephmap.key.isEnabled()) return;
  const { pgd } = Mm.at(mm);
  const tables: PhysAddr[] = [];
  for (const level of [4, 3, 2] as const) {
    const table = tables.at(-1) ?? pgd;
    const low = cpu.load64(entryAt(va(table), EPHMAP_BASE, level));
    if ((low & PTE_PRESENT) === 0) break;
    tables.push(entryFrame(low, cpu.high));
  }
  if (tables.length > 0) clearEntry(entryAt(va(pgd), EPHMAP_BASE, 4));
  for (const table of tables) freeTable(table);
}

/** For tests: slots of all CPUs that are in use in `mm`. */
export function ephmapInUse(mm: MmPtr): number {
  const found = lookupAddress(Mm.at(mm).pgd, EPHMAP_BASE);
  if (found.level !== 1) return 0;
  let used = 0;
  for (let slot = 0; slot < 512; slot++) if (isPresent(lookupAddress(Mm.at(mm).pgd, addVirt(EPHMAP_BASE, slot * PAGE_SIZE)))) used++;
  return used;
}
