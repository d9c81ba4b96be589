// One cache, whatever its level: sets of LINE records in linear memory, most recently used first (true LRU), valid ones before empty
// ones. Nothing here knows of levels or of time. A cache holds no data: the model is coherent, so a line's bytes are memory's.
import {
  CACHE_BASE,
  CACHE_MASK,
  CACHE_SHIFT,
  CACHE_WAYS,
  LINE_BYTES,
  LINE_FILL,
  LINE_NUMBER,
  LINE_OWNER,
  LINE_STATE,
  LINE_TAG,
  LINE_VALID,
} from "../layout.gen.ts";

export function cacheSet(cache: usize, line: u32): usize {
  return (load<u32>(cache, CACHE_BASE) as usize) + (((line & load<u32>(cache, CACHE_MASK)) << load<u32>(cache, CACHE_SHIFT)) as usize);
}

/** The LINE record that holds `line`, wherever in its set, in flight or not; 0: none. */
export function cacheFind(cache: usize, line: u32): usize {
  let entry = cacheSet(cache, line);
  const end = entry + load<u32>(cache, CACHE_WAYS) * LINE_BYTES;
  for (; entry < end; entry += LINE_BYTES) {
    const tag = load<u32>(entry, LINE_TAG);
    if (tag === 0) return 0;
    if ((tag & LINE_NUMBER) === line) return entry;
  }
  return 0;
}

/** Makes `entry` the most recently used of the set that begins at `set`; returns its new place. */
export function cachePromote(set: usize, entry: usize): usize {
  const record = load<u64>(entry);
  for (let at = entry; at > set; at -= LINE_BYTES) store<u64>(at, load<u64>(at - LINE_BYTES));
  store<u64>(set, record);
  return set;
}

/** Puts `line` first in its set, which must not hold it. Returns the record that fell out (0: none). */
export function cacheInsert(cache: usize, line: u32, flags: u32, owner: u32, state: u32, fill: u32): u64 {
  const set = cacheSet(cache, line);
  let entry = set + (load<u32>(cache, CACHE_WAYS) - 1) * LINE_BYTES;
  const evicted = load<u64>(entry);
  for (; entry > set; entry -= LINE_BYTES) store<u64>(entry, load<u64>(entry - LINE_BYTES));
  store<u32>(set, (LINE_VALID as u32) | flags | line, LINE_TAG);
  store<u16>(set, owner as u16, LINE_OWNER);
  store<u8>(set, state as u8, LINE_STATE);
  store<u8>(set, fill as u8, LINE_FILL);
  return evicted;
}

/** Takes `line` out. Returns its record (0: it was not there). */
export function cacheRemove(cache: usize, line: u32): u64 {
  let entry = cacheFind(cache, line);
  if (entry === 0) return 0;
  const record = load<u64>(entry);
  const last = cacheSet(cache, line) + (load<u32>(cache, CACHE_WAYS) - 1) * LINE_BYTES;
  for (; entry < last; entry += LINE_BYTES) store<u64>(entry, load<u64>(entry, LINE_BYTES));
  store<u64>(last, 0);
  return record;
}

/** Empties the cache. */
export function cacheClear(cache: usize): void {
  const bytes: usize = ((load<u32>(cache, CACHE_MASK) + 1) << load<u32>(cache, CACHE_SHIFT)) as usize;
  memory.fill(load<u32>(cache, CACHE_BASE), 0, bytes);
}

/** Line number of a record returned by `cacheInsert` or `cacheRemove`. */
export function recordLine(record: u64): u32 {
  return (record as u32) & LINE_NUMBER;
}

export function recordOwner(record: u64): u32 {
  return ((record >> (LINE_OWNER * 8)) & 0xffff) as u32;
}

export function recordState(record: u64): u32 {
  return ((record >> (LINE_STATE * 8)) & 0xff) as u32;
}
