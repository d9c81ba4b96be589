// Page-table isolation (arch/x86/mm/pti.c): user code runs on tables of its own, which have of the kernel only what entering it takes.
// The root of the user tables is the page behind the kernel's root, so that entry code switches by one bit of CR3, and has the user half
// in common with it, entry by entry. Never together with address space isolation (spec 2.17).
import {
  addVirt,
  assert,
  cpu,
  hex,
  KERNEL_PGD_BOUNDARY,
  PAGE_SIZE,
  type PhysAddr,
  PTE_GLOBAL,
  PTE_LARGE,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_USER,
  type VirtAddr,
} from "../../hardware/index.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { __GFP_ZERO, GFP_KERNEL } from "./gfp.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { va } from "./layout.ts";
import { initMm, Mm, type MmPtr } from "./mm-struct.ts";
import { allocPages, freePages } from "./page-alloc.ts";
import { pageToPhys } from "./page-struct.ts";
import { entryAlloc, entryAt, isPresent, KERNPG_TABLE, lookupAddress, setLeaf, translate } from "./page-table.ts";

const KERNEL_HALF = KERNEL_PGD_BOUNDARY * 8;
/** Attributes of a leaf without size and Global bit: the user tables' copies are flushed with their PCID. */
const LEAF_FLAGS = 0xfff & ~PTE_LARGE & ~PTE_GLOBAL;

/** Root of the user tables that belong to a kernel root (kernel: `kernel_to_user_pgdp()`). */
export function userPgdOf(pgd: PhysAddr): PhysAddr {
  return (pgd + PAGE_SIZE) as PhysAddr; // the second page of a pair
}

/** log2 of the pages of a root (kernel: PGD_ALLOCATION_ORDER). */
function pgdOrder(): number {
  return ptiFeature.isEnabled() ? 1 : 0;
}

/** A root with the kernel's half, and behind it, with PTI, a user root with its part of it (kernel: `pgd_alloc()`). @returns 0: no memory. */
export function pgdAlloc(): PhysAddr | 0 {
  const page = allocPages(GFP_KERNEL | __GFP_ZERO, pgdOrder());
  if (page === 0) return 0;
  const pgd = pageToPhys(page);
  const kernel = Mm.at(initMm).pgd;
  copyKernelHalf(pgd, kernel);
  if (ptiFeature.isEnabled()) copyKernelHalf(userPgdOf(pgd), userPgdOf(kernel));
  return pgd;
}

function copyKernelHalf(to: PhysAddr, from: PhysAddr): void {
  cpu.copy(addVirt(va(to), KERNEL_HALF), addVirt(va(from), KERNEL_HALF), PAGE_SIZE - KERNEL_HALF);
}

/** Kernel: `pgd_free()`. */
export function pgdFree(pgd: PhysAddr): void {
  freePages(va(pgd), pgdOrder());
}

/**
 * The root entry of user `address` was made: the user tables get it, and the kernel's copy loses the right to execute, so that a return to
 * user mode that forgot to switch tables does not get far (kernel: `__pti_set_user_pgtbl()`). Under the mm's lock.
 */
export function ptiSetUserPgtbl(mm: MmPtr, address: VirtAddr): void {
  if (!ptiFeature.isEnabled()) return;
  const { pgd } = Mm.at(mm);
  const entry = entryAt(va(pgd), address, 4);
  const low = cpu.load64(entry);
  const { high } = cpu;
  cpu.store64(entryAt(va(userPgdOf(pgd)), address, 4), low, high);
  if ((low & PTE_PRESENT) !== 0 && (low & PTE_USER) !== 0) cpu.store64(entry, low, (high | PTE_NX_HIGH) >>> 0);
}

/** The root entry of user `address` is about to be cleared: the copy goes first. Under the mm's lock. */
export function ptiClearUserPgtbl(mm: MmPtr, address: VirtAddr): void {
  if (ptiFeature.isEnabled()) cpu.store64(entryAt(va(userPgdOf(Mm.at(mm).pgd)), address, 4), 0, 0);
}

/**
 * Gives the user tables of every mm what the kernel's have at `[start, start + bytes)`, page by page (kernel: `pti_clone_pgtable()`). The
 * first time for a root entry: before any mm exists. Page aligned.
 */
export function ptiMapKernelRange(start: VirtAddr, bytes: number): void {
  if (!ptiFeature.isEnabled()) return;
  const kernel = Mm.at(initMm).pgd;
  const user = userPgdOf(kernel);
  for (let at = 0; at < bytes; at += PAGE_SIZE) {
    const address = addVirt(start, at);
    const source = lookupAddress(kernel, address);
    assert(isPresent(source), () => `PTI: the kernel has nothing at ${hex(address)}`);
    const entry = entryAlloc(user, address, 1, KERNPG_TABLE, allocKernelTable, freeTable);
    assert(entry !== 0, () => "out of memory at boot: PTI's user tables");
    setLeaf(entry, translate(source, address), source.low & LEAF_FLAGS, (source.high & PTE_NX_HIGH) !== 0);
  }
}

/** The user tables share the tables below the root that map `address` (kernel: `pti_clone_p4d()`). Before any mm exists. */
export function ptiCloneRootEntry(address: VirtAddr): void {
  if (!ptiFeature.isEnabled()) return;
  const kernel = Mm.at(initMm).pgd;
  const low = cpu.load64(entryAt(va(kernel), address, 4));
  cpu.store64(entryAt(va(userPgdOf(kernel)), address, 4), low, cpu.high);
}
