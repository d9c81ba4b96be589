// What the detailed gear does at the places where the core meets time and caches. Both gears compile the same core against one of the
// `port-*.ts` files (as `port.gen.ts`), which export the same functions. Here the budget counts cycles.
import { siteOf } from "./blocks.ts";
import { lineTime, storeTime, walkAccess } from "./detailed/access-timing.ts";
import { fetchDelay, noteCodePage } from "./detailed/branches.ts";
import { dropLine } from "./detailed/hierarchy.ts";
import { clearBuffers } from "./detailed/operations.ts";
import { drain, selectCore } from "./detailed/select.ts";
import { markHistory } from "./detailed/target-predictor.ts";
import { executeDetailed } from "./execute-detailed.gen.ts";
import {
  CPU_BUDGET,
  CPU_CPU_ID,
  CPU_CYCLES,
  CPU_NOW,
  CPU_PC,
  CPU_RETIRED,
  CPU_SLICE,
  CPU_SPENT,
  DETAILED_ACCESS_TIME,
  DETAILED_CPU,
  DETAILED_DEADLINE,
  DETAILED_FETCH_DUE,
  DETAILED_L1D_LATENCY,
  DETAILED_LIMIT,
  DETAILED_TRANSIENT,
  DETAILED_WALK_TIME,
  LEAVE_DISPATCH,
  LEAVE_EXIT_AFTER,
  LEAVE_LINK,
  LEAVE_NEXT,
  LEAVE_REPEAT,
  LEAVE_SLICE,
  LEAVE_STALE,
  LEAVE_STEPPED,
  MODEL_COST_DELIVERY,
  MODEL_COST_PAGE_FAULT,
  PHYSICAL_REGION,
  SHARED_PHYSICAL_BYTES,
  SITE_INDEX,
} from "./layout.gen.ts";
import { findForRead } from "./memory.ts";
import { VECTOR_PF } from "./mmu.ts";

/** Longest uninterrupted stay in the executor, in instructions: V8 replaces code by its optimized form only when a function is entered. */
const LONGEST_SLICE: i32 = 200000;
const QUARTERS: i64 = 4;

/** The budget ends at the first branch at or after its last cycle: no single steps. */
export function portMustStep(_budget: i32): bool {
  return false;
}

/**
 * Executes from `pc` for about `budget` cycles, or one instruction if `step`, and returns the LEAVE_* code. Accounts RETIRED and CYCLES,
 * and leaves what was used of the budget in SPENT.
 */
export function portRun(pc: u32, budget: i32, step: bool): i32 {
  const slice: i32 = step ? 0 : LONGEST_SLICE;
  begin();
  const from = load<u64>(CPU_CYCLES);
  store<i64>(DETAILED_DEADLINE, load<i64>(CPU_NOW) + (budget as i64) * QUARTERS);
  store<i32>(CPU_SLICE, slice);
  markHistory();
  noteCodePage();
  // Control arrives here from elsewhere: what the executor does at a branch whose target it knows.
  if (load<u32>(DETAILED_FETCH_DUE) !== 0) store<i64>(CPU_NOW, load<i64>(CPU_NOW) + fetchDelay(pc, load<i64>(CPU_NOW)));
  const code = executeDetailed(pc, slice);
  store<u32>(DETAILED_FETCH_DUE, isSequential(code) ? 0 : 1);
  store<u64>(CPU_RETIRED, load<u64>(CPU_RETIRED) + ((slice - load<i32>(CPU_BUDGET) + executedInSegment(code)) as u64));
  store<i32>(CPU_SLICE, 0);
  store<i32>(CPU_BUDGET, 0);
  if (goesOn(code)) store<u64>(CPU_CYCLES, (load<i64>(CPU_NOW) / QUARTERS) as u64);
  else drain();
  store<i32>(CPU_SPENT, (load<u64>(CPU_CYCLES) - from) as i32);
  return code;
}

/** The host may have charged cycles since; walks made to find the code are charged now. */
function begin(): void {
  // The CPU may have been selected while the other gear was in use.
  if (load<u32>(DETAILED_CPU) !== load<u32>(CPU_CPU_ID)) selectCore(load<u32>(CPU_CPU_ID));
  const charged = (load<u64>(CPU_CYCLES) as i64) * QUARTERS;
  let now = load<i64>(CPU_NOW);
  if (now < charged) now = charged;
  store<i64>(CPU_NOW, now + load<i64>(DETAILED_WALK_TIME));
  store<i64>(DETAILED_WALK_TIME, 0);
  store<u64>(CPU_CYCLES, ((now + load<i64>(DETAILED_WALK_TIME)) / QUARTERS) as u64);
}

/** The instruction stream goes on by itself: nothing that serializes. */
function goesOn(code: i32): bool {
  return (
    code === LEAVE_SLICE ||
    code === LEAVE_DISPATCH ||
    code === LEAVE_LINK ||
    code === LEAVE_NEXT ||
    code === LEAVE_REPEAT ||
    code === LEAVE_STALE
  );
}

/** What follows is what the executor would have gone on with, and has been fetched. */
function isSequential(code: i32): bool {
  return code === LEAVE_SLICE || code === LEAVE_NEXT || code === LEAVE_REPEAT || code === LEAVE_STALE;
}

/** Instructions completed since the last branch that counted. */
function executedInSegment(code: i32): i32 {
  if (code === LEAVE_SLICE || code === LEAVE_DISPATCH || code === LEAVE_LINK) return 0;
  const before = load<u8>(siteOf(load<u32>(CPU_PC)), SITE_INDEX) as i32;
  const completes = code === LEAVE_NEXT || code === LEAVE_STEPPED || code === LEAVE_EXIT_AFTER || code === LEAVE_REPEAT;
  return completes ? before + 1 : before;
}

/** Cycles now, also in the middle of a slice (RDTSC). */
export function portTime(): u64 {
  return (load<i64>(CPU_NOW) / QUARTERS) as u64;
}

/** A page walk (of either kind) reads the entry at this physical address. */
export function portTableRead(pa: u64): void {
  walkAccess(pa);
}

/**
 * The host, acting as kernel code, or a string instruction accesses `bytes` at host address `host`. It costs a cycle, and what a miss
 * takes beyond a hit: real code would hide the latency of hits.
 */
export function portHostAccess(host: u32, bytes: u32, write: bool): void {
  if (host < (PHYSICAL_REGION as u32)) return;
  let now = load<i64>(CPU_NOW) + load<i64>(DETAILED_WALK_TIME);
  // On a wrong path the operation may still wait for its address.
  if (load<u32>(DETAILED_TRANSIENT) !== 0 && load<i64>(DETAILED_ACCESS_TIME) > now) now = load<i64>(DETAILED_ACCESS_TIME);
  store<i64>(DETAILED_WALK_TIME, 0);
  const first = (host - (PHYSICAL_REGION as u32)) >> 6;
  const last = (host - (PHYSICAL_REGION as u32) + bytes - 1) >> 6;
  let done = now;
  for (let line = first; line <= last; line++) {
    const ready = lineTime(line, now);
    if (ready > done) done = ready;
    if (write) storeTime(line === first ? host : (PHYSICAL_REGION as u32) + (line << 6), 1, ready);
  }
  const visible = done - (load<u32>(DETAILED_L1D_LATENCY) as i64);
  store<i64>(CPU_NOW, max<i64>(visible, now) + QUARTERS);
  store<u64>(CPU_CYCLES, (load<i64>(CPU_NOW) / QUARTERS) as u64);
}

/** The core has stored at `va` by a slow path. */
export function portSlowStore(va: i64, generation: u64): void {
  const host = findForRead(va, 1, generation);
  if (host !== 0) portHostAccess(host, 1, true);
}

/** An event was delivered through the IDT: what went before has retired, and the microcode took its time. */
export function portDelivered(vector: u32): void {
  drain();
  charge(load<u32>(vector === VECTOR_PF ? MODEL_COST_PAGE_FAULT : MODEL_COST_DELIVERY));
}

function charge(quarters: u32): void {
  store<i64>(CPU_NOW, load<i64>(CPU_NOW) + (quarters as i64));
  store<u64>(CPU_CYCLES, (load<i64>(CPU_NOW) / QUARTERS) as u64);
}

/** CLFLUSH of the line that holds this physical address. A wrong path does not: it is ordered with stores. */
export function portFlushLine(pa: u64): void {
  if (load<u32>(DETAILED_TRANSIENT) === 0) dropLine((pa >> 6) as u32);
}

/** PREFETCHh of the line that holds this physical address. */
export function portPrefetchLine(pa: u64): void {
  if (pa < load<u64>(SHARED_PHYSICAL_BYTES) && load<i64>(DETAILED_ACCESS_TIME) < load<i64>(DETAILED_LIMIT))
    lineTime((pa >> 6) as u32, load<i64>(DETAILED_ACCESS_TIME));
}

/** VERW with a memory operand, on a CPU with MD_CLEAR. */
export function portClearBuffers(): void {
  clearBuffers();
}

/** CR3 was written, or another serializing instruction completed. */
export function portSerialize(): void {
  drain();
}

/** Another logical CPU became the active one. */
export function portSelectCpu(number: u32): void {
  selectCore(number);
}

/** Nothing is kept: what the modelled TLB is asked decides what it remembers. */
export function portRecall(_entry: u32, _tag: u64, _access: i32): bool {
  return false;
}

/** The same. */
export function portKeep(_entry: u32): void {
  // See portRecall().
}
