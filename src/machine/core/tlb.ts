// The modelled TLB: what a real processor may remember, tagged by PCID, VPID and EPT root, with the geometry of the CPU model. What
// it holds is used even when page tables have changed since: a missing INVLPG shows. Every entry that goes takes its soft-TLB copies along.
import { CR4_PCIDE, dropSoftPage, refreshContext, retireContexts } from "./context.ts";
import {
  CPU_CPU_ID,
  CPU_CR3,
  CPU_CR4,
  CPU_EPTP,
  CPU_GUEST_MODE,
  CPU_VPID,
  MAX_TLB_ENTRIES,
  SHARED_TLB_FILLS,
  SHARED_TLB_SETS,
  SHARED_TLB_STAMP,
  SHARED_TLB_WAYS,
  TLB_BYTES,
  TLB_EP4TA,
  TLB_FLAG_GLOBAL,
  TLB_FLAGS,
  TLB_FRAME,
  TLB_OCCUPIED_REGION,
  TLB_OCCUPIED_REGION_BYTES,
  TLB_PAGE,
  TLB_PCID,
  TLB_REGION,
  TLB_REGION_BYTES,
  TLB_SHIFT,
  TLB_STAMP,
  TLB_VPID,
} from "./layout.gen.ts";

const EMPTY: u64 = u64.MAX_VALUE;

function tableBase(): u32 {
  return TLB_REGION + load<u32>(CPU_CPU_ID) * MAX_TLB_ENTRIES * TLB_BYTES;
}

/** Word of the occupancy bitmap that holds the bit of entry `n` of the active CPU. */
function occupancyWord(n: u32): u32 {
  return TLB_OCCUPIED_REGION + load<u32>(CPU_CPU_ID) * (MAX_TLB_ENTRIES / 8) + (n >> 6) * 8;
}

function numberOf(entry: u32): u32 {
  return (entry - tableBase()) / TLB_BYTES;
}

function setOccupied(entry: u32, isOccupied: bool): void {
  const n = numberOf(entry);
  const word = occupancyWord(n);
  const bit: u64 = (1 as u64) << (n & 63);
  store<u64>(word, isOccupied ? load<u64>(word) | bit : load<u64>(word) & ~bit);
}

/** The first entry of the active CPU, from number `from` on, that holds a translation; 0: none. A flush looks at few of all entries. */
export function nextTlb(from: u32): u32 {
  let n = from;
  while (n < (MAX_TLB_ENTRIES as u32)) {
    const rest = load<u64>(occupancyWord(n)) >> (n & 63);
    if (rest !== 0) return tableBase() + (n + (ctz<u64>(rest) as u32)) * TLB_BYTES;
    n = (n & ~63) + 64;
  }
  return 0;
}

/** The one behind `entry`. */
export function nextTlbAfter(entry: u32): u32 {
  return nextTlb(numberOf(entry) + 1);
}

/** PCID of the current context; 0 without CR4.PCIDE. */
export function currentPcid(): u32 {
  return load<u64>(CPU_CR4) & CR4_PCIDE ? (load<u64>(CPU_CR3) as u32) & 0xfff : 0;
}

export function currentVpid(): u32 {
  return load<u32>(CPU_GUEST_MODE) !== 0 ? load<u32>(CPU_VPID) : 0;
}

/** Tag of the EPT pointer; 0 without EPT. */
export function currentEp4ta(): u32 {
  return load<u32>(CPU_GUEST_MODE) !== 0 ? ((load<u64>(CPU_EPTP) >> 12) as u32) : 0;
}

function setOf(va: u64, shift: u32): u32 {
  const sets = load<u32>(SHARED_TLB_SETS);
  return tableBase() + (((va >> shift) as u32) & (sets - 1)) * load<u32>(SHARED_TLB_WAYS) * TLB_BYTES;
}

function pageOf(va: u64, shift: u32): u64 {
  return (va >> shift) << shift;
}

/** The entry that translates `va` in the current context, or 0. */
export function findTlb(va: u64): u32 {
  const vpid = currentVpid();
  const pcid = currentPcid();
  const ep4ta = currentEp4ta();
  const entry = findSized(va, 12, pcid, vpid, ep4ta);
  if (entry !== 0) return entry;
  const large = findSized(va, 21, pcid, vpid, ep4ta);
  if (large !== 0) return large;
  return findSized(va, 30, pcid, vpid, ep4ta);
}

function findSized(va: u64, shift: u32, pcid: u32, vpid: u32, ep4ta: u32): u32 {
  const page = pageOf(va, shift);
  let entry = setOf(va, shift);
  for (let way = load<u32>(SHARED_TLB_WAYS); way > 0; way--, entry += TLB_BYTES) {
    if (load<u64>(entry, TLB_PAGE) !== page || load<u16>(entry, TLB_SHIFT) !== shift) continue;
    if (load<u16>(entry, TLB_VPID) !== vpid || load<u32>(entry, TLB_EP4TA) !== ep4ta) continue;
    if (load<u16>(entry, TLB_PCID) !== pcid && !(load<u16>(entry, TLB_FLAGS) & TLB_FLAG_GLOBAL)) continue;
    touch(entry);
    return entry;
  }
  return 0;
}

function touch(entry: u32): void {
  const stamp = load<u32>(SHARED_TLB_STAMP) + 1;
  store<u32>(SHARED_TLB_STAMP, stamp);
  store<u32>(entry, stamp, TLB_STAMP);
}

/** Remembers a translation in place of the least recently used one of its set. */
export function insertTlb(va: u64, frame: u64, shift: u32, flags: u32): u32 {
  let entry = setOf(va, shift);
  let victim = entry;
  for (let way = load<u32>(SHARED_TLB_WAYS); way > 0; way--, entry += TLB_BYTES) {
    if (load<u64>(entry, TLB_PAGE) === EMPTY) {
      victim = entry;
      break;
    }
    if (load<u32>(entry, TLB_STAMP) < load<u32>(victim, TLB_STAMP)) victim = entry;
  }
  dropEntry(victim);
  store<u64>(victim, pageOf(va, shift), TLB_PAGE);
  setOccupied(victim, true);
  store<u64>(victim, frame, TLB_FRAME);
  store<u16>(victim, currentPcid() as u16, TLB_PCID);
  store<u16>(victim, currentVpid() as u16, TLB_VPID);
  store<u32>(victim, currentEp4ta(), TLB_EP4TA);
  store<u16>(victim, flags as u16, TLB_FLAGS);
  store<u16>(victim, shift as u16, TLB_SHIFT);
  touch(victim);
  store<u64>(SHARED_TLB_FILLS, load<u64>(SHARED_TLB_FILLS) + 1);
  return victim;
}

/** Forgets one entry, and its soft copies. */
export function dropEntry(entry: u32): void {
  const page = load<u64>(entry, TLB_PAGE);
  if (page === EMPTY) return;
  store<u64>(entry, EMPTY, TLB_PAGE);
  setOccupied(entry, false);
  dropSoftPage(page, load<u16>(entry, TLB_SHIFT));
}

/** INVLPG: the page in the current PCID and VPID, global or not. */
export function invalidateAddress(va: u64): void {
  invalidateAddressIn(va, currentPcid(), currentVpid(), true);
}

/** Entries of any size for `va` with these tags; global ones too if `globals`. */
export function invalidateAddressIn(va: u64, pcid: u32, vpid: u32, globals: bool): void {
  for (let shift: u32 = 12; shift <= 30; shift += 9) {
    const page = pageOf(va, shift);
    let entry = setOf(va, shift);
    for (let way = load<u32>(SHARED_TLB_WAYS); way > 0; way--, entry += TLB_BYTES) {
      if (load<u64>(entry, TLB_PAGE) !== page || load<u16>(entry, TLB_SHIFT) !== shift) continue;
      if (load<u16>(entry, TLB_VPID) !== vpid) continue;
      const isGlobal = (load<u16>(entry, TLB_FLAGS) & TLB_FLAG_GLOBAL) !== 0;
      if (isGlobal ? globals : load<u16>(entry, TLB_PCID) === pcid) dropEntry(entry);
    }
  }
}

/**
 * Forgets the entries whose tags match; a negative tag matches all. `keepGlobal`: global ones stay. The soft TLB follows wholesale:
 * the contexts concerned get new generations, and are filled again from what is left.
 */
export function flushTlb(pcid: i32, vpid: i32, ep4ta: i64, keepGlobal: bool): void {
  for (let entry = nextTlb(0); entry !== 0; entry = nextTlbAfter(entry)) {
    if (vpid >= 0 && load<u16>(entry, TLB_VPID) !== (vpid as u16)) continue;
    if (ep4ta >= 0 && load<u32>(entry, TLB_EP4TA) !== (ep4ta as u32)) continue;
    const isGlobal = (load<u16>(entry, TLB_FLAGS) & TLB_FLAG_GLOBAL) !== 0;
    if (isGlobal && keepGlobal) continue;
    if (!isGlobal && pcid >= 0 && load<u16>(entry, TLB_PCID) !== (pcid as u16)) continue;
    store<u64>(entry, EMPTY, TLB_PAGE);
    setOccupied(entry, false);
  }
  retireContexts(keepGlobal && ep4ta < 0 ? pcid : -1);
  refreshContext();
}

/** Empties the tables of all CPUs (reset). */
export function resetTlbs(): void {
  memory.fill(TLB_REGION, 0xff, TLB_REGION_BYTES);
  memory.fill(TLB_OCCUPIED_REGION, 0, TLB_OCCUPIED_REGION_BYTES);
}
