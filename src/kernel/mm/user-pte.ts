// Page-table entries of user memory (arch/x86/include/asm/pgtable.h). An entry that takes all access away keeps its frame and is not
// present to the processor; since some processors look into L1D for the frame of such an entry (L1TF), the frame is kept inverted.
import {
  addVirt,
  cpu,
  entryFrame,
  entryHigh,
  entryLow,
  levelSize,
  NULL,
  PAGE_SIZE,
  type PhysAddr,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_GLOBAL,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_USER,
  PTE_WRITE,
  type VirtAddr,
} from "../../hardware/index.ts";
import { Mm, type MmPtr, VM_ACCESS_FLAGS, VM_EXEC, VM_WRITE } from "./mm-struct.ts";
import { lookupAddress } from "./page-table.ts";

/** Kernel: _PAGE_PROTNONE: the bit of global pages, which user pages never are. Only in entries that are not present. */
export const PTE_PROTNONE = PTE_GLOBAL;

const LOW_FRAME_BITS = 0xfffff000;
const HIGH_FRAME_BITS = 0x000fffff;

/** There is a page, though the processor may be told that there is none (kernel: `pte_present()`). */
export function ptePresent(low: number): boolean {
  return (low & (PTE_PRESENT | PTE_PROTNONE)) !== 0;
}

/** Frame of an entry that has a page (kernel: `pte_pfn()` with `protnone_mask()`). */
export function pteFrame(low: number, high: number): PhysAddr {
  return (low & PTE_PRESENT) !== 0 ? entryFrame(low, high) : entryFrame(low ^ LOW_FRAME_BITS, high ^ HIGH_FRAME_BITS);
}

/**
 * Writes the entry of a page in an area with `vmFlags` (kernel: `mk_pte()` with protection_map[]). `isWritable`: where that allows
 * writing, whether this page may be written in place.
 */
export function setUserPte(entry: VirtAddr, frame: PhysAddr, vmFlags: number, isWritable: boolean): void {
  const nx = (vmFlags & VM_EXEC) === 0 ? PTE_NX_HIGH : 0;
  if ((vmFlags & VM_ACCESS_FLAGS) === 0) {
    const low = (entryLow(frame, PTE_PROTNONE | PTE_USER | PTE_ACCESSED) ^ LOW_FRAME_BITS) >>> 0;
    cpu.store64(entry, low, (entryHigh(frame, nx) ^ HIGH_FRAME_BITS) >>> 0);
    return;
  }
  const write = isWritable && (vmFlags & VM_WRITE) !== 0 ? PTE_WRITE | PTE_DIRTY : 0;
  cpu.store64(entry, entryLow(frame, PTE_PRESENT | PTE_USER | PTE_ACCESSED | write), entryHigh(frame, nx));
}

const ENTRY_BYTES = 8;

/** Direct-map address of the entry for `address`, or NULL where there is no table for it. Under the mm's lock. */
export function userPte(mm: MmPtr, address: VirtAddr): VirtAddr {
  const { level, entry } = lookupAddress(Mm.at(mm).pgd, address);
  return level === 1 ? entry : NULL;
}

/** Calls `visit` for every entry in `[start, end)` that has a page, until it says "stop" (kernel: `walk_page_range()`). Under the mm's lock. */
export function forEachUserPte(
  mm: MmPtr,
  start: VirtAddr,
  end: VirtAddr,
  visit: (entry: VirtAddr, address: VirtAddr, low: number, high: number) => "go on" | "stop",
): void {
  const { pgd } = Mm.at(mm);
  let at: number = start;
  while (at < end) {
    // Where there is no table, all that it would map is passed over; else its entries follow one another.
    const found = lookupAddress(pgd, at as VirtAddr); // inside the range
    const span = levelSize(found.level === 1 ? 2 : found.level);
    const limit = Math.min(end, (Math.floor(at / span) + 1) * span);
    if (found.level === 1) {
      for (let entry = found.entry; at < limit; at += PAGE_SIZE) {
        const low = cpu.load64(entry);
        if (ptePresent(low) && visit(entry, at as VirtAddr, low, cpu.high) === "stop") return;
        entry = addVirt(entry, ENTRY_BYTES);
      }
    }
    at = limit;
  }
}
