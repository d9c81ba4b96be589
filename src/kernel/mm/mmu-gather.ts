// Taking user memory away in the one order that is right: entries, then every TLB and every guest, then the frames (mm/mmu_gather.c; S8).
import { NULL, type PhysAddr, type VirtAddr } from "../../hardware/index.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { freeTable } from "./kernel-map.ts";
import type { MmPtr } from "./mm-struct.ts";
import { putPage } from "./page-alloc.ts";
import { type PagePtr, physToPage } from "./page-struct.ts";
import { clearEntry } from "./page-table.ts";
import { flushTlbMmRange } from "./tlb.ts";
import { forEachUserPte, pteFrame } from "./user-pte.ts";
import { isZeroFrame } from "./zero-page.ts";

/** What was taken out of the tables and may still be in a TLB (kernel: struct mmu_gather). Of one path: nobody else sees it. */
export interface MmuGather {
  readonly mm: MmPtr;
  readonly pages: PagePtr[];
  readonly tables: PhysAddr[];
  /** Entries that were cleared: those of the zero page, which nobody gives back, count too. */
  cleared: number;
}

/** Kernel: `tlb_gather_mmu()`. */
export function tlbGatherMmu(mm: MmPtr): MmuGather {
  return { mm, pages: [], tables: [], cleared: 0 };
}

/** Clears the entries of `[start, end)` (kernel: `unmap_vmas()`). Under the mm's lock. */
export function unmapPageRange(gather: MmuGather, start: VirtAddr, end: VirtAddr): void {
  forEachUserPte(gather.mm, start, end, (entry, _address, low, high) => {
    clearEntry(entry);
    gather.cleared++;
    const frame = pteFrame(low, high);
    if (!isZeroFrame(frame)) gather.pages.push(physToPage(frame));
    return "go on";
  });
}

/** One flush for all that was taken out of `[start, end)`; then it is given back (kernel: `tlb_finish_mmu()`). Interrupts on. */
export function tlbFinishMmu(gather: MmuGather, start: VirtAddr, end: VirtAddr): void {
  const { mm, pages, tables } = gather;
  if (gather.cleared > 0 || tables.length > 0) flushTlbMmRange(mm, start, end, tables.length > 0);
  if (mm !== NULL) trace(TRACE_UNMAPPED, mm, start, end);
  for (const page of pages) putPage(page);
  for (const table of tables) freeTable(table);
}
