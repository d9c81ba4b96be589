// Will a conditional branch be taken? A bimodal table and three tables tagged by ever longer stretches of the branch history (the
// TAGE idea, small). No entry knows a privilege level or an address space: that is what makes bounds-check bypass cross them.
import {
  CPU_CONTEXT_LABEL,
  DETAILED_DIRECTIONS,
  DETAILED_PREDICTOR,
  DETAILED_PREDICTOR_TABLE,
  DIRECTION_BIMODAL_ENTRIES,
  DIRECTION_BYTES,
  DIRECTION_COUNTER,
  DIRECTION_LABEL,
  DIRECTION_TABLE_ENTRIES,
  DIRECTION_TAG,
  DIRECTION_USEFUL,
} from "../layout.gen.ts";

/** Counters run 0..7; this one and above mean taken. */
const TAKEN: u32 = 4;
const STRONGEST: u32 = 7;
/** Odd multiplier that spreads address and history over index and tag (2^64 / golden ratio). */
const SPREAD: u64 = ((0x9e3779b9 as u64) << 32) | 0x7f4a7c15;
/** Marks a tag as used. */
const TAG_USED: u32 = 0x800;
/** History bits that the tables 1, 2, 3 see; two bits per taken branch. */
const HISTORY_1: u64 = 0xffff;
const HISTORY_2: u64 = 0xffffffff;
const HISTORY_3: u64 = ((1 as u64) << 58) - 1;

function spread(source: u32, history: u64): u32 {
  return (((history ^ ((source as u64) << 32)) * SPREAD) >> 40) as u32;
}

function tableEntry(table: u32, hash: u32): usize {
  const index = DIRECTION_BIMODAL_ENTRIES + (table - 1) * DIRECTION_TABLE_ENTRIES + (hash & (DIRECTION_TABLE_ENTRIES - 1));
  return (load<u32>(DETAILED_DIRECTIONS) as usize) + index * DIRECTION_BYTES;
}

function tagOf(hash: u32): u32 {
  return ((hash >> 11) & 0x7ff) | TAG_USED;
}

function bimodalEntry(source: u32): usize {
  return (load<u32>(DETAILED_DIRECTIONS) as usize) + ((source ^ (source >> 13)) & (DIRECTION_BIMODAL_ENTRIES - 1)) * DIRECTION_BYTES;
}

/** Predicts the branch at `source` (low half of its address); remembers the counter for `trainDirection`. */
export function predictDirection(source: u32, history: u64): bool {
  let entry = bimodalEntry(source);
  let table: u32 = 0;
  // Most branches were never mispredicted; then no history table has heard of them.
  if (load<u8>(entry, DIRECTION_USEFUL) !== 0) {
    for (let longest: u32 = 3; longest > 0; longest--) {
      const hash = spread(source, history & historyOf(longest));
      const candidate = tableEntry(longest, hash);
      if ((load<u16>(candidate, DIRECTION_TAG) as u32) !== tagOf(hash)) continue;
      entry = candidate;
      table = longest;
      break;
    }
  }
  store<u32>(DETAILED_PREDICTOR, entry as u32);
  store<u32>(DETAILED_PREDICTOR_TABLE, table);
  return (load<u8>(entry, DIRECTION_COUNTER) as u32) >= TAKEN;
}

function historyOf(table: u32): u64 {
  return table === 1 ? HISTORY_1 : table === 2 ? HISTORY_2 : HISTORY_3;
}

/** Trains what `predictDirection` used, after its branch retired. `history` is the one the prediction was made with. */
export function trainDirection(source: u32, history: u64, taken: bool, predicted: bool): void {
  const entry: usize = load<u32>(DETAILED_PREDICTOR);
  const counter = load<u8>(entry, DIRECTION_COUNTER) as u32;
  if (taken) {
    if (counter < STRONGEST) store<u8>(entry, (counter + 1) as u8, DIRECTION_COUNTER);
  } else if (counter > 0) store<u8>(entry, (counter - 1) as u8, DIRECTION_COUNTER);
  store<u16>(entry, load<u16>(CPU_CONTEXT_LABEL), DIRECTION_LABEL);
  if (taken !== predicted) allocate(source, history, taken, load<u32>(DETAILED_PREDICTOR_TABLE) + 1);
}

function allocate(source: u32, history: u64, taken: bool, table: u32): void {
  if (table > 3) return;
  store<u8>(bimodalEntry(source), 1, DIRECTION_USEFUL);
  const hash = spread(source, history & historyOf(table));
  const entry = tableEntry(table, hash);
  const useful = load<u8>(entry, DIRECTION_USEFUL);
  if (useful !== 0) {
    store<u8>(entry, useful - 1, DIRECTION_USEFUL);
    return;
  }
  store<u16>(entry, tagOf(hash) as u16, DIRECTION_TAG);
  store<u8>(entry, taken ? (TAKEN as u8) : ((TAKEN - 1) as u8), DIRECTION_COUNTER);
  store<u8>(entry, 1, DIRECTION_USEFUL);
  store<u16>(entry, load<u16>(CPU_CONTEXT_LABEL), DIRECTION_LABEL);
}
