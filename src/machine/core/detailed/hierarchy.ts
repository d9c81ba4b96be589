// The levels of cache together: where a line is found, what that costs, what moves. Physically indexed and tagged. L1D and L2 belong to a
// core and are shared by its threads, L3 to all cores. A line takes its owner label from its frame when it is filled.
import {
  CACHE_BASE,
  CACHE_LATENCY,
  CACHE_MASK,
  CACHE_SHIFT,
  CACHE_WAYS,
  CORE_BYTES,
  CORE_FILL_NEXT,
  CORE_L1D,
  CORE_L1I,
  CORE_L2,
  CORES_REGION,
  DETAILED_CORE,
  DETAILED_CORES,
  DETAILED_COUNT_L1D_MISSES,
  DETAILED_COUNT_L2_MISSES,
  DETAILED_COUNT_L3_MISSES,
  DETAILED_FETCHED_LINE,
  DETAILED_FILL_BUFFERS,
  DETAILED_L1D,
  DETAILED_L1D_LATENCY,
  DETAILED_L1I,
  DETAILED_L2,
  DETAILED_L3,
  FILL_BYTES,
  FILL_DATA,
  FILL_OWNER,
  FILL_READY,
  FILL_TAG,
  FRAME_OWNERS_REGION,
  LINE_BYTES,
  LINE_DIRTY,
  LINE_FILL,
  LINE_IN_FLIGHT,
  LINE_NUMBER,
  LINE_OWNED,
  LINE_OWNER,
  LINE_STATE,
  LINE_TAG,
  LINE_VALID,
  MODEL_FILL_BUFFERS,
  MODEL_L3_INCLUSIVE,
  MODEL_MEMORY_LATENCY,
  PHYSICAL_REGION,
} from "../layout.gen.ts";
import {
  cacheClear,
  cacheFind,
  cacheInsert,
  cachePromote,
  cacheRemove,
  cacheSet,
  recordLine,
  recordOwner,
  recordState,
} from "./cache-sets.ts";

/** Owner label of the frame that `line` lies in. */
export function lineOwner(line: u32): u32 {
  return load<u16>(FRAME_OWNERS_REGION + ((line >> 6) << 1));
}

/**
 * Time at which the data of `line` is there for a load issued at `start`; fills what misses. The caller has looked at the first way
 * already (a plain hit there costs no call).
 */
export function loadLine(line: u32, start: i64): i64 {
  const cache: usize = load<u32>(DETAILED_L1D);
  const entry = cacheFind(cache, line);
  if (entry !== 0) return hitLine(cacheSet(cache, line), entry, start);
  return fillLine(line, start, 0);
}

/** The same for a store: afterwards no other core holds the line, and it is dirty. */
export function ownLine(line: u32, start: i64): void {
  const cache: usize = load<u32>(DETAILED_L1D);
  const set = cacheSet(cache, line);
  const entry = cacheFind(cache, line);
  if (entry === 0) {
    takeFromOthers(line);
    fillLine(line, start, LINE_DIRTY | LINE_OWNED);
    return;
  }
  const first = cachePromote(set, entry);
  const state = load<u8>(first, LINE_STATE) as u32;
  if ((state & LINE_OWNED) === 0) takeFromOthers(line);
  store<u8>(first, (state | LINE_DIRTY | LINE_OWNED) as u8, LINE_STATE);
}

function hitLine(set: usize, entry: usize, start: i64): i64 {
  const first = cachePromote(set, entry);
  const done = start + (load<u32>(DETAILED_L1D_LATENCY) as i64);
  const tag = load<u32>(first, LINE_TAG);
  if ((tag & LINE_IN_FLIGHT) === 0) return done;
  const fill: usize = (load<u32>(DETAILED_FILL_BUFFERS) as usize) + (load<u8>(first, LINE_FILL) as usize) * FILL_BYTES;
  const arrives = load<i64>(fill, FILL_READY);
  const isHere = (load<u32>(fill, FILL_TAG) & LINE_NUMBER) !== (tag & LINE_NUMBER) || arrives <= start;
  if (isHere) store<u32>(first, tag & ~LINE_IN_FLIGHT, LINE_TAG);
  return isHere || arrives < done ? done : arrives;
}

/** Brings a line that L1D does not hold into L1D, through a fill buffer. */
function fillLine(line: u32, start: i64, state: u32): i64 {
  store<u64>(DETAILED_COUNT_L1D_MISSES, load<u64>(DETAILED_COUNT_L1D_MISSES) + 1);
  const core: usize = CORES_REGION + load<u32>(DETAILED_CORE) * CORE_BYTES;
  const number = load<u32>(core, CORE_FILL_NEXT);
  const next = number + 1;
  store<u32>(core, next === load<u32>(MODEL_FILL_BUFFERS) ? 0 : next, CORE_FILL_NEXT);
  const fill: usize = (load<u32>(DETAILED_FILL_BUFFERS) as usize) + number * FILL_BYTES;
  const free = load<i64>(fill, FILL_READY);
  const arrives = (free > start ? free : start) + lookUpOuter(line);
  const owner = lineOwner(line);
  store<u32>(fill, (LINE_VALID as u32) | line, FILL_TAG);
  store<u16>(fill, owner as u16, FILL_OWNER);
  store<i64>(fill, arrives, FILL_READY);
  copyLine(fill + FILL_DATA, PHYSICAL_REGION + (line << 6));
  const evicted = cacheInsert(load<u32>(DETAILED_L1D), line, LINE_IN_FLIGHT, owner, state, number);
  if ((recordState(evicted) & LINE_DIRTY) !== 0) writeBack(load<u32>(DETAILED_L2), evicted);
  return arrives;
}

function copyLine(to: usize, from: usize): void {
  store<u64>(to, load<u64>(from));
  store<u64>(to, load<u64>(from, 8), 8);
  store<u64>(to, load<u64>(from, 16), 16);
  store<u64>(to, load<u64>(from, 24), 24);
  store<u64>(to, load<u64>(from, 32), 32);
  store<u64>(to, load<u64>(from, 40), 40);
  store<u64>(to, load<u64>(from, 48), 48);
  store<u64>(to, load<u64>(from, 56), 56);
}

/** Finds `line` beyond the first level, moves it to L2, and returns the latency. */
function lookUpOuter(line: u32): i64 {
  const l2: usize = load<u32>(DETAILED_L2);
  const entry = cacheFind(l2, line);
  if (entry !== 0) {
    cachePromote(cacheSet(l2, line), entry);
    return load<u32>(l2, CACHE_LATENCY) as i64;
  }
  store<u64>(DETAILED_COUNT_L2_MISSES, load<u64>(DETAILED_COUNT_L2_MISSES) + 1);
  const l3: usize = load<u32>(DETAILED_L3);
  const isInclusive = load<u32>(MODEL_L3_INCLUSIVE) !== 0;
  const shared = cacheFind(l3, line);
  let latency = load<u32>(l3, CACHE_LATENCY) as i64;
  let state: u32 = 0;
  if (shared !== 0) {
    if (isInclusive) cachePromote(cacheSet(l3, line), shared);
    else state = recordState(cacheRemove(l3, line)) & LINE_DIRTY;
  } else if (!isHeldElsewhere(line)) {
    store<u64>(DETAILED_COUNT_L3_MISSES, load<u64>(DETAILED_COUNT_L3_MISSES) + 1);
    latency = load<u32>(MODEL_MEMORY_LATENCY) as i64;
    if (isInclusive) insertShared(line, lineOwner(line), 0);
  }
  insertPrivate(l2, line, lineOwner(line), state);
  return latency;
}

/** Puts a line into L2; what falls out goes to L3 (a victim cache unless inclusive, where only dirty lines need to be written). */
function insertPrivate(l2: usize, line: u32, owner: u32, state: u32): void {
  const evicted = cacheInsert(l2, line, 0, owner, state, 0);
  if (evicted === 0) return;
  const isDirty = (recordState(evicted) & LINE_DIRTY) !== 0;
  if (load<u32>(MODEL_L3_INCLUSIVE) === 0 || isDirty) writeBackShared(evicted);
}

function writeBack(l2: usize, record: u64): void {
  const line = recordLine(record);
  const entry = cacheFind(l2, line);
  if (entry !== 0) store<u8>(entry, load<u8>(entry, LINE_STATE) | (LINE_DIRTY as u8), LINE_STATE);
  else insertPrivate(l2, line, recordOwner(record), LINE_DIRTY);
}

function writeBackShared(record: u64): void {
  const l3: usize = load<u32>(DETAILED_L3);
  const line = recordLine(record);
  const state = recordState(record) & LINE_DIRTY;
  const entry = cacheFind(l3, line);
  if (entry !== 0) store<u8>(entry, load<u8>(entry, LINE_STATE) | (state as u8), LINE_STATE);
  else insertShared(line, recordOwner(record), state);
}

function insertShared(line: u32, owner: u32, state: u32): void {
  const evicted = cacheInsert(load<u32>(DETAILED_L3), line, 0, owner, state, 0);
  if (evicted === 0 || load<u32>(MODEL_L3_INCLUSIVE) === 0) return;
  const victim = recordLine(evicted);
  for (let core: u32 = 0; core < load<u32>(DETAILED_CORES); core++) removeFromCore(core, victim);
}

/** True if another core's L1D or L2 holds the line (it is then supplied from there); that core loses its exclusive ownership. */
function isHeldElsewhere(line: u32): bool {
  const self = load<u32>(DETAILED_CORE);
  let found = false;
  for (let core: u32 = 0; core < load<u32>(DETAILED_CORES); core++) {
    if (core === self) continue;
    const record: usize = CORES_REGION + core * CORE_BYTES;
    const inner = cacheFind(record + CORE_L1D, line);
    if (inner !== 0) store<u8>(inner, load<u8>(inner, LINE_STATE) & ~(LINE_OWNED as u8), LINE_STATE);
    if (inner !== 0 || cacheFind(record + CORE_L2, line) !== 0) found = true;
  }
  return found;
}

function takeFromOthers(line: u32): void {
  const self = load<u32>(DETAILED_CORE);
  for (let core: u32 = 0; core < load<u32>(DETAILED_CORES); core++) if (core !== self) removeFromCore(core, line);
}

function removeFromCore(core: u32, line: u32): void {
  store<u32>(DETAILED_FETCHED_LINE, u32.MAX_VALUE);
  const record: usize = CORES_REGION + core * CORE_BYTES;
  cacheRemove(record + CORE_L1D, line);
  cacheRemove(record + CORE_L1I, line);
  cacheRemove(record + CORE_L2, line);
}

/** Instruction fetch of `line`, which the first way of L1I does not hold: the delay of the front end beyond a hit. */
export function fetchLine(line: u32): i64 {
  const l1i: usize = load<u32>(DETAILED_L1I);
  const entry = cacheFind(l1i, line);
  if (entry !== 0) {
    cachePromote(cacheSet(l1i, line), entry);
    return 0;
  }
  const latency = lookUpOuter(line);
  cacheInsert(l1i, line, 0, lineOwner(line), 0, 0);
  return latency;
}

/** True if this core's L1D holds `line` and its data has arrived by `now`. Nothing moves. */
export function isInL1d(line: u32, now: i64): bool {
  const entry = cacheFind(load<u32>(DETAILED_L1D), line);
  if (entry === 0) return false;
  if ((load<u32>(entry, LINE_TAG) & LINE_IN_FLIGHT) === 0) return true;
  const fill: usize = (load<u32>(DETAILED_FILL_BUFFERS) as usize) + (load<u8>(entry, LINE_FILL) as usize) * FILL_BYTES;
  return (load<u32>(fill, FILL_TAG) & LINE_NUMBER) !== line || load<i64>(fill, FILL_READY) <= now;
}

/** CLFLUSH: the line leaves every cache of every core (SDM vol. 2, CLFLUSH). */
export function dropLine(line: u32): void {
  for (let core: u32 = 0; core < load<u32>(DETAILED_CORES); core++) removeFromCore(core, line);
  cacheRemove(load<u32>(DETAILED_L3), line);
}

/** Writes back and invalidates this core's L1D. Returns the number of lines it held. */
export function emptyL1d(): u32 {
  const l1d: usize = load<u32>(DETAILED_L1D);
  const l2: usize = load<u32>(DETAILED_L2);
  const sets = load<u32>(l1d, CACHE_MASK) + 1;
  const ways = load<u32>(l1d, CACHE_WAYS);
  let held: u32 = 0;
  for (let set: u32 = 0; set < sets; set++) {
    let entry: usize = (load<u32>(l1d, CACHE_BASE) as usize) + ((set << load<u32>(l1d, CACHE_SHIFT)) as usize);
    for (let way: u32 = 0; way < ways && load<u32>(entry, LINE_TAG) !== 0; way++, entry += LINE_BYTES) {
      held++;
      if ((load<u8>(entry, LINE_STATE) & (LINE_DIRTY as u8)) !== 0) writeBack(l2, load<u64>(entry));
    }
  }
  cacheClear(l1d);
  return held;
}

/** WBINVD: every cache of this core and the shared one (SDM vol. 2, WBINVD). */
export function emptyAll(): void {
  store<u32>(DETAILED_FETCHED_LINE, u32.MAX_VALUE);
  cacheClear(load<u32>(DETAILED_L1D));
  cacheClear(load<u32>(DETAILED_L1I));
  cacheClear(load<u32>(DETAILED_L2));
  cacheClear(load<u32>(DETAILED_L3));
}

/** The frame has another owner: its lines that are cached hold that owner's data now, since lines are memory. */
export function relabelFrame(frame: u32): void {
  const first = frame << 6;
  const owner = lineOwner(first) as u16;
  for (let line = first; line < first + 64; line++) {
    relabel(load<u32>(DETAILED_L3), line, owner);
    for (let core: u32 = 0; core < load<u32>(DETAILED_CORES); core++) {
      const record: usize = CORES_REGION + core * CORE_BYTES;
      relabel(record + CORE_L1D, line, owner);
      relabel(record + CORE_L1I, line, owner);
      relabel(record + CORE_L2, line, owner);
    }
  }
}

function relabel(cache: usize, line: u32, owner: u16): void {
  const entry = cacheFind(cache, line);
  if (entry !== 0) store<u16>(entry, owner, LINE_OWNER);
}
