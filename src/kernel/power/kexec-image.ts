// Loading the kernel that will run instead of this one: its pages are kept where they are and moved only at the very end, by a list; those
// of a crash kernel go at once to memory that was set aside, because nothing can be trusted to move them later (kernel: kexec_core.c).
import { EADDRNOTAVAIL, EINVAL, ENOMEM, type Errno } from "../../abi/index.ts";
import {
  addVirt,
  BOOT_MEMORY_BYTES,
  cpu,
  ENTRIES_PER_TABLE,
  entryHigh,
  entryLow,
  HUGE_PAGE_SIZE,
  KERNEL_PGD_BOUNDARY,
  PAGE_SIZE,
  type PhysAddr,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_LARGE,
  PTE_PRESENT,
  PTE_WRITE,
  pageDown,
  pageUp,
  physAddr,
  type VirtAddr,
  virtAddr,
  virtual,
  word,
} from "../../hardware/index.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { __GFP_ZERO, GFP_HIGHUSER, GFP_KERNEL, type Gfp } from "../mm/gfp.ts";
import { pa, va } from "../mm/layout.ts";
import { initMm, Mm } from "../mm/mm-struct.ts";
import { freePages, getFreePages } from "../mm/page-alloc.ts";
import { RELOCATE_KERNEL_BACK, RELOCATE_KERNEL_CODE, RELOCATE_KERNEL_END } from "./kexec-stub.ts";
import {
  CONTROL,
  CONTROL_CODE,
  CrashRegion,
  crashRegion,
  IND_DESTINATION,
  IND_DONE,
  IND_INDIRECTION,
  IND_SOURCE,
  KEXEC_TABLES,
  KImage,
  kexecCrashImage,
  kexecImage,
} from "./power-struct.ts";

/** Kernel: KEXEC_SEGMENT_MAX (16). */
export const KEXEC_SEGMENT_MAX = 16;
const INDIRECTION_ENTRIES = PAGE_SIZE / 8 - 1;
const TABLE_FLAGS = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY;

export interface KexecSegment {
  /** Where its bytes come from, and how many; the rest up to `memoryBytes` is zero. */
  readonly bytes: number;
  /** Physical destination, page aligned. */
  readonly memory: number;
  readonly memoryBytes: number;
}

export interface KexecLoad {
  readonly entry: number;
  readonly segments: readonly KexecSegment[];
  readonly preserveContext: boolean;
  readonly onCrash: boolean;
  /** Copies `bytes` of segment `segment`, from `offset` on, to kernel memory. @returns 0; EFAULT. */
  readonly read: (segment: number, offset: number, to: VirtAddr, bytes: number) => 0 | Errno;
}

/** End of RAM. */
function memoryEnd(): number {
  return pageDown(cpu.loadWord(va(BOOT_MEMORY_BYTES as PhysAddr)));
}

export function imageFor(onCrash: boolean): KImage {
  return KImage.at(onCrash ? kexecCrashImage : kexecImage);
}

/** Kernel: `sanity_check_segment_list()`. */
function checkSegments({ entry, segments, onCrash }: KexecLoad): 0 | Errno {
  if (segments.length > KEXEC_SEGMENT_MAX) return EINVAL;
  const end = memoryEnd();
  const { start, bytes } = CrashRegion.at(crashRegion);
  for (const [i, segment] of segments.entries()) {
    const { memory, memoryBytes } = segment;
    if (memory % PAGE_SIZE !== 0 || memoryBytes % PAGE_SIZE !== 0 || memoryBytes === 0) return EADDRNOTAVAIL;
    if (memory + memoryBytes > end || segment.bytes > memoryBytes) return EINVAL;
    if (segments.some((other, j) => j > i && memory < other.memory + other.memoryBytes && other.memory < memory + memoryBytes))
      return EINVAL;
    const isInside = start !== 0 && memory >= pa(start) && memory + memoryBytes <= pa(start) + bytes;
    if (onCrash && !isInside) return EADDRNOTAVAIL;
  }
  const isEntryThere = segments.some(({ memory, memoryBytes }) => entry >= memory && entry < memory + memoryBytes);
  return isEntryThere ? 0 : EADDRNOTAVAIL;
}

/** A page that no segment will overwrite (kernel: `kimage_alloc_page()`). 0: out of memory. */
function allocOutside(image: KImage, { segments }: KexecLoad, gfp: Gfp = GFP_KERNEL): VirtAddr {
  for (;;) {
    const page = getFreePages(gfp | __GFP_ZERO, 0);
    if (page === 0) return page;
    const at = pa(page);
    if (!segments.some(({ memory, memoryBytes }) => at >= memory && at < memory + memoryBytes)) return page;
    virtual.set(page, image.unusable);
    image.unusable = page;
  }
}

/** Tables that map all memory to itself, beside the kernel's own half (kernel: `init_pgtable()`). */
function makeTables(image: KImage, load: KexecLoad): 0 | Errno {
  const pages: VirtAddr[] = [];
  for (let i = 0; i < KEXEC_TABLES; i++) {
    const page = allocOutside(image, load);
    if (page === 0) return ENOMEM;
    image.tables.set(i, page);
    pages.push(page);
  }
  const [root, large] = pages;
  if (root === undefined || large === undefined) return ENOMEM;
  const kernel = va(Mm.at(initMm).pgd);
  cpu.copy(addVirt(root, 8 * KERNEL_PGD_BOUNDARY), addVirt(kernel, 8 * KERNEL_PGD_BOUNDARY), 8 * (ENTRIES_PER_TABLE - KERNEL_PGD_BOUNDARY));
  cpu.store64(root, entryLow(pa(large), TABLE_FLAGS), entryHigh(pa(large), 0));
  for (let i = 0; i * HUGE_PAGE_SIZE < memoryEnd(); i++) {
    const frame = physAddr(i * HUGE_PAGE_SIZE);
    cpu.store64(addVirt(large, 8 * i), entryLow(frame, TABLE_FLAGS | PTE_LARGE), entryHigh(frame, 0));
  }
  image.pgd = pa(root);
  return 0;
}

/** Writes the control page: what the transition is told, and its code (kernel: `machine_kexec_prepare()`). */
function makeControlPage(image: KImage, load: KexecLoad): 0 | Errno {
  const page = allocOutside(image, load);
  if (page === 0) return ENOMEM;
  image.controlPage = page;
  const code = symbolAddress(RELOCATE_KERNEL_CODE);
  cpu.copy(addVirt(page, CONTROL_CODE), code, symbolAddress(RELOCATE_KERNEL_END) - code);
  word.set(addVirt(page, CONTROL.pgd), image.pgd);
  word.set(addVirt(page, CONTROL.start), image.start);
  word.set(addVirt(page, CONTROL.preserve), image.preserveContext);
  word.set(addVirt(page, CONTROL.self), pa(page));
  word.set(addVirt(page, CONTROL.virtual), page);
  word.set(addVirt(page, CONTROL.back), symbolAddress(RELOCATE_KERNEL_BACK));
  return 0;
}

/** Where the next entry of the page list goes: in the page at `page`, `used` entries are taken. */
interface ListEnd {
  page: VirtAddr;
  used: number;
}

/** Appends to the page list (kernel: `kimage_add_entry()`). */
function addEntry(image: KImage, load: KexecLoad, end: ListEnd, entry: number): 0 | Errno {
  if (end.page === 0 || end.used === INDIRECTION_ENTRIES) {
    const page = allocOutside(image, load);
    if (page === 0) return ENOMEM;
    const link = pa(page) + IND_INDIRECTION;
    if (end.page === 0) image.head = link;
    else word.set(addVirt(end.page, 8 * end.used), link);
    end.page = page;
    end.used = 0;
  }
  word.set(addVirt(end.page, 8 * end.used), entry);
  end.used += 1;
  word.set(addVirt(end.page, 8 * end.used), IND_DONE);
  return 0;
}

function loadSegment(image: KImage, load: KexecLoad, index: number, segment: KexecSegment, end: ListEnd): 0 | Errno {
  const error = addEntry(image, load, end, segment.memory + IND_DESTINATION);
  if (error !== 0) return error;
  for (let offset = 0; offset < segment.memoryBytes; offset += PAGE_SIZE) {
    // What user space hands in may be anything: sensitive, as user memory is.
    const page = allocOutside(image, load, GFP_HIGHUSER);
    if (page === 0) return ENOMEM;
    const added = addEntry(image, load, end, pa(page) + IND_SOURCE);
    if (added !== 0) {
      freePages(page, 0);
      return added;
    }
    const bytes = Math.min(PAGE_SIZE, segment.bytes - offset);
    const copied = bytes > 0 ? load.read(index, offset, page, bytes) : 0;
    if (copied !== 0) return copied;
  }
  return 0;
}

/** The crash kernel's bytes go to their place at once. */
function loadCrashSegment(load: KexecLoad, index: number, segment: KexecSegment): 0 | Errno {
  const to = va(physAddr(segment.memory));
  cpu.fill(to, 0, segment.memoryBytes);
  for (let offset = 0; offset < segment.bytes; offset += PAGE_SIZE) {
    const error = load.read(index, offset, addVirt(to, offset), Math.min(PAGE_SIZE, segment.bytes - offset));
    if (error !== 0) return error;
  }
  return 0;
}

function build(image: KImage, load: KexecLoad): 0 | Errno {
  image.start = physAddr(load.entry);
  image.preserveContext = load.preserveContext ? 1 : 0;
  const tables = makeTables(image, load);
  if (tables !== 0) return tables;
  const control = makeControlPage(image, load);
  if (control !== 0) return control;
  image.head = IND_DONE;
  const end: ListEnd = { page: virtAddr(0), used: 0 };
  for (const [i, segment] of load.segments.entries()) {
    const error = load.onCrash ? loadCrashSegment(load, i, segment) : loadSegment(image, load, i, segment, end);
    if (error !== 0) return error;
  }
  word.set(addVirt(image.controlPage, CONTROL.head), image.head);
  return 0;
}

/**
 * Loads an image in place of the one that is loaded; no segments: unloads (kernel: `do_kexec_load()`). Process context.
 * @returns 0; EINVAL, EADDRNOTAVAIL: the segments make no sense; ENOMEM, EFAULT: nothing is loaded then, the old image neither.
 */
export function kexecLoad(load: KexecLoad): 0 | Errno {
  const image = imageFor(load.onCrash);
  if (load.segments.length === 0) {
    kexecUnload(image);
    return 0;
  }
  const wrong = checkSegments(load);
  if (wrong !== 0) return wrong;
  kexecUnload(image);
  const error = build(image, load);
  if (error !== 0) kexecUnload(image);
  return error;
}

/** Frees what an image holds (kernel: `kimage_free()`). */
export function kexecUnload(image: KImage): void {
  freeList(image.head);
  for (let page = image.unusable; page !== 0; ) {
    const next = virtual.get(page);
    freePages(page, 0);
    page = next;
  }
  for (let i = 0; i < KEXEC_TABLES; i++) {
    const table = image.tables.get(i);
    if (table !== 0) freePages(table, 0);
    image.tables.set(i, virtAddr(0));
  }
  if (image.controlPage !== 0) freePages(image.controlPage, 0);
  image.controlPage = virtAddr(0);
  image.unusable = virtAddr(0);
  image.head = 0;
  image.pgd = physAddr(0);
}

/** Frees the pages of a list and the pages that the list is in. */
function freeList(head: number): void {
  let entry = head;
  let at = virtAddr(0);
  let listPage = virtAddr(0);
  while (entry !== 0 && (entry & IND_DONE) === 0) {
    const address = entry - (entry % PAGE_SIZE);
    if ((entry & IND_INDIRECTION) !== 0) {
      if (listPage !== 0) freePages(listPage, 0);
      listPage = va(physAddr(address));
      at = listPage;
    } else if ((entry & IND_SOURCE) !== 0) {
      freePages(va(physAddr(address)), 0);
    }
    if (at === 0) return;
    entry = word.get(at);
    at = addVirt(at, 8);
  }
  if (listPage !== 0) freePages(listPage, 0);
}

/** An image is loaded. */
export function isLoaded(image: KImage): boolean {
  return image.controlPage !== 0;
}

/** `crashkernel=BYTES[K|M]`: memory for a crash kernel, set aside at boot (kernel: `arch_reserve_crashkernel()`). @returns 0; ENOMEM; EINVAL. */
export function reserveCrashkernel(size: string): 0 | Errno {
  const match = /^(\d+)([KM]?)$/.exec(size);
  if (match === null) return EINVAL;
  const unit = match[2] === "M" ? 2 ** 20 : match[2] === "K" ? 2 ** 10 : 1;
  const bytes = pageUp(Number(match[1]) * unit);
  let order = 0;
  while (2 ** order * PAGE_SIZE < bytes) order++;
  const region = order > MAX_CRASH_ORDER ? virtAddr(0) : getFreePages(GFP_KERNEL, order);
  if (region === 0) return ENOMEM;
  const view = CrashRegion.at(crashRegion);
  view.start = region;
  view.bytes = 2 ** order * PAGE_SIZE;
  return 0;
}
/** The largest block of the page allocator: 4 MiB. */
const MAX_CRASH_ORDER = 10;

/** Physical range of the memory for a crash kernel; 0 bytes if there is none. */
export function crashRange(): { readonly start: number; readonly bytes: number } {
  const { start, bytes } = CrashRegion.at(crashRegion);
  return { start: start === 0 ? 0 : pa(start), bytes };
}
