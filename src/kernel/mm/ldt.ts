// Local descriptor tables (arch/x86/kernel/ldt.c): segments of a process's own, for 16-bit and segmented 32-bit code. The table belongs to the
// mm; every CPU that has the mm loaded has it in LDTR.
import { EFAULT, EINVAL, ENOMEM, ENOSYS, type Errno, isErr } from "../../abi/index.ts";
import { addVirt, cpu, high32, low32, NULL, PAGE_SIZE, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { gdtPage } from "../entry/entry-area.ts";
import { GDT_ENTRY_LDT } from "../entry/vectors.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { __GFP_ZERO, GFP_KERNEL_ACCOUNT } from "./gfp.ts";
import { accessOk } from "./layout.ts";
import { freeLdtTables, ldtSlotAddress, mapLdtSlot, unmapLdtSlot } from "./ldt-pti.ts";
import { LDT_ENTRIES, LDT_ENTRY_BYTES, LdtStruct } from "./ldt-struct.ts";
import { LOAD_LDT, REFRESH_LDT_SEGMENTS } from "./ldt-stubs.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { freePages, getFreePages } from "./page-alloc.ts";
import { getOrder } from "./page-struct.ts";
import { kfree, kzalloc } from "./slab.ts";
import { flushLdtOnCpus } from "./tlb.ts";
import { loadedMm } from "./tlb-struct.ts";
import { copyFromUser, copyToUser } from "./uaccess.ts";

type LdtPtr = Ptr<"ldt_struct">;

/** Kernel: struct user_desc, 16 bytes: entry_number, base_addr, limit, flags. */
const USER_DESC_BYTES = 16;
const USER_DESC_BASE = 4;
const USER_DESC_LIMIT = 8;
const USER_DESC_FLAGS = 12;
/** Bits of its last word. */
const SEG_32BIT = 1 << 0;
const CONTENTS_SHIFT = 1;
const CONTENTS_CONFORMING_CODE = 3;
const READ_EXEC_ONLY = 1 << 3;
const LIMIT_IN_PAGES = 1 << 4;
const SEG_NOT_PRESENT = 1 << 5;
const USEABLE = 1 << 6;
const ALL_FLAGS = 0xff;

/** What modify_ldt() does. Kernel: the cases of its first argument. */
const READ_LDT = 0;
const WRITE_LDT_OLD = 1;
const READ_DEFAULT_LDT = 2;
const WRITE_LDT = 0x11;
/** Bytes of the empty table that READ_DEFAULT_LDT shows. */
const DEFAULT_LDT_BYTES = 128;

/** Kernel: `alloc_ldt_struct()`. */
function allocLdtStruct(nrEntries: number): LdtPtr {
  const ldt = kzalloc(LdtStruct.bytes, GFP_KERNEL_ACCOUNT) as LdtPtr; // of this size
  if (ldt === NULL) return NULL;
  const order = getOrder(nrEntries * LDT_ENTRY_BYTES);
  const entries = getFreePages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, order);
  if (entries === NULL) {
    kfree(ldt);
    return NULL;
  }
  const view = LdtStruct.at(ldt);
  view.entries = entries;
  view.nrEntries = nrEntries;
  view.order = order;
  return ldt;
}

/** Kernel: `free_ldt_struct()`. No CPU has it loaded. */
function freeLdtStruct(ldt: LdtPtr): void {
  if (ldt === NULL) return;
  const { entries, order } = LdtStruct.at(ldt);
  freePages(entries, order);
  kfree(ldt);
}

/** Type of an LDT descriptor, present. */
const TYPE_LDT = 0x82;

/** Puts the table of `mm` into this CPU's LDTR (kernel: `load_mm_ldt()`). Interrupts off. */
export function loadMmLdt(mm: MmPtr): void {
  const { ldt } = Mm.at(mm);
  if (ldt === NULL) {
    cpu.callStub(LOAD_LDT, 0);
    return;
  }
  const { entries, nrEntries, slot } = LdtStruct.at(ldt);
  const base = ptiFeature.isEnabled() ? ldtSlotAddress(slot) : entries;
  const descriptor = addVirt(gdtPage.here(), GDT_ENTRY_LDT);
  const low = low32(base);
  const limitAndBase = ((nrEntries * LDT_ENTRY_BYTES - 1) | ((low & 0xffff) << 16)) >>> 0;
  const typeAndBase = (((low >>> 16) & 0xff) | (TYPE_LDT << 8) | (low & 0xff000000)) >>> 0;
  cpu.store64(descriptor, limitAndBase, typeAndBase);
  cpu.store64(addVirt(descriptor, 8), high32(base), 0);
  cpu.callStub(LOAD_LDT, GDT_ENTRY_LDT);
}

/** At a change of the loaded mm (kernel: `switch_ldt()`). Interrupts off. */
export function switchLdt(prev: MmPtr, next: MmPtr): void {
  // Either has one: the next one's must come, or the last one's go.
  if (Mm.at(prev).ldt !== NULL || Mm.at(next).ldt !== NULL) loadMmLdt(next);
}

/** The table of `mm` changed: this CPU, if it has the mm loaded, takes the new one (kernel: `flush_ldt()`). Interrupts off. */
export function flushLdt(mm: MmPtr): void {
  if (loadedMm.get() !== mm) return;
  loadMmLdt(mm);
  cpu.callStub(REFRESH_LDT_SEGMENTS);
}

/** A copy of the parent's table for a fork's child (kernel: `ldt_dup_context()`). @returns ENOMEM. */
export function ldtDupContext(old: MmPtr, mm: MmPtr): 0 | Errno {
  const { ldtLock } = Mm.at(old);
  spinLock(ldtLock);
  const from = Mm.at(old).ldt;
  const copy = from === NULL ? NULL : allocLdtStruct(LdtStruct.at(from).nrEntries);
  if (copy !== NULL) {
    const { entries, nrEntries } = LdtStruct.at(from);
    cpu.copy(LdtStruct.at(copy).entries, entries, nrEntries * LDT_ENTRY_BYTES);
  }
  spinUnlock(ldtLock);
  if (from !== NULL && copy === NULL) return ENOMEM;
  if (copy === NULL) return 0;
  const error = mapLdtSlot(mm, copy, 0);
  if (error !== 0) {
    freeLdtStruct(copy);
    return error;
  }
  Mm.at(mm).ldt = copy;
  return 0;
}

/** The mm is freed; no CPU has it loaded (kernel: `destroy_context_ldt()`). */
export function destroyContextLdt(mm: MmPtr): void {
  const view = Mm.at(mm);
  const { ldt } = view;
  view.ldt = NULL;
  freeLdtTables(mm);
  freeLdtStruct(ldt);
}

/**
 * Kernel: the system call modify_ldt, for the running task's `mm`. @returns bytes or 0; EFAULT; EINVAL; ENOMEM; ENOSYS. Interrupts on.
 */
export function sysModifyLdt(mm: MmPtr, what: number, user: number, bytes: number): number {
  if (bytes < 0 || !accessOk(user, 0)) return EFAULT;
  switch (what) {
    case READ_LDT:
      return readLdt(mm, user as VirtAddr, bytes); // checked by the copy
    case READ_DEFAULT_LDT:
      return clearUser(user as VirtAddr, Math.min(bytes, DEFAULT_LDT_BYTES));
    case WRITE_LDT_OLD:
      return writeLdt(mm, user as VirtAddr, bytes, true);
    case WRITE_LDT:
      return writeLdt(mm, user as VirtAddr, bytes, false);
    default:
      return ENOSYS;
  }
}

/** Zeros at a user address. @returns their number, or EFAULT (kernel: `clear_user()`). */
function clearUser(to: VirtAddr, bytes: number): number {
  const zeros = kzalloc(Math.min(bytes, PAGE_SIZE), GFP_KERNEL_ACCOUNT);
  if (zeros === NULL) return ENOMEM;
  let left = bytes;
  while (left > 0) {
    const part = Math.min(left, PAGE_SIZE);
    if (copyToUser(addVirt(to, bytes - left), zeros, part) !== 0) break;
    left -= part;
  }
  kfree(zeros);
  return left > 0 ? EFAULT : bytes;
}

/** Kernel: `read_ldt()`: the entries, and zeros behind them up to `bytes`. */
function readLdt(mm: MmPtr, to: VirtAddr, bytes: number): number {
  const wanted = Math.min(bytes, LDT_ENTRIES * LDT_ENTRY_BYTES);
  // A copy to user memory may need the lock of the mm, and another thread may change the table meanwhile: what is copied is a copy.
  const copy = copyOfLdt(mm);
  if (isErr(copy)) return copy;
  if (copy === NULL) return 0;
  const { entries, nrEntries } = LdtStruct.at(copy);
  const used = Math.min(nrEntries * LDT_ENTRY_BYTES, wanted);
  const isCopied = copyToUser(to, entries, used) === 0;
  freeLdtStruct(copy);
  if (!isCopied) return EFAULT;
  if (wanted > used) {
    const cleared = clearUser(addVirt(to, used), wanted - used);
    if (isErr(cleared)) return cleared;
  }
  return wanted;
}

function copyOfLdt(mm: MmPtr): LdtPtr | Errno {
  const view = Mm.at(mm);
  spinLock(view.ldtLock);
  const { ldt } = view;
  const copy = ldt === NULL ? NULL : allocLdtStruct(LdtStruct.at(ldt).nrEntries);
  if (copy !== NULL) cpu.copy(LdtStruct.at(copy).entries, LdtStruct.at(ldt).entries, LdtStruct.at(ldt).nrEntries * LDT_ENTRY_BYTES);
  spinUnlock(view.ldtLock);
  return ldt !== NULL && copy === NULL ? ENOMEM : copy;
}

interface UserDesc {
  readonly entryNumber: number;
  readonly base: number;
  readonly limit: number;
  readonly flags: number;
}

function readUserDesc(user: VirtAddr): UserDesc | Errno {
  const buffer = kzalloc(USER_DESC_BYTES, GFP_KERNEL_ACCOUNT);
  if (buffer === NULL) return ENOMEM;
  const isCopied = copyFromUser(buffer, user, USER_DESC_BYTES) === 0;
  const desc = {
    entryNumber: cpu.load(buffer, 4),
    base: cpu.load(addVirt(buffer, USER_DESC_BASE), 4),
    limit: cpu.load(addVirt(buffer, USER_DESC_LIMIT), 4),
    flags: cpu.load(addVirt(buffer, USER_DESC_FLAGS), 4) & ALL_FLAGS,
  };
  kfree(buffer);
  return isCopied ? desc : EFAULT;
}

/** Kernel: `LDT_empty()`, `LDT_zero()`: the request clears the entry. */
function isEmpty(desc: UserDesc): boolean {
  return desc.base === 0 && desc.limit === 0 && (desc.flags === (READ_EXEC_ONLY | SEG_NOT_PRESENT) || desc.flags === 0);
}

/** Halves of the descriptor (kernel: `fill_ldt()`): a code or data segment of privilege 3, never a system segment or 64-bit code. */
function descriptorOf(desc: UserDesc, isOld: boolean): readonly [low: number, high: number] {
  const { base, limit, flags } = desc;
  const contents = (flags >> CONTENTS_SHIFT) & 3;
  const type = 1 | ((flags & READ_EXEC_ONLY) !== 0 ? 0 : 2) | (contents << 2);
  const access =
    type |
    (1 << 4) |
    (3 << 5) |
    ((flags & SEG_NOT_PRESENT) !== 0 ? 0 : 1 << 7) |
    (!isOld && (flags & USEABLE) !== 0 ? 1 << 12 : 0) |
    ((flags & SEG_32BIT) !== 0 ? 1 << 14 : 0) |
    ((flags & LIMIT_IN_PAGES) !== 0 ? 1 << 15 : 0);
  const low = ((limit & 0xffff) | ((base & 0xffff) << 16)) >>> 0;
  const high = (((base >>> 16) & 0xff) | (access << 8) | (limit & 0xf0000) | (base & 0xff000000)) >>> 0;
  return [low, high];
}

/** Kernel: `write_ldt()`. */
function writeLdt(mm: MmPtr, user: VirtAddr, bytes: number, isOld: boolean): number {
  if (bytes !== USER_DESC_BYTES) return EINVAL;
  const desc = readUserDesc(user);
  if (typeof desc === "number") return desc;
  if (desc.entryNumber >= LDT_ENTRIES) return EINVAL;
  if (((desc.flags >> CONTENTS_SHIFT) & 3) === CONTENTS_CONFORMING_CODE && (isOld || (desc.flags & SEG_NOT_PRESENT) === 0)) return EINVAL;
  const isCleared = (isOld && desc.base === 0 && desc.limit === 0) || isEmpty(desc);
  const [low, high] = isCleared ? [0, 0] : descriptorOf(desc, isOld);
  return installEntry(mm, desc.entryNumber, low, high);
}

/** A new table with one entry changed takes the place of the old one, on every CPU that has the mm loaded (kernel: `install_ldt()`). */
function installEntry(mm: MmPtr, entryNumber: number, low: number, high: number): 0 | Errno {
  const view = Mm.at(mm);
  spinLock(view.ldtLock);
  const old = view.ldt;
  const oldEntries = old === NULL ? 0 : LdtStruct.at(old).nrEntries;
  const next = allocLdtStruct(Math.max(entryNumber + 1, oldEntries));
  let error: 0 | Errno = next === NULL ? ENOMEM : 0;
  if (next !== NULL) {
    const { entries } = LdtStruct.at(next);
    if (old !== NULL) cpu.copy(entries, LdtStruct.at(old).entries, oldEntries * LDT_ENTRY_BYTES);
    cpu.store64(addVirt(entries, entryNumber * LDT_ENTRY_BYTES), low, high);
    error = mapLdtSlot(mm, next, old === NULL ? 0 : 1 - LdtStruct.at(old).slot);
  }
  if (error === 0) {
    // Complete before anybody can see it; the old one is nobody's when every CPU of the mm has answered.
    view.ldt = next;
    flushLdtOnCpus(mm);
    if (old !== NULL) unmapLdtSlot(mm, old);
  }
  spinUnlock(view.ldtLock);
  freeLdtStruct(error === 0 ? old : next);
  return error;
}
