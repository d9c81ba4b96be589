// The areas of a user address space: mmap, munmap, brk (mm/mmap.c). Changes are made under the mm's lock; what was taken away is gone
// from every TLB, and from the guests of its VMs, before the frames are given back (S8).
import {
  EACCES,
  EEXIST,
  EINVAL,
  ENODEV,
  ENOMEM,
  EPERM,
  type Errno,
  isErr,
  MAP_32BIT,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_GROWSDOWN,
  MAP_PRIVATE,
  MAP_SHARED,
  O_ACCMODE,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  PROT_EXEC,
  PROT_READ,
  PROT_WRITE,
} from "../../abi/index.ts";
import { addVirt, isPageAligned, NULL, PAGE_SIZE, type Ptr, pageDown, pageUp, type VirtAddr } from "../../hardware/index.ts";
import { kvmMmuNotifierInvalidateEnd, kvmMmuNotifierInvalidateStart } from "../kvm/mmu-notifier.ts";
import { getFile } from "../linux/file.ts";
import { fileOperations } from "../linux/file-operations.ts";
import { File } from "../linux/file-struct.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { accessOk, MAP_32BIT_END, MAP_32BIT_START, MMAP_MIN_ADDR, TASK_SIZE_MAX } from "./layout.ts";
import {
  Mm,
  type MmPtr,
  VM_EXEC,
  VM_GROWSDOWN,
  VM_MAYEXEC,
  VM_MAYREAD,
  VM_MAYWRITE,
  VM_READ,
  VM_SHARED,
  VM_WRITE,
  VmArea,
  type VmaPtr,
} from "./mm-struct.ts";
import { type MmuGather, tlbFinishMmu, tlbGatherMmu, unmapPageRange } from "./mmu-gather.ts";
import { shmemKernelFileSetup } from "./shmem.ts";
import { unlinkUserTables } from "./user-tables.ts";
import { anonymousOffset, detachVmas, findVma, isRangeFree, mergeVma, previousVma, splitAt, vmaAlloc, vmaFree, vmaLink } from "./vma.ts";

/** Room that is kept below an area that grows down (kernel: stack_guard_gap, 256 pages). */
export const STACK_GUARD_GAP = 256 * PAGE_SIZE;

/** End of the user half of the tables. */
const USER_TABLES_CEILING = 2 ** 47;

/**
 * Maps `bytes` bytes: of `file` from page `pageOffset` on, or anonymous memory if `file` is NULL (kernel: `do_mmap()`). `address` is a
 * wish, or with MAP_FIXED the place, and what was there goes. Takes its own reference to the file. May block.
 * @returns the address; EINVAL; ENOMEM; EPERM: below mmap_min_addr; EEXIST: MAP_FIXED_NOREPLACE found something; EACCES: how the file was
 * opened does not allow it; ENODEV: files of its kind cannot be mapped.
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
  const isFixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0;
  if (bytes <= 0 || (isFixed && !isPageAligned(address))) return EINVAL;
  const wish = pageDown(address);
  if (!accessOk(wish, length)) return ENOMEM;
  const refusal = checkType(file, protection, flags);
  if (refusal !== 0) return refusal;
  if (isFixed && wish < MMAP_MIN_ADDR) return EPERM;
  const vma = vmaAlloc(mm);
  if (vma === NULL) return ENOMEM;
  const backing = backingFile(file, length, flags);
  if (isErr(backing)) {
    vmaFree(vma);
    return backing;
  }
  const view = VmArea.at(vma);
  view.file = backing;
  view.flags = vmFlags(protection, flags) & ~(isReadOnlyShare(file, flags) ? VM_MAYWRITE : 0);
  const removed: VmaPtr[] = [];
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const start = placeFor(mm, wish, length, flags, removed);
  if (!isErr(start)) {
    view.start = start;
    view.end = addVirt(start, length);
    view.pageOffset = backing === NULL ? anonymousOffset(start) : file === NULL ? 0 : pageOffset;
    vmaLink(mm, vma);
    mergeVma(mm, vma);
  }
  spinUnlock(mmapLock);
  for (const gone of removed) vmaFree(gone);
  if (isErr(start)) vmaFree(vma);
  return start;
}

/** Neither shared nor private, or not what the file allows (kernel: the cases of MAP_TYPE in `do_mmap()`). */
function checkType(file: Ptr<"file">, protection: number, flags: number): 0 | Errno {
  const isShared = (flags & MAP_SHARED) !== 0;
  if (!isShared && (flags & MAP_PRIVATE) === 0) return EINVAL;
  if (file === NULL) return 0;
  const { faultPage, mapPage } = fileOperations(File.at(file).kind);
  if (faultPage === undefined && mapPage === undefined) return ENODEV;
  if (openedFor(file) === O_WRONLY) return EACCES;
  return isShared && (protection & PROT_WRITE) !== 0 && openedFor(file) === O_RDONLY ? EACCES : 0;
}

/** Access mode of a file with a name; those without one are open for both. */
function openedFor(file: Ptr<"file">): number {
  const { inode, flags } = File.at(file);
  return inode === NULL ? O_RDWR : flags & O_ACCMODE;
}

/** Such a mapping can never be made writable: mprotect() would write to a file that may only be read. */
function isReadOnlyShare(file: Ptr<"file">, flags: number): boolean {
  return file !== NULL && (flags & MAP_SHARED) !== 0 && openedFor(file) === O_RDONLY;
}

/** What the pages come from, with a reference: the file, an object of shared memory, or nothing (NULL). @returns ENOMEM. */
function backingFile(file: Ptr<"file">, bytes: number, flags: number): Ptr<"file"> | Errno {
  if (file !== NULL) {
    getFile(file);
    return file;
  }
  return (flags & MAP_SHARED) !== 0 ? shmemKernelFileSetup(bytes) : NULL;
}

/** Where the new area goes; with MAP_FIXED what is there is unmapped. Under the lock. */
function placeFor(mm: MmPtr, wish: VirtAddr, bytes: number, flags: number, removed: VmaPtr[]): VirtAddr | Errno {
  if ((flags & MAP_FIXED_NOREPLACE) !== 0) return isRangeFree(mm, wish, bytes) ? wish : EEXIST;
  if ((flags & MAP_FIXED) === 0) {
    const place = getUnmappedArea(mm, wish, bytes, flags);
    return place === 0 ? ENOMEM : place;
  }
  const error = unmapLocked(mm, wish, addVirt(wish, bytes), removed);
  return error === 0 ? wish : error;
}

/** Unmaps `[address, address + bytes)`, areas cut at its ends (kernel: `do_munmap()`). Interrupts on. @returns 0; EINVAL; ENOMEM. */
export function doMunmap(mm: MmPtr, address: VirtAddr, bytes: number): 0 | Errno {
  const length = pageUp(bytes);
  if (length === 0 || !isPageAligned(address) || !accessOk(address, length)) return EINVAL;
  const removed: VmaPtr[] = [];
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const error = unmapLocked(mm, address, addVirt(address, length), removed);
  spinUnlock(mmapLock);
  for (const vma of removed) vmaFree(vma);
  return error;
}

/** The areas taken out are added to `removed`: their files are closed without the lock. */
function unmapLocked(mm: MmPtr, start: VirtAddr, end: VirtAddr, removed: VmaPtr[]): 0 | Errno {
  const error = splitAt(mm, start, end);
  if (error !== 0) return error;
  const vmas = detachVmas(mm, start, end);
  if (vmas.length === 0) return 0;
  removed.push(...vmas);
  const next = findVma(mm, start);
  const ceiling = next === NULL ? USER_TABLES_CEILING : VmArea.at(next).start;
  const previous = previousVma(mm, next);
  const floor = previous === NULL ? 0 : VmArea.at(previous).end;
  kvmMmuNotifierInvalidateStart(mm, start, end);
  const gather = tlbGatherMmu(mm);
  for (const vma of vmas) unmapArea(gather, vma);
  gather.tables.push(...unlinkUserTables(mm, start, end, floor, ceiling));
  tlbFinishMmu(gather, start, end);
  kvmMmuNotifierInvalidateEnd(mm);
  return 0;
}

function unmapArea(gather: MmuGather, vma: VmaPtr): void {
  const { start, end } = VmArea.at(vma);
  unmapPageRange(gather, start, end);
}

/** Unmaps everything and frees the tables of the user half (kernel: `exit_mmap()`). Nobody uses the mm any more. Interrupts on. */
export function exitMmap(mm: MmPtr): void {
  const gather = tlbGatherMmu(mm);
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  kvmMmuNotifierInvalidateStart(mm, NULL, TASK_SIZE_MAX);
  const removed: VmaPtr[] = [];
  for (let vma = Mm.at(mm).mmap; vma !== NULL; vma = VmArea.at(vma).next) {
    unmapArea(gather, vma);
    removed.push(vma);
  }
  gather.tables.push(...unlinkUserTables(mm, NULL, TASK_SIZE_MAX, 0, USER_TABLES_CEILING));
  Mm.at(mm).mmap = NULL;
  tlbFinishMmu(gather, NULL, TASK_SIZE_MAX);
  kvmMmuNotifierInvalidateEnd(mm);
  spinUnlock(mmapLock);
  for (const vma of removed) vmaFree(vma);
}

/**
 * Moves the end of the heap to `wish` (kernel: the system call brk). Interrupts on.
 * @returns the new end, or the old one where that cannot be: in the way of another area, below the start, no memory
 */
export function doBrk(mm: MmPtr, wish: number): VirtAddr {
  const view = Mm.at(mm);
  const removed: VmaPtr[] = [];
  spinLock(view.mmapLock);
  const { startBrk, brk } = view;
  const isDone = wish >= startBrk && wish <= TASK_SIZE_MAX && moveBrk(mm, pageUp(brk), pageUp(wish), removed);
  if (isDone) view.brk = wish as VirtAddr; // between two addresses
  spinUnlock(view.mmapLock);
  for (const vma of removed) vmaFree(vma);
  return isDone ? (wish as VirtAddr) : brk;
}

/** Under the lock; both page aligned. */
function moveBrk(mm: MmPtr, from: number, to: number, removed: VmaPtr[]): boolean {
  const start = Math.min(from, to) as VirtAddr; // one of both
  const bytes = Math.abs(to - from);
  if (bytes === 0) return true;
  if (to < from) return unmapLocked(mm, start, addVirt(start, bytes), removed) === 0;
  const next = findVma(mm, start);
  if (next !== NULL && areaFloor(VmArea.at(next)) < to) return false;
  const vma = vmaAlloc(mm);
  if (vma === NULL) return false;
  const view = VmArea.at(vma);
  view.start = start;
  view.end = addVirt(start, bytes);
  view.flags = vmFlags(PROT_READ | PROT_WRITE, 0);
  view.pageOffset = anonymousOffset(start);
  vmaLink(mm, vma);
  mergeVma(mm, vma);
  return true;
}

function vmFlags(protection: number, flags: number): number {
  return (
    ((protection & PROT_READ) !== 0 ? VM_READ : 0) |
    ((protection & PROT_WRITE) !== 0 ? VM_WRITE : 0) |
    ((protection & PROT_EXEC) !== 0 ? VM_EXEC : 0) |
    ((flags & MAP_SHARED) !== 0 ? VM_SHARED : 0) |
    ((flags & MAP_GROWSDOWN) !== 0 ? VM_GROWSDOWN : 0) |
    VM_MAYREAD |
    VM_MAYWRITE |
    VM_MAYEXEC
  );
}

/** Lowest address that must stay free for an area (kernel: `vm_start_gap()`). */
function areaFloor(vma: VmArea): number {
  const { start, flags } = vma;
  return (flags & VM_GROWSDOWN) !== 0 ? Math.max(0, start - STACK_GUARD_GAP) : start;
}

/**
 * The wish if it is free, else the highest gap below the mm's mmap base; with MAP_32BIT one that 31 bits reach. 0 when there is none (kernel:
 * `get_unmapped_area()`, top down).
 */
function getUnmappedArea(mm: MmPtr, wish: VirtAddr, bytes: number, flags: number): VirtAddr {
  if (wish >= MMAP_MIN_ADDR && isRangeFree(mm, wish, bytes)) {
    const next = findVma(mm, wish);
    if (next === NULL || areaFloor(VmArea.at(next)) >= wish + bytes) return wish;
  }
  const isLow = (flags & MAP_32BIT) !== 0;
  const top = isLow ? MAP_32BIT_END : Mm.at(mm).mmapBase;
  let best: VirtAddr = NULL;
  let floor: VirtAddr = isLow ? MAP_32BIT_START : MMAP_MIN_ADDR;
  for (let vma = Mm.at(mm).mmap; ; vma = VmArea.at(vma).next) {
    const ceiling = vma === NULL ? top : (Math.min(top, areaFloor(VmArea.at(vma))) as VirtAddr); // one of both
    if (ceiling - floor >= bytes) best = addVirt(ceiling, -bytes);
    if (vma === NULL) return best;
    const { end } = VmArea.at(vma);
    if (end > floor) floor = end;
  }
}
