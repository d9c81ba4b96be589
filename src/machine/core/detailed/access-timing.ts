// When is the data of a load there, and what does a store leave behind? The executor has translated the address already: what arrives
// here is a host address. Within physical memory that is a cache access; below it, a buffer that a slow path has filled (and timed).
import {
  CPU_NOW,
  CPU_STORE_BUFFER,
  DATA_TLB_BYTES,
  DATA_TLB_SET_SHIFT,
  DATA_TLB_SETS,
  DETAILED_ACCESS_TIME,
  DETAILED_L1D_BASE,
  DETAILED_L1D_LATENCY,
  DETAILED_LIMIT,
  DETAILED_TRANSIENT,
  DETAILED_WALK_TIME,
  L1D_SET_SHIFT,
  L1D_SETS,
  LINE_OWNED,
  LINE_STATE,
  LINE_TAG,
  LINE_VALID,
  MODEL_DATA_TLB_WAYS,
  MODEL_FORWARD_LATENCY,
  MODEL_STLB_LATENCY,
  PHYSICAL_REGION,
  STORE_BUFFER_SLOTS,
  STORE_BYTES,
  STORE_DATA,
  STORE_HOST,
  STORE_OWNER,
  STORE_READY,
} from "../layout.gen.ts";
import { lineOwner, loadLine, ownLine } from "./hierarchy.ts";

/** Tags of the first-level data TLB for `page`, most recently used first; they stand just below L1D. */
function dataTlbTags(page: u32): usize {
  return load<u32>(DETAILED_L1D_BASE) - DATA_TLB_BYTES + ((page & (DATA_TLB_SETS - 1)) << DATA_TLB_SET_SHIFT);
}

/** A load of `line` issued at `start`. One that a wrong path would issue after its end leaves no trace. */
export function lineTime(line: u32, start: i64): i64 {
  const entry: usize = load<u32>(DETAILED_L1D_BASE) + ((line & (L1D_SETS - 1)) << L1D_SET_SHIFT);
  if (load<u32>(entry, LINE_TAG) === ((LINE_VALID as u32) | line) || start >= load<i64>(DETAILED_LIMIT)) {
    return start + (load<u32>(DETAILED_L1D_LATENCY) as i64);
  }
  return loadLine(line, start);
}

/** Ready time of a load of `bytes` at host address `host`, virtual page number `page` (low half), address known at `known`. */
export function loadTime(host: u32, bytes: u32, page: u32, known: i64): i64 {
  if (host < (PHYSICAL_REGION as u32)) return load<i64>(DETAILED_ACCESS_TIME);
  const tags: usize = dataTlbTags(page);
  const start = load<u32>(tags) === page ? known : known + dataTlbMiss(tags, page);
  const line = (host - (PHYSICAL_REGION as u32)) >> 6;
  let done = lineTime(line, start);
  if ((host & 63) + bytes > 64) {
    const second = lineTime(line + 1, start);
    if (second > done) done = second;
  }
  const slot: usize = CPU_STORE_BUFFER + ((host >> 3) & (STORE_BUFFER_SLOTS - 1)) * STORE_BYTES;
  if (load<u32>(slot, STORE_HOST) !== (host & ~7)) return done;
  const forwarded = load<i64>(slot, STORE_READY) + (load<u32>(MODEL_FORWARD_LATENCY) as i64);
  return max<i64>(forwarded, done);
}

/** First-level data-TLB miss: the walk's time if there was one, else a hit in the second level. */
function dataTlbMiss(tags: usize, page: u32): i64 {
  let delay = load<i64>(DETAILED_WALK_TIME);
  store<i64>(DETAILED_WALK_TIME, 0);
  const end = tags + (load<u32>(MODEL_DATA_TLB_WAYS) << 2);
  let way = tags;
  while (way < end - 4 && load<u32>(way) !== page) way += 4;
  if (delay === 0 && load<u32>(way) !== page) delay = load<u32>(MODEL_STLB_LATENCY) as i64;
  for (; way > tags; way -= 4) store<u32>(way, load<u32>(way - 4));
  store<u32>(tags, page);
  return delay;
}

/** Makes the next access to `page` ask `dataTlbMiss`, which collects the time of the walk that was just made. */
export function forgetDataTlb(page: u32): void {
  const tags: usize = dataTlbTags(page);
  if (load<u32>(tags) === page) store<u32>(tags, 0xffffffff);
}

/**
 * A store of `bytes` at `host` was done, its data known at `ready`. It enters the store buffer and takes the line. On a wrong path
 * nothing of that happens: such a store never leaves the store buffer, and is gone from there when the path is squashed.
 */
export function storeTime(host: u32, bytes: u32, ready: i64): void {
  if (host < (PHYSICAL_REGION as u32) || load<u32>(DETAILED_TRANSIENT) !== 0) return;
  const line = (host - (PHYSICAL_REGION as u32)) >> 6;
  const word: u32 = host & ~7;
  const slot: usize = CPU_STORE_BUFFER + ((host >> 3) & (STORE_BUFFER_SLOTS - 1)) * STORE_BYTES;
  store<u32>(slot, word, STORE_HOST);
  store<u16>(slot, lineOwner(line) as u16, STORE_OWNER);
  store<i64>(slot, ready, STORE_READY);
  store<u64>(slot, load<u64>(word), STORE_DATA);
  takeLine(line, ready);
  if ((host & 63) + bytes > 64) takeLine(line + 1, ready);
}

function takeLine(line: u32, ready: i64): void {
  const entry: usize = load<u32>(DETAILED_L1D_BASE) + ((line & (L1D_SETS - 1)) << L1D_SET_SHIFT);
  if (load<u32>(entry, LINE_TAG) === ((LINE_VALID as u32) | line) && (load<u8>(entry, LINE_STATE) & (LINE_OWNED as u8)) !== 0) return;
  ownLine(line, ready);
}

/** The page walk of the current access reads an entry at physical address `pa`. Called by the MMU. */
export function walkAccess(pa: u64): void {
  const accessed = load<i64>(DETAILED_ACCESS_TIME);
  const now = load<i64>(CPU_NOW);
  const start = max<i64>(accessed, now) + load<i64>(DETAILED_WALK_TIME);
  store<i64>(DETAILED_WALK_TIME, load<i64>(DETAILED_WALK_TIME) + lineTime((pa >> 6) as u32, start) - start);
}
