// Virtual to physical (SDM vol. 3, chapter 5 "Paging"): modelled TLB first, then the walk of the four levels, with every permission
// bit, reserved bits, accessed and dirty flags, large and huge pages; in guest mode each table address goes through EPT.
// A failure leaves FAULT_* for the dispatcher and returns -1. Nothing here changes architectural state but A and D flags.
import { CR0_PG, CR0_WP, CR4_PGE, CR4_SMAP, CR4_SMEP, EFER_NXE } from "./context.ts";
import { translateGuestPhysical, usesEpt } from "./ept.ts";
import {
  ACCESS_EXECUTE,
  ACCESS_READ,
  ACCESS_WRITE,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_EFER,
  CPU_EXIT_ADDRESS,
  CPU_FAULT_ADDRESS,
  CPU_FAULT_ENTRY,
  CPU_FAULT_ERROR,
  CPU_FAULT_LEVEL,
  CPU_FAULT_NONCANONICAL,
  CPU_FAULT_PHYSICAL,
  CPU_FAULT_TERMINAL,
  CPU_FAULT_VECTOR,
  CPU_GUEST_MODE,
  CPU_WALK_ENTRIES,
  DETAILED_TRANSIENT,
  FAULT_EPT_VIOLATION,
  MODE_SUPERVISOR,
  MODE_USER,
  SHARED_EPT_FLAGS,
  SHARED_EPT_SHIFT,
  SHARED_PHYSICAL_MASK_BITS,
  SHARED_WALK_FLAGS,
  SHARED_WALK_SHIFT,
  TLB_FLAG_DIRTY,
  TLB_FLAG_EPT_EXECUTE,
  TLB_FLAG_EPT_READ,
  TLB_FLAG_EPT_WRITE,
  TLB_FLAG_GLOBAL,
  TLB_FLAG_NX,
  TLB_FLAG_USER,
  TLB_FLAG_WRITE,
  TLB_FLAGS,
  TLB_FRAME,
  TLB_SHIFT,
} from "./layout.gen.ts";
import { orPhysical64, readPhysical64 } from "./physical.ts";
import { portTableRead } from "./port.gen.ts";
import { dropEntry, findTlb, insertTlb } from "./tlb.ts";

export const VECTOR_DE = 0;
export const VECTOR_DB = 1;
export const VECTOR_BP = 3;
export const VECTOR_OF = 4;
export const VECTOR_BR = 5;
export const VECTOR_UD = 6;
export const VECTOR_DF = 8;
export const VECTOR_TS = 10;
export const VECTOR_NP = 11;
export const VECTOR_SS = 12;
export const VECTOR_GP = 13;
export const VECTOR_PF = 14;

const PTE_PRESENT: u64 = 1;
const PTE_WRITE: u64 = 2;
const PTE_USER: u64 = 4;
const PTE_ACCESSED: u64 = 0x20;
const PTE_DIRTY: u64 = 0x40;
const PTE_LARGE: u64 = 0x80;
const PTE_GLOBAL: u64 = 0x100;
const PTE_NX: u64 = 0x8000000000000000;
const FRAME_MASK: u64 = 0x000ffffffffff000;

const ERROR_PRESENT: u32 = 1;
const ERROR_WRITE: u32 = 2;
const ERROR_USER: u32 = 4;
const ERROR_RESERVED: u32 = 8;
const ERROR_FETCH: u32 = 16;

const EPT_ALL: u32 = TLB_FLAG_EPT_READ | TLB_FLAG_EPT_WRITE | TLB_FLAG_EPT_EXECUTE;
/** Not an address: permission faults that have no physical address to show. */
const NOWHERE: u64 = u64.MAX_VALUE;

export function isCanonical(va: i64): bool {
  return (va << 16) >> 16 === va;
}

/**
 * Physical address of `va` for an access by `mode` (MODE_*), or -1. `implicit`: descriptor-table and other accesses that the
 * processor makes itself; SMAP applies to them whatever RFLAGS.AC says, which `mode` MODE_SUPERVISOR expresses.
 */
export function translate(va: i64, access: i32, mode: u32): i64 {
  if (!isCanonical(va)) return nonCanonical();
  if (!(load<u64>(CPU_CR0) & CR0_PG)) return translateUnpaged(va as u64, access);
  const address = va as u64;
  const entry = findTlb(address);
  if (entry !== 0) {
    if (
      isAllowed(load<u16>(entry, TLB_FLAGS), access, mode) &&
      !(access === ACCESS_WRITE && !(load<u16>(entry, TLB_FLAGS) & TLB_FLAG_DIRTY))
    ) {
      const inside = ((1 as u64) << (load<u16>(entry, TLB_SHIFT) as u64)) - 1;
      store<u32>(SHARED_WALK_FLAGS, load<u16>(entry, TLB_FLAGS));
      return (load<u64>(entry, TLB_FRAME) | (address & inside)) as i64;
    }
    // The processor drops the entry and walks again before it faults, and to set the dirty flag (SDM vol. 3, 5.10.4.1).
    dropEntry(entry);
  }
  return walk(address, access, mode);
}

/** Paging off: addresses are physical (guest-physical under EPT). */
function translateUnpaged(address: u64, access: i32): i64 {
  store<u32>(SHARED_WALK_FLAGS, TLB_FLAG_WRITE | TLB_FLAG_USER | TLB_FLAG_DIRTY | EPT_ALL);
  if (!isNested()) return address as i64;
  store<u64>(CPU_EXIT_ADDRESS, address);
  return translateGuestPhysical(address, access, false);
}

function isNested(): bool {
  return load<u32>(CPU_GUEST_MODE) !== 0 && usesEpt();
}

function nonCanonical(): i64 {
  store<u32>(CPU_FAULT_VECTOR, VECTOR_GP);
  store<u32>(CPU_FAULT_ERROR, 0);
  store<u32>(CPU_FAULT_NONCANONICAL, 1);
  store<u32>(CPU_FAULT_TERMINAL, 0);
  store<u64>(CPU_FAULT_PHYSICAL, NOWHERE);
  return -1;
}

/** Whether the rights collected by a walk allow the access. SDM vol. 3, 5.6. */
function isAllowed(flags: u32, access: i32, mode: u32): bool {
  if (access === ACCESS_WRITE && !(flags & TLB_FLAG_EPT_WRITE)) return false;
  if (access === ACCESS_READ && !(flags & TLB_FLAG_EPT_READ)) return false;
  if (access === ACCESS_EXECUTE && !(flags & TLB_FLAG_EPT_EXECUTE)) return false;
  return isPermitted(flags, access, mode);
}

/** The guest's (or only) paging permissions. */
function isPermitted(flags: u32, access: i32, mode: u32): bool {
  const isUserPage = (flags & TLB_FLAG_USER) !== 0;
  if (access === ACCESS_EXECUTE && flags & TLB_FLAG_NX) return false;
  if (mode === MODE_USER) {
    if (!isUserPage) return false;
    return access !== ACCESS_WRITE || (flags & TLB_FLAG_WRITE) !== 0;
  }
  if (isUserPage) {
    if (access === ACCESS_EXECUTE) return !(load<u64>(CPU_CR4) & CR4_SMEP);
    if (mode === MODE_SUPERVISOR && load<u64>(CPU_CR4) & CR4_SMAP) return false;
  }
  return access !== ACCESS_WRITE || (flags & TLB_FLAG_WRITE) !== 0 || !(load<u64>(CPU_CR0) & CR0_WP);
}

function walk(address: u64, access: i32, mode: u32): i64 {
  const nested = isNested();
  store<u64>(CPU_EXIT_ADDRESS, address);
  let table = load<u64>(CPU_CR3) & FRAME_MASK;
  let rights: u64 = PTE_WRITE | PTE_USER;
  let nx: u64 = 0;
  let depth: u32 = 0;
  let shift: u32 = 39;
  while (true) {
    let at: u64 = table + (((address >> shift) & 511) << 3);
    if (nested) {
      const real = translateGuestPhysical(at, ACCESS_READ, true);
      if (real < 0) return -1;
      at = real as u64;
    }
    store<u64>(CPU_WALK_ENTRIES + depth, at);
    portTableRead(at);
    const entry = readPhysical64(at);
    if (!(entry & PTE_PRESENT)) return terminalFault(address, access, mode, entry, shift, 0);
    if (hasReservedBits(entry, shift)) return terminalFault(address, access, mode, entry, shift, ERROR_RESERVED | ERROR_PRESENT);
    rights &= entry;
    nx |= entry & PTE_NX;
    if (shift === 12 || (entry & PTE_LARGE && shift < 39)) return finish(address, access, mode, entry, shift, rights, nx, depth, nested);
    table = entry & FRAME_MASK;
    shift -= 9;
    depth += 8;
  }
}

function hasReservedBits(entry: u64, shift: u32): bool {
  if ((entry & FRAME_MASK) >> (load<u32>(SHARED_PHYSICAL_MASK_BITS) as u64) !== 0) return true;
  if (entry & PTE_NX && !(load<u64>(CPU_EFER) & EFER_NXE)) return true;
  if (shift === 39) return (entry & PTE_LARGE) !== 0;
  // Bit 12 of a large leaf is PAT; those above it up to the page size are reserved.
  if (shift > 12 && entry & PTE_LARGE) return (entry & ((((1 as u64) << shift) - 1) & ~(0x1fff as u64))) !== 0;
  return false;
}

function finish(address: u64, access: i32, mode: u32, entry: u64, shift: u32, rights: u64, nx: u64, depth: u32, nested: bool): i64 {
  let flags: u32 = 0;
  if (rights & PTE_WRITE) flags |= TLB_FLAG_WRITE;
  if (rights & PTE_USER) flags |= TLB_FLAG_USER;
  if (nx) flags |= TLB_FLAG_NX;
  if (entry & PTE_GLOBAL && load<u64>(CPU_CR4) & CR4_PGE) flags |= TLB_FLAG_GLOBAL;
  const inside = ((1 as u64) << shift) - 1;
  const target = (entry & FRAME_MASK & ~inside) | (address & inside);
  if (!isPermitted(flags, access, mode)) {
    return permissionFault(address, access, mode, nested ? behindEpt(target) : target);
  }
  if (!setAccessed(entry, depth, access, nested)) return -1;
  if (access === ACCESS_WRITE || entry & PTE_DIRTY) flags |= TLB_FLAG_DIRTY;
  let pa = target;
  let pageShift = shift;
  if (nested) {
    const real = translateGuestPhysical(target, access, false);
    if (real < 0) return -1;
    pa = real as u64;
    flags |= load<u32>(SHARED_EPT_FLAGS);
    if (load<u32>(SHARED_EPT_SHIFT) < pageShift) pageShift = load<u32>(SHARED_EPT_SHIFT);
  } else flags |= EPT_ALL;
  store<u32>(SHARED_WALK_FLAGS, flags);
  store<u32>(SHARED_WALK_SHIFT, pageShift);
  insertTlb(address, (pa >> pageShift) << pageShift, pageShift, flags);
  return pa as i64;
}

/** Where the access would have gone, for what a processor with the Meltdown bug forwards. What EPT finds wrong does not matter then. */
function behindEpt(gpa: u64): u64 {
  const real = translateGuestPhysical(gpa, ACCESS_READ, false);
  return real < 0 ? NOWHERE : (real as u64);
}

/** Sets A in every entry of the walk, and D in the leaf for a write. False: EPT does not allow the write. */
function setAccessed(leaf: u64, depth: u32, access: i32, nested: bool): bool {
  for (let level: u32 = 0; level <= depth; level += 8) {
    const at = load<u64>(CPU_WALK_ENTRIES + level);
    const isLeaf = level === depth;
    const bits: u64 = isLeaf && access === ACCESS_WRITE ? PTE_ACCESSED | PTE_DIRTY : PTE_ACCESSED;
    const entry = isLeaf ? leaf : readPhysical64(at);
    if ((entry & bits) === bits) continue;
    // A wrong path sets no accessed or dirty flag; such an access is not performed there.
    if (load<u32>(DETAILED_TRANSIENT) !== 0) {
      permissionFault(load<u64>(CPU_EXIT_ADDRESS), ACCESS_EXECUTE, MODE_SUPERVISOR, NOWHERE);
      return false;
    }
    if (nested && !tableIsWritable(level)) return false;
    orPhysical64(at, bits);
  }
  return true;
}

/** Guest tables that EPT maps read-only: setting A or D is a write there, hence a violation. Walks the guest side again to know its address. */
function tableIsWritable(level: u32): bool {
  let table = load<u64>(CPU_CR3) & FRAME_MASK;
  const address = load<u64>(CPU_EXIT_ADDRESS);
  let shift: u64 = 39;
  let n: u32 = 0;
  while (true) {
    const at = table + (((address >> shift) & 511) << 3);
    if (n === level) return translateGuestPhysical(at, ACCESS_WRITE, true) >= 0;
    table = readPhysical64(load<u64>(CPU_WALK_ENTRIES + n)) & FRAME_MASK;
    n += 8;
    shift -= 9;
  }
}

function errorCode(access: i32, mode: u32): u32 {
  let error: u32 = 0;
  if (access === ACCESS_WRITE) error |= ERROR_WRITE;
  if (mode === MODE_USER) error |= ERROR_USER;
  // The fetch bit is reported only where fetches can be told apart (SDM vol. 3, 5.7).
  if (access === ACCESS_EXECUTE && (load<u64>(CPU_EFER) & EFER_NXE || load<u64>(CPU_CR4) & CR4_SMEP)) error |= ERROR_FETCH;
  return error;
}

/** Not present, or reserved bits: no translation exists. The entry is kept, for what a processor with the L1TF bug does with it. */
function terminalFault(address: u64, access: i32, mode: u32, entry: u64, shift: u32, error: u32): i64 {
  store<u32>(CPU_FAULT_VECTOR, VECTOR_PF);
  store<u32>(CPU_FAULT_ERROR, error | errorCode(access, mode));
  store<u64>(CPU_FAULT_ADDRESS, address);
  store<u32>(CPU_FAULT_TERMINAL, 1);
  store<u64>(CPU_FAULT_ENTRY, entry);
  store<u32>(CPU_FAULT_LEVEL, shift);
  store<u64>(CPU_FAULT_PHYSICAL, NOWHERE);
  return -1;
}

function permissionFault(address: u64, access: i32, mode: u32, target: u64): i64 {
  store<u32>(CPU_FAULT_VECTOR, VECTOR_PF);
  store<u32>(CPU_FAULT_ERROR, ERROR_PRESENT | errorCode(access, mode));
  store<u64>(CPU_FAULT_ADDRESS, address);
  store<u32>(CPU_FAULT_TERMINAL, 0);
  store<u64>(CPU_FAULT_PHYSICAL, target);
  return -1;
}

/** True when the last failure belongs to EPT, not to the guest's tables. */
export function failedInEpt(): bool {
  return load<u32>(CPU_FAULT_VECTOR) >= (FAULT_EPT_VIOLATION as u32);
}
