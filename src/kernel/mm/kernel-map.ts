// Single pages of the kernel's own tables, after boot: vmalloc areas, the CPU entry area, device memory.
import { ENOMEM, type Errno } from "../../abi/index.ts";
import { assert, hex, NULL, type PhysAddr, PTE_GLOBAL, type VirtAddr } from "../../hardware/index.ts";
import { kernelPagesAreGlobal } from "./cr3.ts";
import { __GFP_ZERO, GFP_KERNEL } from "./gfp.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { allocPages, freePages } from "./page-alloc.ts";
import { type PagePtr, pageToPhys, physToPage } from "./page-struct.ts";
import {
  clearEntry,
  entryAlloc,
  frameOf,
  isPresent,
  KERNPG_TABLE,
  lookupAddress,
  PAGE_KERNEL,
  PAGE_KERNEL_ROX,
  setLeaf,
} from "./page-table.ts";

/** A zeroed page for a table of the kernel half, or 0. */
export function allocKernelTable(): PhysAddr | 0 {
  const page = allocPages(GFP_KERNEL | __GFP_ZERO, 0);
  return page === NULL ? 0 : pageToPhys(page);
}

export function freeTable(table: PhysAddr): void {
  freePages(physToPage(table), 0);
}

/** Maps one page of the kernel half, not executable (kernel: `map_kernel_range()`, `set_pte_vaddr()`). Nothing was there. */
export function kernelMapPage(address: VirtAddr, frame: PhysAddr, isWritable: boolean): 0 | Errno {
  const entry = entryAlloc(Mm.at(initMm).pgd, address, 1, KERNPG_TABLE, allocKernelTable, freeTable);
  if (entry === 0) return ENOMEM;
  setLeaf(entry, frame, (isWritable ? PAGE_KERNEL : PAGE_KERNEL_ROX) | (kernelPagesAreGlobal() ? PTE_GLOBAL : 0), true);
  return 0;
}

/** Unmaps a page that `kernelMapPage` mapped; the caller flushes. @returns the page that was there */
export function kernelUnmapPage(address: VirtAddr): PagePtr {
  const translation = lookupAddress(Mm.at(initMm).pgd, address);
  assert(isPresent(translation) && translation.level === 1, () => `no kernel page at ${hex(address)}`);
  clearEntry(translation.entry);
  return physToPage(frameOf(translation));
}
