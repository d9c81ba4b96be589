// What the architectural gear does where the detailed one models time and caches: next to nothing. Both gears compile the same core
// against one of the `port-*.ts` files (as `port.gen.ts`), which export the same functions.

import { siteOf } from "./blocks.ts";
import { execute } from "./execute-architectural.gen.ts";
import { keep, recall } from "./kept.ts";
import {
  CPU_BUDGET,
  CPU_CYCLES,
  CPU_CYCLES_PER_INSTRUCTION,
  CPU_PC,
  CPU_RETIRED,
  CPU_SLICE,
  CPU_SPENT,
  LEAVE_DISPATCH,
  LEAVE_EXIT_AFTER,
  LEAVE_LINK,
  LEAVE_NEXT,
  LEAVE_REPEAT,
  LEAVE_SLICE,
  LEAVE_STEPPED,
  MAX_BLOCK_INSTRUCTIONS,
  SITE_INDEX,
  SOFT_READ,
} from "./layout.gen.ts";

/** Longest uninterrupted stay in the executor: V8 replaces code by its optimized form only when a function is entered. */
const LONGEST_SLICE: i32 = 1000000;

/** True when so little of the budget is left that single steps must finish it. */
export function portMustStep(budget: i32): bool {
  return budget <= MAX_BLOCK_INSTRUCTIONS;
}

/**
 * Executes from `pc` for at most `budget`, or one instruction if `step`, and returns the LEAVE_* code. Accounts RETIRED and CYCLES,
 * and leaves what was used of the budget in SPENT. Here the budget counts instructions.
 */
export function portRun(pc: u32, budget: i32, step: bool): i32 {
  const slice: i32 = step ? 0 : min(budget - MAX_BLOCK_INSTRUCTIONS, LONGEST_SLICE);
  store<i32>(CPU_SLICE, slice);
  const code = execute(pc, slice);
  const spent = slice - load<i32>(CPU_BUDGET) + executedInSegment(code);
  store<i32>(CPU_SPENT, spent);
  store<u64>(CPU_RETIRED, load<u64>(CPU_RETIRED) + (spent as u64));
  store<u64>(CPU_CYCLES, load<u64>(CPU_CYCLES) + (spent as u64) * (load<u32>(CPU_CYCLES_PER_INSTRUCTION) as u64));
  store<i32>(CPU_SLICE, 0);
  store<i32>(CPU_BUDGET, 0);
  return code;
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
  const inSlice = load<i32>(CPU_SLICE) - load<i32>(CPU_BUDGET) + (load<u8>(siteOf(load<u32>(CPU_PC)), SITE_INDEX) as i32);
  return load<u64>(CPU_CYCLES) + (inSlice as u64) * (load<u32>(CPU_CYCLES_PER_INSTRUCTION) as u64);
}

/** A page walk (of either kind) reads the entry at this physical address. */
export function portTableRead(_pa: u64): void {
  // No caches here.
}

/** The host, acting as kernel code, accesses `bytes` at host address `host`. */
export function portHostAccess(_host: u32, _bytes: u32, _write: bool): void {
  // No caches here.
}

/** The core has stored at `va` by a slow path. */
export function portSlowStore(_va: i64, _generation: u64): void {
  // No caches here.
}

/** An event was delivered through the IDT. */
export function portDelivered(_vector: u32): void {
  // No caches here.
}

/** CLFLUSH of the line that holds this physical address. */
export function portFlushLine(_pa: u64): void {
  // No caches here.
}

/** PREFETCHh of the line that holds this physical address. */
export function portPrefetchLine(_pa: u64): void {
  // No caches here.
}

/** VERW with a memory operand, on a CPU with MD_CLEAR. */
export function portClearBuffers(): void {
  // No caches here.
}

/** CR3 was written, or another serializing instruction completed. */
export function portSerialize(): void {
  // No caches here.
}

/** Another logical CPU became the active one. */
export function portSelectCpu(_number: u32): void {
  // No caches here.
}

/** The soft TLB's `entry` does not match: true when the translation with `tag` was kept and now stands there for `access`. */
export function portRecall(entry: u32, tag: u64, access: i32): bool {
  const at = entry + ((access as u32) << 3);
  if (load<u64>(at, SOFT_READ) === tag) return true;
  return recall(entry, tag) && load<u64>(at, SOFT_READ) === tag;
}

/** `entry` of the soft TLB is about to serve another page or context. */
export function portKeep(entry: u32): void {
  keep(entry);
}
