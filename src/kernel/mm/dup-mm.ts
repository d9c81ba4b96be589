// What fork() does with memory (kernel/fork.c: dup_mm(); mm/memory.c: copy_page_range()): the child gets the same areas; private pages are
// shared until one of both writes, so the parent's entries lose the right to write, in its TLBs and its guests too, before the child runs.
import { ENOMEM, type Errno } from "../../abi/index.ts";
import { cpu, NULL, PTE_PRESENT, PTE_WRITE, type VirtAddr } from "../../hardware/index.ts";
import { kvmMmuNotifierInvalidateEnd, kvmMmuNotifierInvalidateStart } from "../kvm/mmu-notifier.ts";
import { getFile } from "../linux/file.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { TASK_SIZE_MAX } from "./layout.ts";
import { ldtDupContext } from "./ldt.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr, VM_SHARED, VmArea, type VmaPtr } from "./mm-struct.ts";
import { getPage } from "./page-alloc.ts";
import { physToPage } from "./page-struct.ts";
import { flushTlbMm } from "./tlb.ts";
import { shareOwner } from "./user-memory.ts";
import { forEachUserPte, pteFrame, setUserPte } from "./user-pte.ts";
import { userPteAlloc } from "./user-tables.ts";
import { vmaAlloc, vmaLink } from "./vma.ts";
import { isZeroFrame } from "./zero-page.ts";

/**
 * A copy of `old` for a child, with one user (kernel: `dup_mm()`). Interrupts on, may block. @returns ENOMEM: nothing is left of it, and
 * `old` is as it was but for rights that come back with a fault.
 */
export function dupMm(old: MmPtr): MmPtr | Errno {
  const mm = mmAlloc();
  if (mm === NULL) return ENOMEM;
  const from = Mm.at(old);
  spinLock(from.mmapLock);
  const to = Mm.at(mm);
  to.mmapBase = from.mmapBase;
  to.startBrk = from.startBrk;
  to.brk = from.brk;
  to.vdso32 = from.vdso32;
  const areas = dupMmap(mm, old);
  spinUnlock(from.mmapLock);
  const error = areas === 0 ? ldtDupContext(old, mm) : areas;
  if (error === 0) return mm;
  mmput(mm);
  return error;
}

/** Kernel: `dup_mmap()`. Under the parent's lock; nobody else knows the child. */
function dupMmap(mm: MmPtr, old: MmPtr): 0 | Errno {
  kvmMmuNotifierInvalidateStart(old, NULL, TASK_SIZE_MAX);
  let error: 0 | Errno = 0;
  for (let vma = Mm.at(old).mmap; vma !== NULL && error === 0; vma = VmArea.at(vma).next) error = copyArea(mm, old, vma);
  // Also after an error: entries that lost the right to write must be seen as such, or pages of both would be written in place.
  flushTlbMm(old);
  kvmMmuNotifierInvalidateEnd(old);
  return error;
}

function copyArea(mm: MmPtr, old: MmPtr, vma: VmaPtr): 0 | Errno {
  const copy = vmaAlloc(mm);
  if (copy === NULL) return ENOMEM;
  const from = VmArea.at(vma);
  const to = VmArea.at(copy);
  const { start, end, flags, file } = from;
  to.start = start;
  to.end = end;
  to.flags = flags;
  to.pageOffset = from.pageOffset;
  to.file = file;
  if (file !== NULL) getFile(file);
  vmaLink(mm, copy);
  // What is shared comes back from its file by faults (kernel: vma_needs_copy()).
  return (flags & VM_SHARED) === 0 ? copyPageRange(mm, old, start, end, flags) : 0;
}

/** Kernel: `copy_page_range()`, `copy_present_page()`. */
function copyPageRange(mm: MmPtr, old: MmPtr, start: VirtAddr, end: VirtAddr, flags: number): 0 | Errno {
  let error: 0 | Errno = 0;
  forEachUserPte(old, start, end, (entry, address, low, high) => {
    const target = userPteAlloc(mm, address);
    if (target === NULL) {
      error = ENOMEM;
      return "stop";
    }
    const frame = pteFrame(low, high);
    if (!isZeroFrame(frame)) {
      const page = physToPage(frame);
      getPage(page);
      shareOwner(page);
    }
    // One instruction: the processor sets bits of a live entry at any time.
    if ((low & PTE_PRESENT) !== 0 && (low & PTE_WRITE) !== 0) cpu.rmw("and", entry, 4, ~PTE_WRITE >>> 0);
    setUserPte(target, frame, flags, false);
    return "go on";
  });
  return error;
}
