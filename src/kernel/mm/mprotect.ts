// Changing what user memory allows (mm/mprotect.c).
import { EACCES, EINVAL, ENOMEM, type Errno, PROT_EXEC, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, isPageAligned, NULL, pageUp, type VirtAddr } from "../../hardware/index.ts";
import { kvmMmuNotifierInvalidateEnd, kvmMmuNotifierInvalidateStart } from "../kvm/mmu-notifier.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { accessOk } from "./layout.ts";
import { Mm, type MmPtr, VM_ACCESS_FLAGS, VM_EXEC, VM_READ, VM_SHARED, VM_WRITE, VmArea, type VmaPtr } from "./mm-struct.ts";
import { flushTlbMmRange } from "./tlb.ts";
import { mayReuse } from "./user-memory.ts";
import { forEachUserPte, pteFrame, setUserPte } from "./user-pte.ts";
import { findVma, mergeVma, splitAt } from "./vma.ts";

const PROT_ALL = PROT_READ | PROT_WRITE | PROT_EXEC;
/** VM_MAYREAD and its kin stand four bits above what they permit. */
const MAY_SHIFT = 4;

/**
 * `[address, address + bytes)` allows `protection` from now on, and on return nobody uses more than that (kernel: `do_mprotect_pkey()`; S8).
 * What was done before an error stays. Interrupts on. @returns 0; EINVAL; ENOMEM: not all of it is mapped, or no memory; EACCES.
 */
export function doMprotect(mm: MmPtr, address: VirtAddr, bytes: number, protection: number): 0 | Errno {
  const length = pageUp(bytes);
  if (!isPageAligned(address) || (protection & ~PROT_ALL) !== 0) return EINVAL;
  if (length === 0) return 0;
  if (!accessOk(address, length)) return ENOMEM;
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const error = protectLocked(mm, address, addVirt(address, length), protection);
  spinUnlock(mmapLock);
  return error;
}

function protectLocked(mm: MmPtr, start: VirtAddr, end: VirtAddr, protection: number): 0 | Errno {
  const wanted =
    ((protection & PROT_READ) !== 0 ? VM_READ : 0) |
    ((protection & PROT_WRITE) !== 0 ? VM_WRITE : 0) |
    ((protection & PROT_EXEC) !== 0 ? VM_EXEC : 0);
  let at: VirtAddr = start;
  while (at < end) {
    const found = findVma(mm, at);
    if (found === NULL || VmArea.at(found).start > at) return ENOMEM;
    const { end: areaEnd, flags } = VmArea.at(found);
    if ((wanted & ~(flags >> MAY_SHIFT)) !== 0) return EACCES;
    const stop = areaEnd < end ? areaEnd : end;
    if ((flags & VM_ACCESS_FLAGS) !== wanted) {
      const error = splitAt(mm, at, stop);
      if (error !== 0) return error;
      const vma = findVma(mm, at);
      changeArea(mm, vma, (flags & ~VM_ACCESS_FLAGS) | wanted);
      mergeVma(mm, vma);
    }
    at = stop;
  }
  return 0;
}

/** Kernel: `mprotect_fixup()`, `change_protection()`. */
function changeArea(mm: MmPtr, vma: VmaPtr, flags: number): void {
  const view = VmArea.at(vma);
  view.flags = flags;
  const { start, end } = view;
  let isFlushOwed = false;
  kvmMmuNotifierInvalidateStart(mm, start, end);
  forEachUserPte(mm, start, end, (entry, _address, low, high) => {
    const frame = pteFrame(low, high);
    // A page that others may see is copied by the first write, as after a fork.
    setUserPte(entry, frame, flags, (flags & VM_SHARED) !== 0 || ((flags & VM_WRITE) !== 0 && mayReuse(frame)));
    isFlushOwed = true;
    return "go on";
  });
  if (isFlushOwed) flushTlbMmRange(mm, start, end);
  kvmMmuNotifierInvalidateEnd(mm);
}
