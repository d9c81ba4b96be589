// The list of areas of an mm: finding, cutting and joining them (mm/vma.c). Everything here is under the mm's lock and touches no page
// table; what an area loses of a file is given back by the caller, without the lock, since the end of a file may wait.
import { ENOMEM, type Errno } from "../../abi/index.ts";
import { NULL, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import { fput, getFile } from "../linux/file.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { Mm, type MmPtr, VmArea, type VmaPtr } from "./mm-struct.ts";
import { kfree, kmalloc } from "./slab.ts";

/** The first area that ends above `address`, or NULL (kernel: `find_vma()`). */
export function findVma(mm: MmPtr, address: VirtAddr): VmaPtr {
  let vma = Mm.at(mm).mmap;
  while (vma !== NULL && VmArea.at(vma).end <= address) vma = VmArea.at(vma).next;
  return vma;
}

/** The area before `vma`, or NULL. */
export function previousVma(mm: MmPtr, vma: VmaPtr): VmaPtr {
  let previous: VmaPtr = NULL;
  for (let at = Mm.at(mm).mmap; at !== vma; at = VmArea.at(at).next) previous = at;
  return previous;
}

/** True when no area meets `[start, start + bytes)`. */
export function isRangeFree(mm: MmPtr, start: VirtAddr, bytes: number): boolean {
  const vma = findVma(mm, start);
  return vma === NULL || VmArea.at(vma).start >= start + bytes;
}

/** An area that is on no list, or NULL (kernel: `vm_area_alloc()`). */
export function vmaAlloc(mm: MmPtr): VmaPtr {
  const vma = kmalloc(VmArea.bytes, GFP_KERNEL) as VmaPtr; // of this size
  if (vma !== NULL) VmArea.at(vma).mm = mm;
  return vma;
}

/** Frees an area that is on no list, with its reference to the file. May wait: without the lock (kernel: `remove_vma()`). */
export function vmaFree(vma: VmaPtr): void {
  const { file } = VmArea.at(vma);
  kfree(vma);
  if (file !== NULL) fput(file);
}

/** Puts an area where its address belongs (kernel: `vma_link()`). */
export function vmaLink(mm: MmPtr, vma: VmaPtr): void {
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

/** Page offset that anonymous memory at `start` has unless it is shared (kernel: do_mmap()). */
export function anonymousOffset(start: VirtAddr): number {
  return start / PAGE_SIZE;
}

/** Cuts an area in two at `address`, strictly inside it (kernel: `split_vma()`). The second half is a new record. @returns ENOMEM. */
export function splitVma(mm: MmPtr, vma: VmaPtr, address: VirtAddr): 0 | Errno {
  const tail = vmaAlloc(mm);
  if (tail === NULL) return ENOMEM;
  const from = VmArea.at(vma);
  const to = VmArea.at(tail);
  const { start, file } = from;
  to.start = address;
  to.end = from.end;
  to.flags = from.flags;
  to.file = file;
  to.pageOffset = from.pageOffset + (address - start) / PAGE_SIZE;
  to.next = from.next;
  if (file !== NULL) getFile(file);
  from.end = address;
  from.next = tail;
  return 0;
}

/** Cuts areas so that none crosses `start` or `end`. ENOMEM: one may be cut, which changes nothing for the process. */
export function splitAt(mm: MmPtr, start: VirtAddr, end: VirtAddr): 0 | Errno {
  for (const address of [start, end]) {
    const vma = findVma(mm, address);
    if (vma === NULL || VmArea.at(vma).start >= address) continue;
    const error = splitVma(mm, vma, address);
    if (error !== 0) return error;
  }
  return 0;
}

/** Takes the areas inside `[start, end)` out of the list, which no area crosses (kernel: `vms_gather_munmap_vmas()`). */
export function detachVmas(mm: MmPtr, start: VirtAddr, end: VirtAddr): readonly VmaPtr[] {
  const removed: VmaPtr[] = [];
  const first = findVma(mm, start);
  if (first === NULL) return removed;
  let vma = first;
  while (vma !== NULL && VmArea.at(vma).start < end) {
    removed.push(vma);
    vma = VmArea.at(vma).next;
  }
  if (removed.length === 0) return removed;
  const previous = previousVma(mm, first);
  if (previous === NULL) Mm.at(mm).mmap = vma;
  else VmArea.at(previous).next = vma;
  return removed;
}

/** Kernel: `is_mergeable_vma()`, `can_vma_merge_after()`. */
function canJoin(left: VmArea, right: VmArea): boolean {
  const { start, end, flags, file } = left;
  if (end !== right.start || flags !== right.flags || file !== right.file) return false;
  return left.pageOffset + (end - start) / PAGE_SIZE === right.pageOffset;
}

/** Joins an area with its neighbours where they are the same (kernel: `vma_merge()`). @returns the area that `vma` is part of now */
export function mergeVma(mm: MmPtr, vma: VmaPtr): VmaPtr {
  const { next } = VmArea.at(vma);
  if (next !== NULL && canJoin(VmArea.at(vma), VmArea.at(next))) absorb(vma, next);
  const previous = previousVma(mm, vma);
  if (previous === NULL || !canJoin(VmArea.at(previous), VmArea.at(vma))) return vma;
  absorb(previous, vma);
  return previous;
}

/** `left` becomes both. Its own reference keeps the file, so that this one is not the last. */
function absorb(left: VmaPtr, right: VmaPtr): void {
  const gone = VmArea.at(right);
  const view = VmArea.at(left);
  view.end = gone.end;
  view.next = gone.next;
  vmaFree(right);
}
