// Shared memory without a name (mm/shmem.c): what MAP_SHARED | MAP_ANONYMOUS maps. A file of a kind of its own; its pages are made when
// they are first touched, sensitive as all user memory, and live as long as the last area that maps it.
import { EINVAL, ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, NULL, PAGE_SIZE, type Ptr, pointer, struct, u32, type VirtAddr, virtual } from "../../hardware/index.ts";
import { allocFile } from "../linux/file.ts";
import { FILE_SHMEM, File, type FileOperations } from "../linux/file-struct.ts";
import { spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { __GFP_ZERO, GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "./gfp.ts";
import { allocPages, getPage, putPage } from "./page-alloc.ts";
import type { PagePtr } from "./page-struct.ts";
import { kfree, kzalloc } from "./slab.ts";

/** Kernel: struct shmem_inode_info. */
const ShmemObject = struct("shmem_object", {
  lock: spinlock,
  pageCount: u32,
  /** One pointer for each page; NULL where nobody has touched it. */
  pages: virtual,
});
const pagePointer = pointer("page");
const POINTER_BYTES = 8;
/** The table of pages is one allocation: 2 GiB. */
const MAX_PAGES = 2 ** 19;

/** A file of `bytes` bytes of zeros (kernel: `shmem_kernel_file_setup()`). @returns ENOMEM. */
export function shmemKernelFileSetup(bytes: number): Ptr<"file"> | Errno {
  const pageCount = bytes / PAGE_SIZE;
  if (pageCount > MAX_PAGES) return ENOMEM;
  const object = kzalloc(ShmemObject.bytes, GFP_KERNEL);
  const pages = object === NULL ? NULL : kzalloc(pageCount * POINTER_BYTES, GFP_KERNEL);
  const file = pages === NULL ? ENOMEM : allocFile(FILE_SHMEM, object);
  if (pages !== NULL) {
    const view = shmemAt(object);
    view.pageCount = pageCount;
    view.pages = pages;
  }
  if (file === ENOMEM) {
    kfree(pages);
    kfree(object);
  }
  return file;
}

function shmemAt(object: VirtAddr): ReturnType<typeof ShmemObject.at> {
  return ShmemObject.at(object as Ptr<"shmem_object">); // what FILE_SHMEM's private data is
}

/** The page at a page offset, with a reference, made if need be (kernel: `shmem_fault()`). @returns EINVAL: behind the end; ENOMEM. */
function shmemFault(file: Ptr<"file">, pageOffset: number): PagePtr | Errno {
  const view = shmemAt(File.at(file).privateData);
  if (pageOffset >= view.pageCount) return EINVAL;
  const slot = addVirt(view.pages, pageOffset * POINTER_BYTES);
  const fresh = pagePointer.get(slot) === NULL ? allocPages(GFP_HIGHUSER_MOVABLE | __GFP_ZERO, 0) : NULL;
  spinLock(view.lock);
  const found = pagePointer.get(slot);
  const page = found === NULL ? fresh : found;
  if (found === NULL && fresh !== NULL) pagePointer.set(slot, fresh);
  if (page !== NULL) getPage(page);
  spinUnlock(view.lock);
  if (found !== NULL && fresh !== NULL) putPage(fresh); // two processes touched it at once
  return page === NULL ? ENOMEM : page;
}

/** Kernel: `shmem_evict_inode()`. */
function shmemRelease(file: Ptr<"file">): void {
  const object = File.at(file).privateData;
  const { pages, pageCount } = shmemAt(object);
  for (let i = 0; i < pageCount; i++) {
    const page = pagePointer.get(addVirt(pages, i * POINTER_BYTES));
    if (page !== NULL) putPage(page);
  }
  kfree(pages);
  kfree(object);
}

export const shmemOperations: FileOperations = { faultPage: shmemFault, release: shmemRelease };
