// The slow path of memory accesses: what the soft TLB does not match. It translates, fills the soft TLB from the modelled one,
// assembles accesses that cross a page, and watches for writes to translated code.
import { codeWritten, frameHasCode } from "./blocks.ts";
import {
  ACCESS_EXECUTE,
  ACCESS_READ,
  ACCESS_WRITE,
  BOUNCE_REGION,
  CPU_GENERATION,
  SHARED_SOFT_FILLS,
  SHARED_WALK_FLAGS,
  SOFT_ADDEND,
  SOFT_BYTES,
  SOFT_EXECUTE,
  SOFT_READ,
  SOFT_TLB_ENTRIES,
  SOFT_TLB_REGION,
  SOFT_WRITE,
  TLB_FLAG_DIRTY,
} from "./layout.gen.ts";
import { translate } from "./mmu.ts";
import { hostOf, isBounce, isInstalled, physicalOf } from "./physical.ts";
import { portHostAccess, portKeep, portRecall, portSlowStore } from "./port.gen.ts";

const PAGE_MASK: i64 = 0xfff;

// @inline
export function softEntry(va: i64): u32 {
  return SOFT_TLB_REGION + (((va >> 12) as u32) & (SOFT_TLB_ENTRIES - 1)) * SOFT_BYTES;
}

/** Mode bits of a generation. */
// @inline
function modeOf(generation: u64): u32 {
  return (generation as u32) & 3;
}

/** Host address for one access inside one page by the context of `generation`, or 0 with a fault recorded. Fills the soft TLB. */
export function hostAddress(va: i64, access: i32, generation: u64): u32 {
  const front = softEntry(va);
  if (portRecall(front, ((va & ~PAGE_MASK) as u64) | generation, access)) return (va as u32) + load<u32>(front, SOFT_ADDEND);
  const pa = translate(va, access, modeOf(generation));
  if (pa < 0) return 0;
  if (!isInstalled(pa as u64)) {
    store<u64>(BOUNCE_REGION + 64, u64.MAX_VALUE);
    store<u64>(BOUNCE_REGION + 72, u64.MAX_VALUE);
    return BOUNCE_REGION + 64;
  }
  const host = hostOf(pa as u64);
  fillSoft(va, access, host, generation);
  return host;
}

function fillSoft(va: i64, access: i32, host: u32, generation: u64): void {
  const entry = softEntry(va);
  const tag = ((va & ~PAGE_MASK) as u64) | generation;
  const addend = host - (va as u32);
  const isHeld = holds(entry, tag);
  if (!isHeld) portKeep(entry);
  if (load<u32>(entry, SOFT_ADDEND) !== addend || !isHeld) {
    store<i64>(entry, -1, SOFT_READ);
    store<i64>(entry, -1, SOFT_WRITE);
    store<i64>(entry, -1, SOFT_EXECUTE);
    store<u32>(entry, addend, SOFT_ADDEND);
  }
  if (access === ACCESS_READ) store<u64>(entry, tag, SOFT_READ);
  else if (access === ACCESS_EXECUTE) store<u64>(entry, tag, SOFT_EXECUTE);
  // A page with translated code gets no write tag: each write to it comes here and is checked.
  else if (load<u32>(SHARED_WALK_FLAGS) & TLB_FLAG_DIRTY && !frameHasCode(physicalOf(host))) store<u64>(entry, tag, SOFT_WRITE);
  store<u64>(SHARED_SOFT_FILLS, load<u64>(SHARED_SOFT_FILLS) + 1);
}

/** True when any tag of the entry is this page and context: then the others may stay. */
function holds(entry: u32, tag: u64): bool {
  return load<u64>(entry, SOFT_READ) === tag || load<u64>(entry, SOFT_WRITE) === tag || load<u64>(entry, SOFT_EXECUTE) === tag;
}

// @inline
function crosses(va: i64, bytes: u32): bool {
  return ((va as u32) & 0xfff) + bytes > 4096;
}

function bytesBeforePageEnd(va: i64): u32 {
  return 4096 - ((va as u32) & 0xfff);
}

/** Host address to read `bytes` (at most 16) from, or 0. */
export function slowReadAs(va: i64, bytes: u32, generation: u64): u32 {
  if (!crosses(va, bytes)) return hostAddress(va, ACCESS_READ, generation);
  const head = bytesBeforePageEnd(va);
  const first = hostAddress(va, ACCESS_READ, generation);
  if (first === 0) return 0;
  memory.copy(BOUNCE_REGION, first, head);
  const second = hostAddress(va + (head as i64), ACCESS_READ, generation);
  if (second === 0) return 0;
  memory.copy(BOUNCE_REGION + head, second, bytes - head);
  return BOUNCE_REGION;
}

export function slowRead(va: i64, bytes: u32): u32 {
  return slowReadAs(va, bytes, load<u64>(CPU_GENERATION));
}

/**
 * Host address for a read-modify-write, or 0. Where the bytes need care when written (page crossing, translated code) they are
 * copied to BOUNCE_REGION, and the caller ends with commitBounce().
 */
export function slowReadForWriteAs(va: i64, bytes: u32, generation: u64): u32 {
  const first = hostAddress(va, ACCESS_WRITE, generation);
  if (first === 0) return 0;
  if (!crosses(va, bytes)) {
    if (isBounce(first)) return first;
    if (!frameHasCode(physicalOf(first))) return first;
    memory.copy(BOUNCE_REGION, first, bytes);
    return BOUNCE_REGION;
  }
  const head = bytesBeforePageEnd(va);
  const second = hostAddress(va + (head as i64), ACCESS_WRITE, generation);
  if (second === 0) return 0;
  memory.copy(BOUNCE_REGION, first, head);
  memory.copy(BOUNCE_REGION + head, second, bytes - head);
  return BOUNCE_REGION;
}

export function slowReadForWrite(va: i64, bytes: u32): u32 {
  return slowReadForWriteAs(va, bytes, load<u64>(CPU_GENERATION));
}

/** Writes BOUNCE_REGION back to where slowReadForWrite() took it from. Cannot fault: that has been checked. */
export function commitBounceAs(va: i64, bytes: u32, generation: u64): void {
  const head = crosses(va, bytes) ? bytesBeforePageEnd(va) : bytes;
  writeBytes(hostAddress(va, ACCESS_WRITE, generation), BOUNCE_REGION, head);
  if (head < bytes) writeBytes(hostAddress(va + (head as i64), ACCESS_WRITE, generation), BOUNCE_REGION + head, bytes - head);
}

export function commitBounce(va: i64, bytes: u32): void {
  commitBounceAs(va, bytes, load<u64>(CPU_GENERATION));
}

/** Writes inside one page, telling the code cache. Uninstalled memory swallows them. */
export function writeBytes(to: u32, from: u32, bytes: u32): void {
  if (isBounce(to)) return;
  memory.copy(to, from, bytes);
  if (frameHasCode(physicalOf(to))) codeWritten(physicalOf(to), bytes);
}

/** Stores the low `bytes` (1, 2, 4, 8) of `value`; false with a fault recorded, and then nothing is written. */
export function slowStoreAs(va: i64, bytes: u32, value: i64, generation: u64): bool {
  if (!crosses(va, bytes)) {
    const host = hostAddress(va, ACCESS_WRITE, generation);
    if (host === 0) return false;
    store<i64>(BOUNCE_REGION + 32, value);
    writeBytes(host, BOUNCE_REGION + 32, bytes);
    return true;
  }
  if (slowReadForWriteAs(va, bytes, generation) === 0) return false;
  store<i64>(BOUNCE_REGION, value);
  commitBounceAs(va, bytes, generation);
  return true;
}

export function slowStore(va: i64, bytes: u32, value: i64): bool {
  return slowStoreAs(va, bytes, value, load<u64>(CPU_GENERATION));
}

/** As slowReadAs(), after a look at the soft TLB: for the core's own functions, which read through tables and stacks often. An access. */
export function hostForRead(va: i64, bytes: u32, generation: u64): u32 {
  const host = findForRead(va, bytes, generation);
  if (host !== 0) portHostAccess(host, bytes, false);
  return host;
}

/** The same without an access: where the address matters, not what is there. */
export function findForRead(va: i64, bytes: u32, generation: u64): u32 {
  const entry = softEntry(va);
  const lastPage = ((va + (bytes as i64) - 1) & ~PAGE_MASK) as u64;
  if (load<u64>(entry, SOFT_READ) === (lastPage | generation)) return (va as u32) + load<u32>(entry, SOFT_ADDEND);
  return slowReadAs(va, bytes, generation);
}

/** Stores with a look at the soft TLB first. False with a fault recorded. */
export function storeAs(va: i64, bytes: u32, value: i64, generation: u64): bool {
  const entry = softEntry(va);
  const lastPage = ((va + (bytes as i64) - 1) & ~PAGE_MASK) as u64;
  if (load<u64>(entry, SOFT_WRITE) !== (lastPage | generation)) {
    if (!slowStoreAs(va, bytes, value, generation)) return false;
    portSlowStore(va, generation);
    return true;
  }
  const host = (va as u32) + load<u32>(entry, SOFT_ADDEND);
  portHostAccess(host, bytes, true);
  switch (bytes) {
    case 1:
      store<u8>(host, value as u8);
      return true;
    case 2:
      store<u16>(host, value as u16);
      return true;
    case 4:
      store<u32>(host, value as u32);
      return true;
    default:
      store<i64>(host, value);
      return true;
  }
}
