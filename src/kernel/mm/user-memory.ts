// Demand paging of user memory. Anonymous pages are private to the mm: sensitive, zero, made present by the first access. There is no
// swap, no copy on write (nothing forks), no shared zero page: a page that is read before it is written is a page of its own.
import { EFAULT, ENOMEM, type Errno, isErr } from "../../abi/index.ts";
import {
  NULL,
  OWNER_USER,
  owner,
  PAGE_SIZE,
  type PhysAddr,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_PRESENT,
  PTE_USER,
  PTE_WRITE,
  pageDown,
  type VirtAddr,
} from "../../hardware/index.ts";
import { asiCloneUserPgtbl } from "../asi/asi-user.ts";
import { fileMapPage } from "../linux/file.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { GFP_HIGHUSER_MOVABLE } from "./gfp.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { clearHighpage } from "./kmap.ts";
import { Mm, type MmPtr, VM_EXEC, VM_READ, VM_WRITE, VmArea } from "./mm-struct.ts";
import { findVma } from "./mmap.ts";
import { allocPages, getPage, setPageOwner } from "./page-alloc.ts";
import { type PagePtr, pageToPhys, virtToPage } from "./page-struct.ts";
import { entryAlloc, isPresent, lookupAddress, PAGE_TABLE, setLeaf, type Translation, translate } from "./page-table.ts";

/** What an access wants. */
export type Access = "read" | "write" | "execute";

function vmaAllows(flags: number, access: Access): boolean {
  if (access === "write") return (flags & VM_WRITE) !== 0;
  if (access === "execute") return (flags & VM_EXEC) !== 0;
  return (flags & (VM_READ | VM_WRITE | VM_EXEC)) !== 0;
}

/**
 * Makes the page of `address` present for `access` (kernel: `handle_mm_fault()` with the lookup of the area). Interrupts on, may block.
 * @returns 0; EFAULT: no area, or it does not allow this; ENOMEM.
 */
export function handleMmFault(mm: MmPtr, address: VirtAddr, access: Access): 0 | Errno {
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const error = faultIn(mm, address, access);
  spinUnlock(mmapLock);
  return error;
}

/** Under the lock. Allocations may do the work of queued frees and then wait for other CPUs, whose interrupts are on while they spin. */
function faultIn(mm: MmPtr, address: VirtAddr, access: Access): 0 | Errno {
  const vma = findVma(mm, address);
  if (vma === NULL) return EFAULT;
  const view = VmArea.at(vma);
  const { start, flags } = view;
  if (start > address || !vmaAllows(flags, access)) return EFAULT;
  const { pgd, number } = Mm.at(mm);
  const page = pageDown(address);
  let hasNewTable = false;
  const allocate = (): PhysAddr | 0 => {
    hasNewTable = true;
    return allocKernelTable();
  };
  const entry = entryAlloc(pgd, page, 1, PAGE_TABLE, allocate, freeTable);
  // Perhaps the root's entry is among them; also where the page itself fails.
  if (hasNewTable) asiCloneUserPgtbl(mm, page);
  if (entry === 0) return ENOMEM;
  if (isPresent(lookupAddress(pgd, page))) return 0; // another thread was first, or a TLB was behind
  const { file } = view;
  const frame = file === NULL ? anonymousPage(number) : filePage(file, view.pageOffset + (page - start) / PAGE_SIZE);
  if (isErr(frame)) return frame;
  const writable = (flags & VM_WRITE) !== 0 ? PTE_WRITE | PTE_DIRTY : 0;
  setLeaf(entry, pageToPhys(frame), PTE_PRESENT | PTE_USER | PTE_ACCESSED | writable, (flags & VM_EXEC) === 0);
  return 0;
}

function anonymousPage(mmNumber: number): PagePtr | Errno {
  const page = allocPages(GFP_HIGHUSER_MOVABLE, 0);
  if (page === NULL) return ENOMEM;
  clearHighpage(page);
  setPageOwner(page, owner(OWNER_USER, mmNumber, true));
  return page;
}

/** A page that the file's kind gives; the mapping takes a reference. */
function filePage(file: Parameters<typeof fileMapPage>[0], pageOffset: number): PagePtr | Errno {
  const address = fileMapPage(file, pageOffset);
  if (isErr(address)) return address;
  const page = virtToPage(address);
  getPage(page);
  return page;
}

function permits(translation: Translation, isWrite: boolean): boolean {
  return isPresent(translation) && (translation.low & PTE_USER) !== 0 && (!isWrite || (translation.low & PTE_WRITE) !== 0);
}

/**
 * Physical address of user `address`, made present if need be (kernel: `get_user_pages()`). No reference is taken: the frame stays while
 * it is mapped, and who unmaps it tells the VMs first (mmap.ts). @returns EFAULT; ENOMEM.
 */
export function getUserPage(mm: MmPtr, address: VirtAddr, isWrite: boolean): PhysAddr | Errno {
  const { pgd } = Mm.at(mm);
  let found = lookupAddress(pgd, address);
  if (!permits(found, isWrite)) {
    const error = handleMmFault(mm, address, isWrite ? "write" : "read");
    if (error !== 0) return error;
    found = lookupAddress(pgd, address);
    if (!permits(found, isWrite)) return EFAULT;
  }
  return translate(found, address);
}
