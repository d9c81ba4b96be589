// Memory accesses of the detailed gear that the soft TLB does not match: translation with the time of its walk, faults that open or
// feed a window, stores of wrong paths, accesses across pages. And the accesses of cold operations, which come here whole.

import {
  ACCESS_READ,
  BOUNCE_REGION,
  BOUNCE_REGION_BYTES,
  CPU_GENERATION,
  DETAILED_ACCESS_TIME,
  DETAILED_FORWARD_DATA,
  DETAILED_LIMIT,
  DETAILED_SINK,
  DETAILED_TRANSIENT,
  DETAILED_WALK_TIME,
  MODEL_MEMORY_LATENCY,
  PHYSICAL_REGION,
  SHARED_WALK_FLAGS,
  SOFT_ADDEND,
  SOFT_READ,
  SOFT_WRITE,
  TIME_NEVER,
  TLB_FLAG_DIRTY,
  TLB_FLAG_EPT_WRITE,
  TLB_FLAG_WRITE,
} from "../layout.gen.ts";
import { commitBounce, hostAddress, slowRead, slowReadForWrite, slowStore, softEntry } from "../memory.ts";
import { forgetDataTlb, loadTime, storeTime } from "./access-timing.ts";
import { forwardFault } from "./forwarding.ts";
import { journalStore } from "./window.ts";

const PAGE_MASK: i64 = 0xfff;
const MAY_STORE: u32 = TLB_FLAG_WRITE | TLB_FLAG_EPT_WRITE | TLB_FLAG_DIRTY;

function isTransient(): bool {
  return load<u32>(DETAILED_TRANSIENT) !== 0;
}

/** A wrong path learns this address only after its end: the access is not made, and its result never known. */
function isTooLate(start: i64): bool {
  return isTransient() && start >= load<i64>(DETAILED_LIMIT);
}

function crosses(va: i64, bytes: u32): bool {
  return ((va as u32) & 0xfff) + bytes > 4096;
}

/** Host address of `va` if the soft TLB translates it for reads; 0 otherwise. */
function softHost(va: i64): u32 {
  const entry = softEntry(va);
  const tag = (va & ~PAGE_MASK) | load<i64>(CPU_GENERATION);
  if (load<i64>(entry, SOFT_READ) !== tag && load<i64>(entry, SOFT_WRITE) !== tag) return 0;
  return (va as u32) + load<u32>(entry, SOFT_ADDEND);
}

/** Ready time of the bytes at `va`, which a slow path has just translated. Memory that is not installed answers like memory. */
function pieceTime(va: i64, start: i64): i64 {
  const host = softHost(va);
  if (host < (PHYSICAL_REGION as u32)) return start + (load<u32>(MODEL_MEMORY_LATENCY) as i64);
  return loadTime(host, 1, (va >> 12) as u32, start);
}

function nothing(): u32 {
  memory.fill(DETAILED_FORWARD_DATA, 0, 32);
  store<i64>(DETAILED_ACCESS_TIME, TIME_NEVER);
  return DETAILED_FORWARD_DATA as u32;
}

function beginAccess(start: i64): void {
  store<i64>(DETAILED_ACCESS_TIME, start);
  store<i64>(DETAILED_WALK_TIME, 0);
}

/**
 * Host address to read `bytes` at `va` from, its address known at `start`; 0 with a fault recorded, but never on a wrong path, which
 * gets what the model forwards. A result below physical memory has its time in ACCESS_TIME.
 */
export function detailedRead(va: i64, bytes: u32, start: i64): u32 {
  if (isTooLate(start)) return nothing();
  beginAccess(start);
  return placed(slowRead(va, bytes), va, bytes, start);
}

function placed(host: u32, va: i64, bytes: u32, start: i64): u32 {
  if (host === 0) {
    if (!isTransient()) return 0;
    forwardFault(va as u64, bytes, start);
    return DETAILED_FORWARD_DATA as u32;
  }
  if (host >= (BOUNCE_REGION as u32) && host < ((BOUNCE_REGION + BOUNCE_REGION_BYTES) as u32)) {
    const known = start + load<i64>(DETAILED_WALK_TIME);
    store<i64>(DETAILED_WALK_TIME, 0);
    store<i64>(DETAILED_ACCESS_TIME, max<i64>(pieceTime(va, known), pieceTime(va + (bytes as i64) - 1, known)));
    return host;
  }
  // A soft-TLB miss that needed no walk is no event of the processor.
  if (load<i64>(DETAILED_WALK_TIME) !== 0) forgetDataTlb((va >> 12) as u32);
  return host;
}

/** The same for a read-modify-write. On a wrong path a place that may not be written becomes a copy that nobody sees. */
export function detailedReadForWrite(va: i64, bytes: u32, start: i64): u32 {
  if (!isTransient()) {
    beginAccess(start);
    return placed(slowReadForWrite(va, bytes), va, bytes, start);
  }
  const host = detailedRead(va, bytes, start);
  if (host < (PHYSICAL_REGION as u32) || !mayStore()) {
    memory.copy(DETAILED_SINK, host, bytes);
    if (host >= (PHYSICAL_REGION as u32)) store<i64>(DETAILED_ACCESS_TIME, loadTime(host, bytes, (va >> 12) as u32, start));
    return DETAILED_SINK as u32;
  }
  return host;
}

/** The translation made last allows stores that set no dirty flag. */
function mayStore(): bool {
  return (load<u32>(SHARED_WALK_FLAGS) & MAY_STORE) === MAY_STORE;
}

/** Where a wrong path's store to `host` goes: there, after it was journalled; into the sink when the journal is full. */
export function journalled(host: u32, bytes: u32): u32 {
  if (host < (PHYSICAL_REGION as u32)) return host;
  return journalStore(host, bytes) ? host : (DETAILED_SINK as u32);
}

/** Stores the low `bytes` of `value`, its address known at `start`, its data at `ready`. False with a fault recorded. */
export function detailedStore(va: i64, bytes: u32, value: i64, start: i64, ready: i64): bool {
  if (isTransient()) {
    if (!isTooLate(start) && !crosses(va, bytes)) transientStore(va, bytes, value, start);
    return true;
  }
  beginAccess(start);
  if (!slowStore(va, bytes, value)) return false;
  const done = max<i64>(ready, start + load<i64>(DETAILED_WALK_TIME));
  store<i64>(DETAILED_WALK_TIME, 0);
  storedAt(va, done);
  if (crosses(va, bytes)) storedAt(va + (bytes as i64) - 1, done);
  return true;
}

function storedAt(va: i64, ready: i64): void {
  const host = softHost(va);
  if (host !== 0) storeTime(host, 1, ready);
}

/** A store of a wrong path to a page that the soft TLB does not let it write. A fault there is the wrong path's own: nothing happens. */
function transientStore(va: i64, bytes: u32, value: i64, start: i64): void {
  beginAccess(start);
  const host = hostAddress(va, ACCESS_READ, load<u64>(CPU_GENERATION));
  store<i64>(DETAILED_WALK_TIME, 0);
  if (host < (PHYSICAL_REGION as u32) || !mayStore() || !journalStore(host, bytes)) return;
  if (bytes === 8) store<i64>(host, value);
  else if (bytes === 4) store<i32>(host, value as i32);
  else if (bytes === 2) store<i16>(host, value as i16);
  else store<i8>(host, value as i8);
}

// -------------------------------------------------------------------------------------------------- cold operations

/** A read of a cold operation, made when its operands are known (ACCESS_TIME), which then says when its data is. */
export function timedRead(va: i64, bytes: u32): u32 {
  const start = load<i64>(DETAILED_ACCESS_TIME);
  const host = detailedRead(va, bytes, start);
  if (host >= (PHYSICAL_REGION as u32)) store<i64>(DETAILED_ACCESS_TIME, loadTime(host, bytes, (va >> 12) as u32, start));
  return host;
}

export function timedReadForWrite(va: i64, bytes: u32): u32 {
  const start = load<i64>(DETAILED_ACCESS_TIME);
  const host = detailedReadForWrite(va, bytes, start);
  if (host >= (PHYSICAL_REGION as u32)) store<i64>(DETAILED_ACCESS_TIME, loadTime(host, bytes, (va >> 12) as u32, start));
  return host;
}

export function timedStoreBack(read: u32, va: i64, bytes: u32, value: i64): void {
  const host = isTransient() ? journalled(read, bytes) : read;
  if (bytes === 8) store<i64>(host, value);
  else if (bytes === 4) store<i32>(host, value as i32);
  else if (bytes === 2) store<i16>(host, value as i16);
  else store<i8>(host, value as i8);
  if (host === (BOUNCE_REGION as u32)) commitBounce(va, bytes);
  storeTime(host, bytes, load<i64>(DETAILED_ACCESS_TIME));
}

export function timedStore(va: i64, bytes: u32, value: i64): bool {
  const start = load<i64>(DETAILED_ACCESS_TIME);
  return detailedStore(va, bytes, value, start, start);
}
