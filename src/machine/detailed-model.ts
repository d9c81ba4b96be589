// What the detailed gear needs to know of a CPU: geometry, latencies, bugs. Plain data, filled into the core's MODEL record and used to
// place the structures of every core in the arena. Latencies are in core cycles, load to use.
import { assert } from "../hardware/index.ts";
import { DATA_TLB_SETS, L1D_SETS } from "./isa/layout-detailed.ts";

export interface CacheGeometry {
  /** A power of two. */
  readonly sets: number;
  readonly ways: number;
  readonly latency: number;
}

/** What a CPU does wrong (Linux: `X86_BUG_*`). */
export interface DetailedBugs {
  /** Supervisor data in L1D is forwarded to user loads. */
  readonly meltdown: boolean;
  /** A terminal fault forwards what L1D holds at the physical address in the entry. */
  readonly l1tf: boolean;
  /** A faulting load may get what a fill buffer or the store buffer holds. */
  readonly mds: boolean;
}

/** Which modes' predictor entries a mode may use before any MSR is written: all, or those of its own mode (eIBRS). */
export type PredictorIsolation = "none" | "mode";

export interface DetailedModel {
  readonly l1d: CacheGeometry;
  readonly l1i: CacheGeometry;
  readonly l2: CacheGeometry;
  /** Shared by all cores; the sets of the whole machine. */
  readonly l3: CacheGeometry & { readonly inclusive: boolean };
  readonly memoryLatency: number;
  readonly lineFillBuffers: number;
  /** Micro-ops in flight. */
  readonly reorderBuffer: number;
  readonly storeBuffer: number;
  readonly forwardLatency: number;
  /** From the resolution of a mispredicted branch to the first micro-op of the right path. */
  readonly mispredictPenalty: number;
  /** From the issue of a faulting load to its earliest retirement, when nothing older delays it. */
  readonly faultWindow: number;
  /** First-level data TLB: at most 128 entries, which the core keeps in 16 sets. */
  readonly dataTlb: { readonly sets: number; readonly ways: number };
  /** What a miss in the first-level TLB costs that hits the second. */
  readonly secondTlbLatency: number;
  /** Entries of the indirect predictor; a power of two. */
  readonly targetEntries: number;
  /** Low bits of a branch's address that the indirect predictor sees; at most 30. */
  readonly targetSourceBits: number;
  readonly returnStackDepth: number;
  /** A return with nothing on the return stack: takes the stale slot, or asks the indirect predictor (RSBA). */
  readonly returnUnderflow: "stale" | "indirect";
  /** Taken branches in the history register; at most 32. */
  readonly historyLength: number;
  readonly isolation: PredictorIsolation;
  readonly bugs: DetailedBugs;
  readonly ibpbClearsReturns: boolean;
  /** VERW and the L1D flush command clear fill buffers and store buffer. */
  readonly mdClear: boolean;
  readonly threadsPerCore: number;
  readonly costs: DetailedCosts;
}

/** Cycles of operations beyond their memory accesses. `interrupt` and `pageFault`: the delivery. */
export interface DetailedCosts {
  readonly syscall: number;
  readonly sysret: number;
  readonly iret: number;
  readonly swapgs: number;
  /** MOV to CR0, CR3, CR4 in machine code. */
  readonly controlWrite: number;
  readonly invlpg: number;
  readonly invpcid: number;
  readonly verw: number;
  readonly lfence: number;
  readonly interrupt: number;
  readonly pageFault: number;
}

const MAX_WAYS = 32;
const MAX_L1D_WAYS = 16;
const MAX_DATA_TLB_WAYS = 8;
const MAX_SOURCE_BITS = 30;
const MAX_HISTORY = 32;

function isPowerOfTwo(n: number): boolean {
  return Number.isInteger(n) && n > 0 && (n & (n - 1)) === 0;
}

/** Asserts that the core can represent `model`. `maxFillBuffers`, `maxReturnStack`, `maxReorderBuffer`: the layout's limits. */
export function checkDetailedModel(
  model: DetailedModel,
  limits: { readonly fillBuffers: number; readonly returnStack: number; readonly reorderBuffer: number; readonly storeBuffer: number },
): void {
  for (const name of ["l1d", "l1i", "l2", "l3"] as const) {
    const cache = model[name];
    assert(isPowerOfTwo(cache.sets), () => `${name}: sets must be a power of two, not ${cache.sets}`);
    assert(cache.ways >= 1 && cache.ways <= MAX_WAYS, () => `${name}: 1 to ${MAX_WAYS} ways, not ${cache.ways}`);
  }
  assert(
    model.l1d.sets === L1D_SETS && model.l1d.ways <= MAX_L1D_WAYS,
    () => `l1d: ${L1D_SETS} sets and at most ${MAX_L1D_WAYS} ways, not ${model.l1d.sets} and ${model.l1d.ways}`,
  );
  const entries = model.dataTlb.sets * model.dataTlb.ways;
  assert(
    entries <= DATA_TLB_SETS * MAX_DATA_TLB_WAYS,
    () => `dataTlb: at most ${DATA_TLB_SETS * MAX_DATA_TLB_WAYS} entries, not ${entries}`,
  );
  assert(isPowerOfTwo(model.targetEntries), () => `targetEntries must be a power of two, not ${model.targetEntries}`);
  assert(model.targetSourceBits <= MAX_SOURCE_BITS, () => `targetSourceBits above ${MAX_SOURCE_BITS}`);
  assert(
    model.historyLength >= 1 && model.historyLength <= MAX_HISTORY,
    () => `historyLength: 1 to ${MAX_HISTORY}, not ${model.historyLength}`,
  );
  const within = (name: string, value: number, most: number): void =>
    assert(value >= 1 && value <= most, () => `${name}: 1 to ${most}, not ${value}`);
  within("lineFillBuffers", model.lineFillBuffers, limits.fillBuffers);
  within("returnStackDepth", model.returnStackDepth, limits.returnStack);
  within("reorderBuffer", model.reorderBuffer, limits.reorderBuffer);
  within("storeBuffer", model.storeBuffer, limits.storeBuffer);
}
