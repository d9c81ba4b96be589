// The page tables of the user half: made when a page first needs them, freed with the areas that needed them. The root's entries are
// mirrored, in the restricted address spaces that map user memory and in PTI's user tables; those copies go first (S5).
import { addVirt, cpu, entryFrame, type Level, levelSize, NULL, type PhysAddr, PTE_PRESENT, type VirtAddr } from "../../hardware/index.ts";
import { asiClearUserPgd, asiCloneUserPgtbl } from "../asi/asi-user.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { va } from "./layout.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { clearEntry, entryAlloc, entryAt, PAGE_TABLE } from "./page-table.ts";
import { ptiClearUserPgtbl, ptiSetUserPgtbl } from "./pti.ts";

const ENTRY_BYTES = 8;

/** Direct-map address of the entry for user `address`, with the tables above it made (kernel: `pte_alloc()`). @returns NULL: no memory. */
export function userPteAlloc(mm: MmPtr, address: VirtAddr): VirtAddr {
  const { pgd } = Mm.at(mm);
  const hadRootEntry = (cpu.load(entryAt(va(pgd), address, 4), 4) & PTE_PRESENT) !== 0;
  const entry = entryAlloc(pgd, address, 1, PAGE_TABLE, allocKernelTable, freeTable);
  // Also where a table further down could not be made: what is in the root is in its mirrors.
  if (!hadRootEntry) {
    asiCloneUserPgtbl(mm, address);
    ptiSetUserPgtbl(mm, address);
  }
  return entry === 0 ? NULL : entry;
}

/**
 * Takes out the tables that only `[start, end)` needs, where nothing is mapped any more: all whose span lies in `[floor, ceiling)`, the
 * gap between the neighbouring areas (kernel: `free_pgtables()`). The caller flushes before it frees what is returned.
 */
export function unlinkUserTables(mm: MmPtr, start: VirtAddr, end: VirtAddr, floor: number, ceiling: number): PhysAddr[] {
  const unlinked: PhysAddr[] = [];
  unlinkBelow(mm, Mm.at(mm).pgd, 4, start, end, { floor, ceiling, unlinked });
  return unlinked;
}

interface Gap {
  readonly floor: number;
  readonly ceiling: number;
  readonly unlinked: PhysAddr[];
}

/** Kernel: `free_p4d_range()` and its kin. `table` maps `[start, end)` among others. */
function unlinkBelow(mm: MmPtr, table: PhysAddr, level: Level, start: number, end: number, gap: Gap): void {
  const span = levelSize(level);
  for (let base = Math.floor(start / span) * span; base < end; base += span) {
    const entry = addVirt(va(table), (Math.floor(base / span) % 512) * ENTRY_BYTES);
    const low = cpu.load64(entry);
    const high = cpu.high;
    if ((low & PTE_PRESENT) === 0) continue;
    const below = entryFrame(low, high);
    if (level > 2) unlinkBelow(mm, below, (level - 1) as Level, Math.max(start, base), Math.min(end, base + span), gap);
    if (base < gap.floor || base + span > gap.ceiling) continue;
    if (level === 4) {
      asiClearUserPgd(mm, base as VirtAddr); // an address of the user half
      ptiClearUserPgtbl(mm, base as VirtAddr);
    }
    clearEntry(entry);
    gap.unlinked.push(below);
  }
}
