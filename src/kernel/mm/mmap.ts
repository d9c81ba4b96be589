// The areas of a user address space: mmap, munmap, and taking memory away. Changes are made under the mm's lock; what was taken away is
// flushed from every TLB, and from the guests of its VMs, before the frames are given back (S8).
import { EEXIST, EINVAL, ENOMEM, type Errno, MAP_FIXED, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, isPageAligned, levelSize, NULL, PAGE_SIZE, type Ptr, pageUp, type VirtAddr } from "../../hardware/index.ts";
import { kvmMmuNotifierInvalidateRange } from "../kvm/mmu-notifier.ts";
import { fput, getFile } from "../linux/file.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { accessOk, MMAP_BASE, MMAP_MIN_ADDR, TASK_SIZE_MAX } from "./layout.ts";
import { freePageTables } from "./mm.ts";
import { Mm, type MmPtr, VM_EXEC, VM_READ, VM_SHARED, VM_WRITE, VmArea, type VmaPtr } from "./mm-struct.ts";
import { putPage } from "./page-alloc.ts";
import { type PagePtr, physToPage } from "./page-struct.ts";
import { clearEntry, frameOf, isPresent, lookupAddress } from "./page-table.ts";
import { kfree, kmalloc } from "./slab.ts";
import { flushTlbMm, flushTlbMmRange } from "./tlb.ts";

/** The first area that ends above `address`, or NULL (kernel: `find_vma()`). Under the lock. */
export function findVma(mm: MmPtr, address: VirtAddr): VmaPtr {
  let vma = Mm.at(mm).mmap;
  while (vma !== NULL && VmArea.at(vma).end <= address) vma = VmArea.at(vma).next;
  return vma;
}

/**
 * Maps `bytes` bytes: of `file` from page `pageOffset` on, or anonymous memory if `file` is NULL (kernel: `do_mmap()`). `address` is a
 * wish, or with MAP_FIXED the place, and what was there goes. Takes its own reference to the file. May block.
 * @returns the address; EINVAL; ENOMEM.
 */
export function doMmap(
  mm: MmPtr,
  address: VirtAddr,
  bytes: number,
  protection: number,
  flags: number,
  file: Ptr<"file">,
  pageOffset: number,
): VirtAddr | Errno {
  const length = pageUp(bytes);
  if (bytes <= 0 || !isPageAligned(address)) return EINVAL;
  if (!accessOk(address, length)) return ENOMEM;
  const isFixed = (flags & MAP_FIXED) !== 0;
  if (isFixed && address < MMAP_MIN_ADDR) return EINVAL;
  const vma = kmalloc(VmArea.bytes, GFP_KERNEL) as VmaPtr;
  if (vma === NULL) return ENOMEM;
  if (isFixed) {
    const error = doMunmap(mm, address, length);
    if (error !== 0) {
      kfree(vma);
      return error;
    }
  }
  const view = VmArea.at(vma);
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const start = isFixed ? address : getUnmappedArea(mm, address, length);
  const isFree = start !== 0 && isRangeFree(mm, start, length);
  if (isFree) {
    view.start = start;
    view.end = addVirt(start, length);
    view.flags = vmFlags(protection, flags);
    view.mm = mm;
    view.file = file;
    view.pageOffset = pageOffset;
    linkVma(mm, vma);
  }
  spinUnlock(mmapLock);
  if (!isFree) {
    kfree(vma);
    return isFixed ? EEXIST : ENOMEM;
  }
  if (file !== NULL) getFile(file);
  return start;
}

/** Unmaps `[address, address + bytes)`, areas cut at its ends (kernel: `do_munmap()`). Interrupts on. @returns 0; EINVAL; ENOMEM. */
export function doMunmap(mm: MmPtr, address: VirtAddr, bytes: number): 0 | Errno {
  const length = pageUp(bytes);
  if (length === 0 || !isPageAligned(address) || !accessOk(address, length)) return EINVAL;
  const end = addVirt(address, length);
  // An area that is cut in the middle becomes two: the record of the second is made before the lock is taken.
  const spare = kmalloc(VmArea.bytes, GFP_KERNEL) as VmaPtr;
  if (spare === NULL) return ENOMEM;
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const { removed, isSpareUsed } = cutAreas(mm, address, end, spare);
  const pages = unmapRange(mm, address, end);
  spinUnlock(mmapLock);
  // Before the frames are anybody else's: no guest and no TLB may still reach them.
  kvmMmuNotifierInvalidateRange(mm, address, end);
  flushTlbMmRange(mm, address, end);
  trace(TRACE_UNMAPPED, mm, address, end);
  for (const page of pages) putPage(page);
  for (const vma of removed) freeVma(vma);
  if (!isSpareUsed) kfree(spare);
  return 0;
}

/** Unmaps everything and frees the tables of the user half (kernel: `exit_mmap()`). Nobody uses the mm any more. */
export function unmapAll(mm: MmPtr): void {
  const pages: PagePtr[] = [];
  for (let vma = Mm.at(mm).mmap; vma !== NULL; vma = VmArea.at(vma).next) {
    const { start, end } = VmArea.at(vma);
    pages.push(...unmapRange(mm, start, end));
  }
  kvmMmuNotifierInvalidateRange(mm, NULL, TASK_SIZE_MAX);
  flushTlbMm(mm);
  for (const page of pages) putPage(page);
  freePageTables(mm);
  for (let vma = Mm.at(mm).mmap; vma !== NULL; vma = Mm.at(mm).mmap) {
    Mm.at(mm).mmap = VmArea.at(vma).next;
    freeVma(vma);
  }
}

function freeVma(vma: VmaPtr): void {
  const { file } = VmArea.at(vma);
  kfree(vma);
  if (file !== NULL) fput(file);
}

function vmFlags(protection: number, flags: number): number {
  return (
    ((protection & PROT_READ) !== 0 ? VM_READ : 0) |
    ((protection & PROT_WRITE) !== 0 ? VM_WRITE : 0) |
    ((protection & PROT_EXEC) !== 0 ? VM_EXEC : 0) |
    ((flags & MAP_SHARED) !== 0 ? VM_SHARED : 0)
  );
}

function isRangeFree(mm: MmPtr, start: VirtAddr, bytes: number): boolean {
  const vma = findVma(mm, start);
  return vma === NULL || VmArea.at(vma).start >= start + bytes;
}

/** The wish if it is free, else the highest gap below the mmap base; 0 when there is none (kernel: `get_unmapped_area()`, top down). */
function getUnmappedArea(mm: MmPtr, wish: VirtAddr, bytes: number): VirtAddr {
  if (wish >= MMAP_MIN_ADDR && isRangeFree(mm, wish, bytes)) return wish;
  let best: VirtAddr = NULL;
  let floor = MMAP_MIN_ADDR;
  for (let vma = Mm.at(mm).mmap; ; vma = VmArea.at(vma).next) {
    const ceiling = vma === NULL ? MMAP_BASE : (Math.min(MMAP_BASE, VmArea.at(vma).start) as VirtAddr);
    if (ceiling - floor >= bytes) best = addVirt(ceiling, -bytes);
    if (vma === NULL) return best;
    floor = VmArea.at(vma).end;
  }
}

/** Puts an area where its address belongs. Under the lock. */
function linkVma(mm: MmPtr, vma: VmaPtr): void {
  const view = VmArea.at(vma);
  const { start } = view;
  let previous: VmaPtr = NULL;
  let next = Mm.at(mm).mmap;
  while (next !== NULL && VmArea.at(next).start < start) {
    previous = next;
    next = VmArea.at(next).next;
  }
  view.next = next;
  if (previous === NULL) Mm.at(mm).mmap = vma;
  else VmArea.at(previous).next = vma;
}

interface Cut {
  readonly removed: readonly VmaPtr[];
  readonly isSpareUsed: boolean;
}

/** Takes `[start, end)` out of the list of areas: whole ones are unlinked, others shortened. Under the lock. */
function cutAreas(mm: MmPtr, start: VirtAddr, end: VirtAddr, spare: VmaPtr): Cut {
  const removed: VmaPtr[] = [];
  let isSpareUsed = false;
  let previous: VmaPtr = NULL;
  let vma = Mm.at(mm).mmap;
  while (vma !== NULL) {
    const view = VmArea.at(vma);
    const { start: from, end: to, next } = view;
    if (from >= end) break;
    if (to > end) {
      // The part behind the cut: a record of its own if there is a part before it too.
      const tail = from < start ? VmArea.at(spare) : view;
      if (from < start) {
        isSpareUsed = true;
        tail.flags = view.flags;
        tail.mm = mm;
        tail.file = view.file;
        tail.end = to;
        tail.next = next;
        view.next = spare;
        if (view.file !== NULL) getFile(view.file);
      }
      tail.pageOffset = view.pageOffset + (end - from) / PAGE_SIZE;
      tail.start = end;
    }
    if (from < start && to > start) view.end = start;
    if (from >= start && to <= end) {
      removed.push(vma);
      if (previous === NULL) Mm.at(mm).mmap = next;
      else VmArea.at(previous).next = next;
    } else {
      previous = vma;
    }
    vma = next;
  }
  return { removed, isSpareUsed };
}

/** Clears the entries of `[start, end)` and returns the pages they named; nothing is flushed (kernel: `unmap_vmas()`). */
function unmapRange(mm: MmPtr, start: VirtAddr, end: VirtAddr): PagePtr[] {
  const { pgd } = Mm.at(mm);
  const pages: PagePtr[] = [];
  let at: number = start;
  while (at < end) {
    const found = lookupAddress(pgd, at as VirtAddr);
    if (isPresent(found)) {
      clearEntry(found.entry);
      pages.push(physToPage(frameOf(found)));
    }
    const size = levelSize(found.level);
    at = (Math.floor(at / size) + 1) * size;
  }
  return pages;
}
