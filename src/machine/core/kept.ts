// Second-chance translations of the soft TLB (architectural gear): what another page or context displaced from an entry is kept in
// SOFT_KEPT_WAYS places beside it, so that after a switch of address space and back it is recalled and not translated again. What is kept
// goes with what the soft TLB itself drops, and the translations of generations that no context has any more count as free places.
import {
  LIVE_GENERATIONS_REGION,
  SHARED_SOFT_FILLS,
  SOFT_ADDEND,
  SOFT_BYTES,
  SOFT_EXECUTE,
  SOFT_KEPT_REGION,
  SOFT_KEPT_REGION_BYTES,
  SOFT_KEPT_WAYS,
  SOFT_READ,
  SOFT_TLB_ENTRIES,
  SOFT_TLB_REGION,
  SOFT_WRITE,
} from "./layout.gen.ts";

const SET_BYTES: u32 = SOFT_KEPT_WAYS * SOFT_BYTES;

/** Where what was displaced from `entry` of the soft TLB is kept. */
// @inline
function setOf(entry: u32): u32 {
  return SOFT_KEPT_REGION + ((entry - SOFT_TLB_REGION) / SOFT_BYTES) * SET_BYTES;
}

/** The tag of an entry: all of its tags are this one or all ones (empty). */
// @inline
function tagOf(entry: u32): u64 {
  return min(min(load<u64>(entry, SOFT_READ), load<u64>(entry, SOFT_WRITE)), load<u64>(entry, SOFT_EXECUTE));
}

/** True when a context can still ask for what `entry` holds. */
// @inline
function isLive(entry: u32): bool {
  const tag = tagOf(entry);
  return tag !== u64.MAX_VALUE && load<u8>(LIVE_GENERATIONS_REGION + (((tag & 0xfff) >> 2) as u32)) !== 0;
}

// @inline
function copyEntry(to: u32, from: u32): void {
  store<u64>(to, load<u64>(from, SOFT_READ), SOFT_READ);
  store<u64>(to, load<u64>(from, SOFT_WRITE), SOFT_WRITE);
  store<u64>(to, load<u64>(from, SOFT_EXECUTE), SOFT_EXECUTE);
  store<u32>(to, load<u32>(from, SOFT_ADDEND), SOFT_ADDEND);
}

/** `entry` of the soft TLB is about to serve another page or context: what it holds is kept, if anybody can ask for it again. */
export function keep(entry: u32): void {
  if (!isLive(entry)) return;
  const set = setOf(entry);
  const end = set + SET_BYTES;
  for (let way = set; way < end; way += SOFT_BYTES) {
    if (isLive(way)) continue;
    copyEntry(way, entry);
    return;
  }
  copyEntry(set + ((load<u64>(SHARED_SOFT_FILLS) as u32) & (SOFT_KEPT_WAYS - 1)) * SOFT_BYTES, entry);
}

/** True when the translation with `tag` was kept: it changes places with what `entry` holds. */
export function recall(entry: u32, tag: u64): bool {
  const set = setOf(entry);
  const end = set + SET_BYTES;
  for (let way = set; way < end; way += SOFT_BYTES) {
    if (tagOf(way) !== tag) continue;
    const read = load<u64>(way, SOFT_READ);
    const write = load<u64>(way, SOFT_WRITE);
    const execute = load<u64>(way, SOFT_EXECUTE);
    const addend = load<u32>(way, SOFT_ADDEND);
    copyEntry(way, entry);
    store<u64>(entry, read, SOFT_READ);
    store<u64>(entry, write, SOFT_WRITE);
    store<u64>(entry, execute, SOFT_EXECUTE);
    store<u32>(entry, addend, SOFT_ADDEND);
    return true;
  }
  return false;
}

export function discardKept(): void {
  memory.fill(SOFT_KEPT_REGION, 0xff, SOFT_KEPT_REGION_BYTES);
}

/** Drops what is kept of one page of `shift` (12, 21, 30), whatever the context. */
export function dropKeptPage(page: u64, shift: u32): void {
  const first: u32 = shift === 12 ? SOFT_KEPT_REGION + (((page >> 12) as u32) & (SOFT_TLB_ENTRIES - 1)) * SET_BYTES : SOFT_KEPT_REGION;
  const end: u32 = shift === 12 ? first + SET_BYTES : SOFT_KEPT_REGION + SOFT_KEPT_REGION_BYTES;
  for (let way = first; way < end; way += SOFT_BYTES) forgetInside(way, page, shift);
}

/** Empties the tags of `entry` that lie in the page of `shift`. */
export function forgetInside(entry: u32, page: u64, shift: u32): void {
  const number = page >> shift;
  if (load<u64>(entry, SOFT_READ) >> shift === number) store<i64>(entry, -1, SOFT_READ);
  if (load<u64>(entry, SOFT_WRITE) >> shift === number) store<i64>(entry, -1, SOFT_WRITE);
  if (load<u64>(entry, SOFT_EXECUTE) >> shift === number) store<i64>(entry, -1, SOFT_EXECUTE);
}
