// Where do indirect branches and returns go? An indirect predictor looked up by source address and branch history, with a fallback by
// source address alone; a return stack; and the history register itself. Entries remember who trained them, in which mode: whether
// another mode may use them is the model's isolation (none on skx, by mode with eIBRS), and the truth that properties are judged on.
import {
  CPU_CONTEXT_LABEL,
  CPU_CPL,
  CPU_GUEST_MODE,
  CPU_HISTORY,
  CPU_HISTORY_COUNT,
  CPU_HISTORY_LABEL,
  CPU_HISTORY_MARK,
  CPU_HISTORY_MARKS,
  CPU_MODE_LABELS,
  CPU_RETURN_COUNT,
  CPU_RETURN_STACK,
  CPU_RETURN_TOP,
  CPU_TRAINERS_ALLOWED,
  DETAILED_TARGETS,
  HISTORY_MARK_COUNT,
  MODEL_HISTORY_MASK,
  MODEL_RETURN_DEPTH,
  MODEL_RETURN_UNDERFLOW,
  MODEL_SOURCE_MASK,
  MODEL_TARGET_MASK,
  TARGET_ADDRESS,
  TARGET_BYTES,
  TARGET_LABEL,
  TARGET_MODE,
  TARGET_TAG,
  UNDERFLOW_STALE,
} from "../layout.gen.ts";

/** In a tag: the entry was found by source and history; otherwise by source alone. */
const TAG_WITH_HISTORY: u32 = 0x80000000;
const TAG_SOURCE_ONLY: u32 = 0x40000000;
const SPREAD: u64 = ((0x9e3779b9 as u64) << 32) | 0x7f4a7c15;

/** Mode that predictor entries are trained in: guest << 1 | user. */
export function currentMode(): u32 {
  return (load<u32>(CPU_GUEST_MODE) << 1) | (load<u32>(CPU_CPL) === 3 ? 1 : 0);
}

/** May the current mode use what `entry`'s mode trained? */
function isAllowed(entry: usize): bool {
  const allowed = (load<u32>(CPU_TRAINERS_ALLOWED) >> (currentMode() << 3)) & 0xff;
  return ((allowed >> (load<u8>(entry, TARGET_MODE) as u32)) & 1) !== 0;
}

function mix(source: u32, history: u64): u32 {
  return (((history ^ ((source as u64) << 26)) * SPREAD) >> 34) as u32;
}

function entryAt(index: u32): usize {
  return (load<u32>(DETAILED_TARGETS) as usize) + (index & load<u32>(MODEL_TARGET_MASK)) * TARGET_BYTES;
}

/** Predicted target of the indirect branch at `source` (low half of its address); 0: none, the front end waits. */
export function predictTarget(source: u32, history: u64): u64 {
  const seen = source & load<u32>(MODEL_SOURCE_MASK);
  const hash = mix(seen, history);
  let entry = entryAt(hash);
  if (load<u32>(entry, TARGET_TAG) === ((hash >> 1) | TAG_WITH_HISTORY) && isAllowed(entry)) return load<u64>(entry, TARGET_ADDRESS);
  entry = entryAt(seen ^ (seen >> 12));
  if (load<u32>(entry, TARGET_TAG) === (seen | TAG_SOURCE_ONLY) && isAllowed(entry)) return load<u64>(entry, TARGET_ADDRESS);
  return 0;
}

/** Trains both ways of lookup, after the branch retired. */
export function trainTarget(source: u32, history: u64, target: u64): void {
  const seen = source & load<u32>(MODEL_SOURCE_MASK);
  const hash = mix(seen, history);
  writeTarget(entryAt(hash), (hash >> 1) | TAG_WITH_HISTORY, target);
  writeTarget(entryAt(seen ^ (seen >> 12)), seen | TAG_SOURCE_ONLY, target);
}

function writeTarget(entry: usize, tag: u32, target: u64): void {
  store<u32>(entry, tag, TARGET_TAG);
  store<u16>(entry, load<u16>(CPU_CONTEXT_LABEL), TARGET_LABEL);
  store<u8>(entry, currentMode() as u8, TARGET_MODE);
  store<u64>(entry, target, TARGET_ADDRESS);
}

/** Removes every indirect target (the IBPB part of table 2.3 that concerns this structure). */
export function clearTargets(): void {
  memory.fill(load<u32>(DETAILED_TARGETS), 0, (load<u32>(MODEL_TARGET_MASK) + 1) * TARGET_BYTES);
}

/** CALL: on a wrong path too, where only the position is taken back later and the overwritten entry stays overwritten. */
export function pushReturn(address: u64): void {
  const depth = load<u32>(MODEL_RETURN_DEPTH);
  const next = load<u32>(CPU_RETURN_TOP) + 1;
  const top: u32 = next >= depth ? 0 : next;
  store<u32>(CPU_RETURN_TOP, top);
  const count = load<u32>(CPU_RETURN_COUNT);
  if (count < depth) store<u32>(CPU_RETURN_COUNT, count + 1);
  writeTarget(CPU_RETURN_STACK + top * TARGET_BYTES, 1, address);
}

/** Predicted target of the return at `source`; takes the entry off. 0: none. */
export function popReturn(source: u32, history: u64): u64 {
  const count = load<u32>(CPU_RETURN_COUNT);
  if (count === 0 && load<u32>(MODEL_RETURN_UNDERFLOW) !== UNDERFLOW_STALE) return predictTarget(source, history);
  const top = load<u32>(CPU_RETURN_TOP);
  const entry: usize = CPU_RETURN_STACK + top * TARGET_BYTES;
  store<u32>(CPU_RETURN_TOP, top === 0 ? load<u32>(MODEL_RETURN_DEPTH) - 1 : top - 1);
  if (count !== 0) store<u32>(CPU_RETURN_COUNT, count - 1);
  if (load<u32>(entry, TARGET_TAG) === 0 || !isAllowed(entry)) return 0;
  return load<u64>(entry, TARGET_ADDRESS);
}

export function clearReturns(): void {
  memory.fill(CPU_RETURN_STACK, 0, load<u32>(MODEL_RETURN_DEPTH) * TARGET_BYTES);
  store<u32>(CPU_RETURN_TOP, 0);
  store<u32>(CPU_RETURN_COUNT, 0);
}

/**
 * The history after a taken branch from `source` to `target`: two bits further per branch; the footprint is made of source bits 4..19
 * and target bits 0..5, as measured on Haswell and its successors (which bit meets which is our choice).
 */
export function historyAfter(history: u64, source: u32, target: u32): u64 {
  store<u32>(CPU_HISTORY_COUNT, load<u32>(CPU_HISTORY_COUNT) + 1);
  return ((history << 2) ^ ((((source >> 4) & 0xffff) ^ ((target & 0x3f) << 2)) as u64)) & load<u64>(MODEL_HISTORY_MASK);
}

/** Takes over the label of the mode that executes, and notes that its branches enter the history from now on. Called wherever the mode may have changed. */
export function markHistory(): void {
  store<u16>(CPU_CONTEXT_LABEL, load<u16>(CPU_MODE_LABELS + (currentMode() << 1)));
  const label = (load<u16>(CPU_CONTEXT_LABEL) as u32) | (currentMode() << 16);
  if (label === load<u32>(CPU_HISTORY_LABEL)) return;
  store<u32>(CPU_HISTORY_LABEL, label);
  const mark = load<u32>(CPU_HISTORY_MARK);
  store<u64>(CPU_HISTORY_MARKS + (mark << 3), (load<u32>(CPU_HISTORY_COUNT) as u64) | ((label as u64) << 32));
  store<u32>(CPU_HISTORY_MARK, (mark + 1) % HISTORY_MARK_COUNT);
}

/** The history register of the active CPU, between runs. */
export function clearHistory(): void {
  store<u64>(CPU_HISTORY, 0);
}
