// Changing the rights of kernel pages (arch/x86/mm/pat/set_memory.c): large pages are split as far as needed, every alias of a frame gets
// the same rights, and the restricted address spaces follow, so that what they map is never more than the unrestricted tables allow.
import { EFAULT, ENOMEM, type Errno } from "../../abi/index.ts";
import {
  addVirt,
  assert,
  cpu,
  entryFrame,
  hex,
  isPageAligned,
  type Level,
  levelSize,
  PAGE_SIZE,
  type PhysAddr,
  PTE_LARGE,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_WRITE,
  struct,
  type VirtAddr,
} from "../../hardware/index.ts";
import { asiMap, splitRestricted } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { Asi } from "../asi/asi-struct.ts";
import { spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import {
  KERNEL_DATA_BASE,
  KERNEL_DATA_BYTES,
  KERNEL_DATA_PHYSICAL,
  KERNEL_TEXT_BASE,
  KERNEL_TEXT_PHYSICAL,
  staticStruct,
} from "../static-data.ts";
import { TRACE_UNMAPPED, trace } from "../trace.ts";
import { KERNEL_TEXT_BYTES } from "./boot-memory.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { PAGE_OFFSET, VMALLOC_START, va } from "./layout.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { Page, PG_GLOBAL_NONSENSITIVE, virtToPage } from "./page-struct.ts";
import { clearEntry, isPresent, lookupAddress, splitLargeLeaf, type Translation } from "./page-table.ts";
import { flushTlbAll } from "./tlb.ts";

const CpaLock = struct("cpa_lock", { lock: spinlock });
const cpaLock = staticStruct("cpa_lock", CpaLock);

/** What changes in an entry (kernel: struct cpa_data). */
interface Change {
  readonly set: number;
  readonly clear: number;
  readonly setNx: boolean;
  readonly clearNx: boolean;
  /** Only split, down to single pages (kernel: force_split). */
  readonly mustSplit: boolean;
}
/** A range with the other addresses of its frames, without them, or as such another address. */
type Reach = "with aliases" | "alone" | "alias";
const NO_CHANGE: Change = { set: 0, clear: 0, setNx: false, clearNx: false, mustSplit: false };

/** Makes pages read-only (kernel: `set_memory_ro()`). As all below: page-aligned kernel addresses, interrupts on. @returns 0; ENOMEM: to split */
export function setMemoryRo(address: VirtAddr, pages: number): 0 | Errno {
  return changePageAttr(address, pages, { ...NO_CHANGE, clear: PTE_WRITE });
}

/** Kernel: `set_memory_rw()`. */
export function setMemoryRw(address: VirtAddr, pages: number): 0 | Errno {
  return changePageAttr(address, pages, { ...NO_CHANGE, set: PTE_WRITE });
}

/** Makes pages executable (kernel: `set_memory_x()`). */
export function setMemoryX(address: VirtAddr, pages: number): 0 | Errno {
  return changePageAttr(address, pages, { ...NO_CHANGE, clearNx: true });
}

/** Kernel: `set_memory_nx()`. */
export function setMemoryNx(address: VirtAddr, pages: number): 0 | Errno {
  return changePageAttr(address, pages, { ...NO_CHANGE, setNx: true });
}

/** Makes pages inaccessible, in every address space (kernel: `set_memory_np()`). `setMemoryP` brings them back. */
export function setMemoryNp(address: VirtAddr, pages: number): 0 | Errno {
  return changePageAttr(address, pages, { ...NO_CHANGE, clear: PTE_PRESENT });
}

/** Kernel: `set_memory_p()`. Nonsensitive pages of the direct map come back in the restricted address spaces too. */
export function setMemoryP(address: VirtAddr, pages: number): 0 | Errno {
  const error = changePageAttr(address, pages, { ...NO_CHANGE, set: PTE_PRESENT });
  return error !== 0 || !asiEnabled() || !isDirectMap(address) ? error : restoreRestricted(address, pages);
}

/** Splits large pages into single ones (kernel: `set_memory_4k()`). */
export function setMemory4k(address: VirtAddr, pages: number): 0 | Errno {
  return changePageAttr(address, pages, { ...NO_CHANGE, mustSplit: true });
}

/**
 * Makes the direct map's aliases of the mapped pages `[address, address + bytes)` writable again, for who unmaps them next (kernel:
 * `vm_reset_perms()`). Cannot fail: an alias that was ever made read-only is a page of its own already.
 */
export function resetDirectMap(address: VirtAddr, bytes: number): void {
  const { pgd } = Mm.at(initMm);
  const { lock } = CpaLock.at(cpaLock);
  spinLock(lock);
  for (let at = 0; at < bytes; at += PAGE_SIZE) {
    const direct = va(physicalOf(lookupAddress(pgd, addVirt(address, at))));
    const found = lookupAddress(pgd, direct);
    if (found.level === 1 && (found.low & PTE_WRITE) === 0) changeLeaf(direct, found, { ...NO_CHANGE, set: PTE_WRITE });
  }
  spinUnlock(lock);
}

/** Kernel: `change_page_attr_set_clr()`. What was changed before an error stays, as there; nothing is half changed in one place. */
function changePageAttr(address: VirtAddr, pages: number, change: Change): 0 | Errno {
  assert(isPageAligned(address) && address < 0, () => `change_page_attr: not a kernel page: ${hex(address)}`);
  // Rights to execute are the alias's own: text is executable at one address alone.
  const reach = (change.set | change.clear) !== 0 ? "with aliases" : "alone";
  const { lock } = CpaLock.at(cpaLock);
  spinLock(lock);
  const error = changeRange(address, pages * PAGE_SIZE, change, reach);
  spinUnlock(lock);
  flushTlbAll();
  if (takesAway(change)) trace(TRACE_UNMAPPED, 0, address, address + pages * PAGE_SIZE);
  return error;
}

function takesAway(change: Change): boolean {
  return change.clear !== 0 || change.setNx;
}

/** Changes `[address, address + bytes)` leaf by leaf, and the aliases of each. Under the lock. */
function changeRange(address: VirtAddr, bytes: number, change: Change, reach: Reach): 0 | Errno {
  const { pgd } = Mm.at(initMm);
  let at = 0;
  while (at < bytes) {
    const here = addVirt(address, at);
    const found = lookupAddress(pgd, here);
    const size = levelSize(found.level);
    const inside = here - Math.floor(here / size) * size;
    if (found.low === 0 && found.high === 0) {
      if (reach !== "alias") return EFAULT;
      at += size - inside; // an alias that was taken away has no rights to change
      continue;
    }
    const isWhole = inside === 0 && bytes - at >= size;
    if (found.level > 1 && (!isWhole || change.mustSplit)) {
      if (!splitLargeLeaf(found, allocKernelTable, freeTable)) return ENOMEM;
      continue;
    }
    changeLeaf(here, found, change);
    at += size;
    const error = reach === "with aliases" ? changeAliases(here, physicalOf(found), size, change) : 0;
    if (error !== 0) return error;
  }
  return 0;
}

/** Rights are taken from the restricted tables first and given to them last (S5). */
function changeLeaf(address: VirtAddr, found: Translation, change: Change): void {
  const [low, high] = changed(found, change);
  if (takesAway(change)) mirror(address, found, low, high);
  cpu.store64(found.entry, low, high);
  if (!takesAway(change)) mirror(address, found, low, high);
}

function changed(found: Translation, change: Change): readonly [number, number] {
  const frame = physicalOf(found);
  const low = ((found.low & 0xfff) | change.set) & ~change.clear;
  const nx = change.setNx ? true : change.clearNx ? false : (found.high & PTE_NX_HIGH) !== 0;
  const frameLow = frame % 2 ** 32;
  const frameHigh = Math.floor(frame / 2 ** 32);
  // An entry that is not present names no frame that exists: what L1TF would look up (kernel: protnone_mask()).
  const isInverted = (low & PTE_PRESENT) === 0;
  const outLow = ((isInverted ? ~frameLow & 0xfffff000 : frameLow) | low) >>> 0;
  const outHigh = ((isInverted ? ~frameHigh & 0xfffff : frameHigh) | (nx ? PTE_NX_HIGH : 0)) >>> 0;
  return [outLow, outHigh];
}

/** Frame that an entry names, the inverted one of an entry that is not present too. */
function physicalOf({ level, low, high }: Translation): PhysAddr {
  const isInverted = (low & PTE_PRESENT) === 0;
  const frame = isInverted ? entryFrame(~low >>> 0, ~high >>> 0) : entryFrame(low, high);
  return (frame - (frame % levelSize(level))) as PhysAddr;
}

/** The same rights in the restricted tables, where they map the leaf or parts of it. */
function mirror(address: VirtAddr, found: Translation, low: number, high: number): void {
  if (!asiEnabled()) return;
  const { pgd } = Asi.at(ASI_GLOBAL_NONSENSITIVE);
  const bytes = levelSize(found.level);
  let at = 0;
  while (at < bytes) {
    const here = addVirt(address, at);
    const there = lookupAddress(pgd, here);
    if (there.entry === found.entry) return; // one table for both
    const size = levelSize(there.level);
    if (isPresent(there)) {
      if (there.level > found.level) {
        if (splitRestricted(there)) continue;
        clearEntry(there.entry); // no memory to say it more exactly: it is mapped no more, which costs exits alone
        return;
      }
      if ((low & PTE_PRESENT) === 0) clearEntry(there.entry);
      else writeRights(there, low, high);
    }
    at += size - (here - Math.floor(here / size) * size);
  }
}

/** Gives a restricted leaf the rights of an unrestricted entry; frame and size stay. */
function writeRights(there: Translation, low: number, high: number): void {
  const size = there.level > (1 satisfies Level) ? PTE_LARGE : 0;
  const flags = (low & 0xfff & ~PTE_LARGE) | size;
  const outLow = ((there.low & 0xfffff000) | flags) >>> 0;
  cpu.store64(there.entry, outLow, ((there.high & 0xfffff) | (high & PTE_NX_HIGH)) >>> 0);
}

/** The direct map and the kernel image, where they map the frames too (kernel: `cpa_process_alias()`). */
function changeAliases(address: VirtAddr, frame: PhysAddr, bytes: number, change: Change): 0 | Errno {
  if (!isDirectMap(address)) {
    const error = changeRange(va(frame), bytes, change, "alias");
    if (error !== 0) return error;
  }
  const image = imageAlias(frame);
  if (image === 0 || image === address) return 0;
  return changeRange(image, bytes, change, "alias");
}

function isDirectMap(address: VirtAddr): boolean {
  return address >= PAGE_OFFSET && address < VMALLOC_START;
}

/** Address of the kernel image that maps `frame`, or 0. */
function imageAlias(frame: PhysAddr): VirtAddr | 0 {
  if (frame >= KERNEL_DATA_PHYSICAL && frame < KERNEL_DATA_PHYSICAL + KERNEL_DATA_BYTES)
    return (KERNEL_DATA_BASE + frame - KERNEL_DATA_PHYSICAL) as VirtAddr;
  const text = frame - KERNEL_TEXT_PHYSICAL;
  return text >= 0 && text < KERNEL_TEXT_BYTES ? ((KERNEL_TEXT_BASE + text) as VirtAddr) : 0;
}

function restoreRestricted(address: VirtAddr, pages: number): 0 | Errno {
  for (let i = 0; i < pages; i++) {
    const here = addVirt(address, i * PAGE_SIZE);
    if ((Page.at(virtToPage(here)).flags & PG_GLOBAL_NONSENSITIVE) === 0) continue;
    const error = asiMap(ASI_GLOBAL_NONSENSITIVE, here, PAGE_SIZE);
    if (error !== 0) return error;
  }
  return 0;
}
