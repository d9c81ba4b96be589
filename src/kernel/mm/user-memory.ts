// Demand paging of user memory (mm/memory.c). Pages are made present by the first access: anonymous memory by a zeroed page of its own or,
// for a read, the shared zero page; files by the page of the file. A page that others may see is written only after it was copied. There
// is no swap.
import { EFAULT, EIO, ENOMEM, type Errno, isErr } from "../../abi/index.ts";
import {
  addVirt,
  assert,
  cpu,
  NULL,
  OWNER_GUEST,
  OWNER_USER,
  type Owner,
  owner,
  ownerKind,
  ownerNumber,
  PAGE_SIZE,
  type PhysAddr,
  PTE_WRITE,
  pageDown,
  SHARED_BY_PROCESSES,
  type VirtAddr,
} from "../../hardware/index.ts";
import { kvmMmuNotifierInvalidateEnd, kvmMmuNotifierInvalidateStart } from "../kvm/mmu-notifier.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { fileFaultPage } from "./filemap.ts";
import { __GFP_ZERO, GFP_HIGHUSER_MOVABLE, type Gfp } from "./gfp.ts";
import { copyHighpage } from "./kmap.ts";
import { Mm, type MmPtr, VM_ACCESS_FLAGS, VM_EXEC, VM_GROWSDOWN, VM_SHARED, VM_WRITE, VmArea, type VmaPtr } from "./mm-struct.ts";
import { STACK_GUARD_GAP } from "./mmap.ts";
import { allocPages, getPage, putPage, setPageOwner } from "./page-alloc.ts";
import { Page, type PagePtr, PG_SENSITIVE, pageToPhys, physToPage } from "./page-struct.ts";
import { clearEntry } from "./page-table.ts";
import { flushTlbMmRange } from "./tlb.ts";
import { pteFrame, ptePresent, setUserPte, userPte } from "./user-pte.ts";
import { userPteAlloc } from "./user-tables.ts";
import { findVma, previousVma } from "./vma.ts";
import { isZeroFrame, zeroFrame } from "./zero-page.ts";

/** What an access wants. */
export type Access = "read" | "write" | "execute";
/** Or the kernel: a private page of the mm's own to write to, whatever the process may do with it (kernel: FOLL_WRITE with FOLL_FORCE). */
type Want = Access | "force";

/** Most that a stack may grow to (kernel: RLIMIT_STACK's default). */
const STACK_LIMIT_BYTES = 8 * 2 ** 20;

function wantsToWrite(access: Want): boolean {
  return access === "write" || access === "force";
}

function vmaAllows(flags: number, access: Want): boolean {
  if (access === "force") return (flags & (VM_SHARED | VM_WRITE)) !== VM_SHARED;
  if (access === "write") return (flags & VM_WRITE) !== 0;
  if (access === "execute") return (flags & VM_EXEC) !== 0;
  return (flags & VM_ACCESS_FLAGS) !== 0;
}

/**
 * Makes the page of `address` present for `access` (kernel: `handle_mm_fault()` with the lookup of the area). Interrupts on, may block.
 * @returns 0; EFAULT: no area, or it does not allow this; EIO: the file has no page there (SIGBUS); ENOMEM.
 */
export function handleMmFault(mm: MmPtr, address: VirtAddr, access: Access): 0 | Errno {
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const error = faultIn(mm, address, access);
  spinUnlock(mmapLock);
  return error;
}

/** Under the lock. Allocations may do the work of queued frees and then wait for other CPUs, whose interrupts are on while they spin. */
function faultIn(mm: MmPtr, address: VirtAddr, access: Want): 0 | Errno {
  const vma = findVma(mm, address);
  if (vma === NULL) return EFAULT;
  const view = VmArea.at(vma);
  const { flags } = view;
  const page = pageDown(address);
  if (!vmaAllows(flags, access)) return EFAULT;
  if (view.start > address && !expandStack(mm, vma, page)) return EFAULT;
  const entry = userPteAlloc(mm, page);
  if (entry === NULL) return ENOMEM;
  const low = cpu.load64(entry);
  const high = cpu.high;
  if (!ptePresent(low)) return view.file === NULL ? anonymousFault(mm, entry, flags, access) : fileFault(mm, vma, page, entry, access);
  if (wantsToWrite(access) && (low & PTE_WRITE) === 0) return writeProtectFault(mm, flags, page, entry, pteFrame(low, high));
  // Another thread was first, or a TLB remembers that less was allowed (kernel: flush_tlb_fix_spurious_fault()).
  cpu.invlpg(page);
  return 0;
}

/** Grows an area down to `page`, if it may (kernel: `expand_stack()`). */
function expandStack(mm: MmPtr, vma: VmaPtr, page: VirtAddr): boolean {
  const view = VmArea.at(vma);
  const { start, end, flags } = view;
  if ((flags & VM_GROWSDOWN) === 0 || end - page > STACK_LIMIT_BYTES) return false;
  const previous = previousVma(mm, vma);
  if (previous !== NULL && VmArea.at(previous).end > page - STACK_GUARD_GAP) return false;
  view.pageOffset -= (start - page) / PAGE_SIZE;
  view.start = page;
  return true;
}

/** Kernel: `do_anonymous_page()`. */
function anonymousFault(mm: MmPtr, entry: VirtAddr, flags: number, access: Want): 0 | Errno {
  if (!wantsToWrite(access)) {
    setUserPte(entry, zeroFrame(), flags, false);
    return 0;
  }
  const page = privatePage(mm, __GFP_ZERO);
  if (isErr(page)) return page;
  setUserPte(entry, pageToPhys(page), flags, true);
  return 0;
}

/** A page that belongs to the mm alone: zero with `extra` = __GFP_ZERO, else with what was in it before. */
function privatePage(mm: MmPtr, extra: Gfp): PagePtr | Errno {
  const page = allocPages(GFP_HIGHUSER_MOVABLE | extra, 0);
  if (page === NULL) return ENOMEM;
  setPageOwner(page, owner(OWNER_USER, Mm.at(mm).number, true));
  return page;
}

/** Kernel: `do_read_fault()`, `do_cow_fault()`, `do_shared_fault()`. */
function fileFault(mm: MmPtr, vma: VmaPtr, address: VirtAddr, entry: VirtAddr, access: Want): 0 | Errno {
  const { file, flags, start, pageOffset } = VmArea.at(vma);
  const page = fileFaultPage(file, pageOffset + (address - start) / PAGE_SIZE);
  if (isErr(page)) return page === ENOMEM ? ENOMEM : EIO;
  shareOwner(page);
  const isShared = (flags & VM_SHARED) !== 0;
  if (!wantsToWrite(access) || isShared) {
    setUserPte(entry, pageToPhys(page), flags, isShared);
    return 0;
  }
  const copy = privatePage(mm, 0);
  if (!isErr(copy)) {
    copyHighpage(copy, page);
    setUserPte(entry, pageToPhys(copy), flags, true);
  }
  putPage(page);
  return isErr(copy) ? copy : 0;
}

/**
 * Ground truth: from now on several processes may read the page. What is not sensitive is nobody's secret anyway, and what a guest
 * wrote stays a guest's, of whichever of them.
 */
export function shareOwner(page: PagePtr): void {
  const { flags, owner: label } = Page.at(page);
  const kind = ownerKind(label as Owner) === OWNER_GUEST ? OWNER_GUEST : OWNER_USER; // set by setPageOwner() alone
  const shared = owner(kind, SHARED_BY_PROCESSES, true);
  if ((flags & PG_SENSITIVE) === 0 || label === shared) return;
  setPageOwner(page, shared);
}

/** A write to a page that is mapped read-only in an area that allows writing (kernel: `do_wp_page()`). */
function writeProtectFault(mm: MmPtr, flags: number, address: VirtAddr, entry: VirtAddr, frame: PhysAddr): 0 | Errno {
  if ((flags & VM_SHARED) !== 0 || mayReuse(frame)) {
    if ((flags & VM_SHARED) === 0) ownAlone(mm, physToPage(frame));
    setUserPte(entry, frame, flags, true);
    cpu.invlpg(address); // other CPUs find out by a fault
    return 0;
  }
  const isZero = isZeroFrame(frame);
  const copy = privatePage(mm, isZero ? __GFP_ZERO : 0);
  if (isErr(copy)) return copy;
  const end = addVirt(address, PAGE_SIZE);
  if (!isZero) copyHighpage(copy, physToPage(frame));
  // Nobody reads the old page when the new one can be written: all CPUs and guests let go of it first.
  kvmMmuNotifierInvalidateStart(mm, address, end);
  clearEntry(entry);
  flushTlbMmRange(mm, address, end);
  setUserPte(entry, pageToPhys(copy), flags, true);
  kvmMmuNotifierInvalidateEnd(mm);
  if (!isZero) putPage(physToPage(frame));
  return 0;
}

/** Only this mapping holds the page: of a file's page the file itself holds another reference (kernel: `wp_can_reuse_anon_folio()`). */
export function mayReuse(frame: PhysAddr): boolean {
  return !isZeroFrame(frame) && Page.at(physToPage(frame)).refcount === 1;
}

/** Ground truth: what a fork shared is one process's again. */
function ownAlone(mm: MmPtr, page: PagePtr): void {
  const label = Page.at(page).owner as Owner; // set by setPageOwner() alone
  const { number } = Mm.at(mm);
  if (ownerKind(label) === OWNER_USER && ownerNumber(label) !== number) setPageOwner(page, owner(OWNER_USER, number, true));
}

/**
 * Physical address of user `address`, made present if need be, with a reference to its page: `putUserPage` gives it back (kernel:
 * `get_user_pages()`). With `isWrite` the page is one that a write of the process would hit. Interrupts on.
 * @returns EFAULT; EIO; ENOMEM.
 */
export function getUserPage(mm: MmPtr, address: VirtAddr, isWrite: boolean): PhysAddr | Errno {
  return getPageOf(mm, address, isWrite ? "write" : "read");
}

/** As `getUserPage`, for the kernel's own writes, to memory that the process itself may not write too: program text, arguments. */
export function getUserPageForced(mm: MmPtr, address: VirtAddr): PhysAddr | Errno {
  return getPageOf(mm, address, "force");
}

function getPageOf(mm: MmPtr, address: VirtAddr, want: Want): PhysAddr | Errno {
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const error = faultIn(mm, address, want);
  const frame = error === 0 ? mappedFrame(mm, address) : error;
  if (!isErr(frame) && !isZeroFrame(frame)) getPage(physToPage(frame));
  spinUnlock(mmapLock);
  return isErr(frame) ? frame : ((frame + (address % PAGE_SIZE)) as PhysAddr); // inside the frame
}

function mappedFrame(mm: MmPtr, address: VirtAddr): PhysAddr {
  const entry = userPte(mm, address);
  assert(entry !== NULL, () => "a page that was just made present has no table");
  const low = cpu.load64(entry);
  return pteFrame(low, cpu.high);
}

/** Gives back what `getUserPage` gave (kernel: `put_page()`). */
export function putUserPage(address: PhysAddr): void {
  if (!isZeroFrame(address)) putPage(physToPage(address));
}
