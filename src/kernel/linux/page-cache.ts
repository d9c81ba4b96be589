// The pages of a RAM file: sensitive, as page cache is, and reached by kmap_local_page() alone (mm/filemap.c, as far as a file system
// without a disk needs it). A page is used with a reference and without the inode's lock: user memory that is copied may be the same file.
import { EFBIG, ENOMEM, type Errno, isErr } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, pointer, type VirtAddr } from "../../hardware/index.ts";
import { __GFP_ZERO, GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "../mm/gfp.ts";
import { kmapLocalPage, kunmapLocal } from "../mm/kmap.ts";
import { allocPages, getPage, putPage } from "../mm/page-alloc.ts";
import type { PagePtr } from "../mm/page-struct.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { Inode, type InodePtr } from "./inode-struct.ts";

const pagePointer = pointer("page");
const SLOT_BYTES = 8;
const FIRST_SLOTS = 8;
/** 1 GiB: the table of pages is one allocation of at most 4 MiB, the largest block of the page allocator being as large. */
export const MAX_FILE_BYTES = 2 ** 30;

function slot(pages: VirtAddr, index: number): VirtAddr {
  return addVirt(pages, index * SLOT_BYTES);
}

/** The page at page offset `index` with a reference, or NULL where the file has a hole (kernel: `filemap_get_page()`). */
export function findPage(inode: InodePtr, index: number): PagePtr {
  const view = Inode.at(inode);
  spinLock(view.lock);
  const page = index < view.pageSlots ? pagePointer.get(slot(view.pages, index)) : NULL;
  if (page !== NULL) getPage(page);
  spinUnlock(view.lock);
  return page;
}

/** Makes room in the table of pages for `index`. @returns 0; ENOMEM; EFBIG. */
function growTable(inode: InodePtr, index: number): 0 | Errno {
  if (index >= MAX_FILE_BYTES / PAGE_SIZE) return EFBIG;
  const view = Inode.at(inode);
  let slots = FIRST_SLOTS;
  while (slots <= index) slots *= 2;
  const table = kzalloc(slots * SLOT_BYTES, GFP_KERNEL);
  if (table === NULL) return ENOMEM;
  spinLock(view.lock);
  const { pages: old, pageSlots } = view;
  const isLarger = slots > pageSlots;
  if (isLarger) {
    if (pageSlots > 0) cpu.copy(table, old, pageSlots * SLOT_BYTES);
    view.pages = table;
    view.pageSlots = slots;
  }
  spinUnlock(view.lock);
  kfree(isLarger ? old : table);
  return 0;
}

/** As `findPage`, and a hole is filled with a page of zeros (kernel: `__filemap_get_folio()` with FGP_CREAT). @returns ENOMEM; EFBIG. */
export function grabPage(inode: InodePtr, index: number): PagePtr | Errno {
  const found = findPage(inode, index);
  if (found !== NULL) return found;
  const view = Inode.at(inode);
  if (index >= view.pageSlots) {
    const error = growTable(inode, index);
    if (error !== 0) return error;
  }
  const fresh = allocPages(GFP_HIGHUSER_MOVABLE | __GFP_ZERO, 0);
  if (fresh === NULL) return ENOMEM;
  spinLock(view.lock);
  const at = slot(view.pages, index);
  const other = pagePointer.get(at);
  const page = other === NULL ? fresh : other;
  if (other === NULL) pagePointer.set(at, fresh);
  getPage(page);
  spinUnlock(view.lock);
  if (other !== NULL) putPage(fresh);
  return page;
}

/** Cuts the file to `bytes` bytes, or makes it longer by a hole (kernel: `truncate_setsize()`). */
export function truncatePages(inode: InodePtr, bytes: number): void {
  const view = Inode.at(inode);
  const keep = Math.ceil(bytes / PAGE_SIZE);
  const dropped: PagePtr[] = [];
  spinLock(view.lock);
  const { pages, pageSlots } = view;
  for (let i = keep; i < pageSlots; i++) {
    const page = pagePointer.get(slot(pages, i));
    if (page === NULL) continue;
    pagePointer.set(slot(pages, i), NULL);
    dropped.push(page);
  }
  const isEmpty = keep === 0 && pageSlots > 0;
  if (isEmpty) {
    view.pages = NULL;
    view.pageSlots = 0;
  }
  const isShorter = bytes < view.bytes;
  view.bytes = bytes;
  spinUnlock(view.lock);
  for (const page of dropped) putPage(page);
  if (isEmpty) kfree(pages);
  // What was behind the end must read as zeros when the file grows again.
  if (isShorter && bytes % PAGE_SIZE !== 0) zeroTail(inode, bytes);
}

function zeroTail(inode: InodePtr, bytes: number): void {
  const page = findPage(inode, Math.floor(bytes / PAGE_SIZE));
  if (page === NULL) return;
  const at = kmapLocalPage(page);
  cpu.fill(addVirt(at, bytes % PAGE_SIZE), 0, PAGE_SIZE - (bytes % PAGE_SIZE));
  kunmapLocal(at);
  putPage(page);
}

/** The file is at least `end` bytes long from now on. */
export function extendTo(inode: InodePtr, end: number): void {
  const view = Inode.at(inode);
  spinLock(view.lock);
  if (view.bytes < end) view.bytes = end;
  spinUnlock(view.lock);
}

/**
 * Writes `bytes` bytes from kernel memory (kernel: `kernel_write()`). `from` is readable to its end. @returns 0; ENOMEM; EFBIG.
 */
export function writeKernel(inode: InodePtr, position: number, from: VirtAddr, bytes: number): 0 | Errno {
  for (let done = 0; done < bytes; ) {
    const at = position + done;
    const offset = at % PAGE_SIZE;
    const piece = Math.min(PAGE_SIZE - offset, bytes - done);
    const page = grabPage(inode, Math.floor(at / PAGE_SIZE));
    if (isErr(page)) return page;
    const mapped = kmapLocalPage(page);
    cpu.copy(addVirt(mapped, offset), addVirt(from, done), piece);
    kunmapLocal(mapped);
    putPage(page);
    done += piece;
  }
  extendTo(inode, position + bytes);
  return 0;
}

/** Copies `bytes` bytes of the file to kernel memory; what lies behind its end, or in a hole, is left alone (kernel: `kernel_read()`). @returns bytes within the file. */
export function readKernel(inode: InodePtr, position: number, to: VirtAddr, bytes: number): number {
  const count = Math.max(0, Math.min(bytes, Inode.at(inode).bytes - position));
  for (let done = 0; done < count; ) {
    const at = position + done;
    const offset = at % PAGE_SIZE;
    const piece = Math.min(PAGE_SIZE - offset, count - done);
    const page = findPage(inode, Math.floor(at / PAGE_SIZE));
    if (page !== NULL) {
      const mapped = kmapLocalPage(page);
      cpu.copy(addVirt(to, done), addVirt(mapped, offset), piece);
      kunmapLocal(mapped);
      putPage(page);
    }
    done += piece;
  }
  return count;
}
