// With page-table isolation the processor reads the LDT while it is on the user tables, which do not have the direct map: the table appears
// there at one of two places of its own, in a root entry that each mm has for itself (kernel: map_ldt_struct(), LDT_BASE_ADDR).
import { ENOMEM, type Errno } from "../../abi/index.ts";
import {
  addVirt,
  cpu,
  entryFrame,
  type Level,
  PAGE_SIZE,
  type PhysAddr,
  PTE_ACCESSED,
  PTE_PRESENT,
  type Ptr,
  type VirtAddr,
} from "../../hardware/index.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { pa, va } from "./layout.ts";
import { LDT_ENTRIES, LDT_ENTRY_BYTES, LdtStruct } from "./ldt-struct.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { clearEntry, entryAlloc, entryAt, isPresent, KERNPG_TABLE, lookupAddress, setLeaf } from "./page-table.ts";
import { ptiSetUserPgtbl } from "./pti.ts";
import { flushTlbMmRange } from "./tlb.ts";

/** Kernel: LDT_BASE_ADDR, 0xffff880000000000: a root entry that nothing else uses. */
export const LDT_BASE_ADDR = -0x7800_0000_0000 as VirtAddr;
/** Kernel: LDT_SLOT_STRIDE. */
const LDT_SLOT_STRIDE = LDT_ENTRIES * LDT_ENTRY_BYTES;

/** Where a table in `slot`, 0 or 1, is mapped (kernel: `ldt_slot_va()`). */
export function ldtSlotAddress(slot: number): VirtAddr {
  return addVirt(LDT_BASE_ADDR, slot * LDT_SLOT_STRIDE);
}

function ldtBytes(ldt: Ptr<"ldt_struct">): number {
  const { nrEntries } = LdtStruct.at(ldt);
  return Math.ceil((nrEntries * LDT_ENTRY_BYTES) / PAGE_SIZE) * PAGE_SIZE;
}

/** Maps the table at `slot`, read-only. Without PTI nothing. Under ldtLock. @returns ENOMEM: nothing of it stays mapped. */
export function mapLdtSlot(mm: MmPtr, ldt: Ptr<"ldt_struct">, slot: number): 0 | Errno {
  const view = LdtStruct.at(ldt);
  view.slot = slot;
  if (!ptiFeature.isEnabled()) return 0;
  const { pgd } = Mm.at(mm);
  const bytes = ldtBytes(ldt);
  for (let at = 0; at < bytes; at += PAGE_SIZE) {
    // All 128 KiB have one table of each level: where the first page can be mapped the others can.
    const entry = entryAlloc(pgd, addVirt(ldtSlotAddress(slot), at), 1, KERNPG_TABLE, allocKernelTable, freeTable);
    if (entry === 0) return ENOMEM;
    setLeaf(entry, pa(addVirt(view.entries, at)), PTE_PRESENT | PTE_ACCESSED, true);
  }
  ptiSetUserPgtbl(mm, LDT_BASE_ADDR);
  return 0;
}

/** Unmaps a table that no CPU has loaded any more, everywhere, before it is freed (S8). Interrupts on. */
export function unmapLdtSlot(mm: MmPtr, ldt: Ptr<"ldt_struct">): void {
  if (!ptiFeature.isEnabled()) return;
  const start = ldtSlotAddress(LdtStruct.at(ldt).slot);
  const bytes = ldtBytes(ldt);
  for (let at = 0; at < bytes; at += PAGE_SIZE) {
    const found = lookupAddress(Mm.at(mm).pgd, addVirt(start, at));
    if (isPresent(found)) clearEntry(found.entry);
  }
  flushTlbMmRange(mm, start, addVirt(start, bytes));
}

/** Frees the tables of the root entry; the mm is loaded nowhere (kernel: `ldt_arch_exit_mmap()`, free_ldt_pgtables()). */
export function freeLdtTables(mm: MmPtr): void {
  if (!ptiFeature.isEnabled()) return;
  const tables: PhysAddr[] = [];
  let table = va(Mm.at(mm).pgd);
  for (let level: Level = 4; level > 1; level = (level - 1) as Level) {
    const low = cpu.load64(entryAt(table, LDT_BASE_ADDR, level));
    if ((low & PTE_PRESENT) === 0) break;
    const below = entryFrame(low, cpu.high);
    tables.push(below);
    table = va(below);
  }
  clearEntry(entryAt(va(Mm.at(mm).pgd), LDT_BASE_ADDR, 4));
  for (const gone of tables) freeTable(gone);
}
