// What instructions and MSRs do to the structures, table "which operation clears which structure". Exported: the host calls the ones
// that are MSR writes or that a world switch implies; the core's instructions call the others. Each returns its cost in cycles or is free.
import {
  CPU_NOW,
  CPU_STORE_BUFFER,
  DETAILED_FILL_BUFFERS,
  DETAILED_TRANSIENT,
  FILL_BYTES,
  MODEL_FILL_BUFFERS,
  MODEL_IBPB_CLEARS_RETURNS,
  MODEL_MD_CLEAR,
  PHYSICAL_REGION,
  SHARED_PHYSICAL_BYTES,
  STORE_BUFFER_SLOTS,
  STORE_BYTES,
} from "../layout.gen.ts";
import { lineTime, storeTime } from "./access-timing.ts";
import { dropLine, emptyAll, emptyL1d, relabelFrame } from "./hierarchy.ts";
import { clearReturns, clearTargets } from "./target-predictor.ts";

/** CLFLUSH of the line at physical address `pa`. Not on a wrong path: it is ordered with stores. */
export function flushCacheLine(pa: f64): void {
  if (load<u32>(DETAILED_TRANSIENT) === 0) dropLine(((pa as u64) >> 6) as u32);
}

/** IA32_PRED_CMD.IBPB: no indirect branch is predicted from what was trained before. The direction predictor keeps all. */
export function indirectBranchPredictorBarrier(): void {
  clearTargets();
  if (load<u32>(MODEL_IBPB_CLEARS_RETURNS) !== 0) clearReturns();
}

/** IA32_FLUSH_CMD.L1D_FLUSH: L1D is written back and emptied; with MD_CLEAR microcode the buffers are overwritten too. */
export function flushL1d(): void {
  emptyL1d();
  clearBuffers();
}

/** VERW with a memory operand, on parts that enumerate MD_CLEAR; elsewhere nothing. */
export function clearBuffers(): void {
  if (load<u32>(MODEL_MD_CLEAR) === 0) return;
  memory.fill(load<u32>(DETAILED_FILL_BUFFERS), 0, load<u32>(MODEL_FILL_BUFFERS) * FILL_BYTES);
  memory.fill(CPU_STORE_BUFFER, 0, STORE_BUFFER_SLOTS * STORE_BYTES);
}

/** WBINVD. */
export function writeBackInvalidate(): void {
  emptyAll();
}

/**
 * Accesses `bytes` bytes at physical address `pa`, line by line, as code that is not simulated step by step would: for the footprint and
 * the time of real paths. The lines are issued back to back.
 */
export function touchPhysical(pa: f64, bytes: u32, write: u32): void {
  const first = ((pa as u64) >> 6) as u32;
  const last = (((pa as u64) + (bytes as u64) - 1) >> 6) as u32;
  if (bytes === 0 || (pa as u64) + (bytes as u64) > load<u64>(SHARED_PHYSICAL_BYTES)) return;
  let now = load<i64>(CPU_NOW);
  let latest = now;
  for (let line = first; line <= last; line++, now++) {
    const done = lineTime(line, now);
    if (done > latest) latest = done;
    if (write !== 0) storeTime((PHYSICAL_REGION as u32) + (line << 6), 8, done);
  }
  store<i64>(CPU_NOW, latest);
}

/** The owner label of `frame` in FRAME_OWNERS has changed: lines that are cached follow. */
export function frameOwnerChanged(frame: u32): void {
  relabelFrame(frame);
}
