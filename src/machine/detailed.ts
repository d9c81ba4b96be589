// The host's side of the detailed gear: places the structures of all cores in the arena, fills in the model, keeps the ground-truth
// labels, and lets observers look into every structure. Looking costs no simulated time and changes nothing.
import { assert } from "../hardware/index.ts";
import * as L from "./core/layout.gen.ts";
import { type CacheGeometry, checkDetailedModel, type DetailedModel } from "./detailed-model.ts";
import { OPERATION_COSTS } from "./isa/layout-detailed.ts";

/** Functions of the core that this side calls. */
export interface DetailedExports {
  selectCore(cpu: number): void;
  flushCacheLine(pa: number): void;
  indirectBranchPredictorBarrier(): void;
  flushL1d(): void;
  clearBuffers(): void;
  writeBackInvalidate(): void;
  touchPhysical(pa: number, bytes: number, write: number): void;
  frameOwnerChanged(frame: number): void;
}

/** The functions of a core in the detailed gear as what they are. */
export function detailedExports(functions: object): DetailedExports {
  for (const name of ["selectCore", "flushCacheLine", "indirectBranchPredictorBarrier", "flushL1d", "touchPhysical", "frameOwnerChanged"]) {
    assert(name in functions, () => `the core does not export ${name}: not the detailed gear`);
  }
  return functions as DetailedExports;
}

/** A cache line, or a line fill buffer. */
export interface LabelledLine {
  /** Physical address of its first byte. */
  readonly address: number;
  readonly owner: number;
  readonly dirty: boolean;
}

export interface LabelledStore {
  /** Physical address of the 8-byte word. */
  readonly address: number;
  readonly owner: number;
}

export type PredictorMode = 0 | 1 | 2 | 3;

/** An entry of the indirect predictor or the return stack: who trained it, in which mode, where it leads (low 48 bits sign-extended). */
export interface LabelledTarget {
  readonly target: number;
  readonly trainer: number;
  readonly mode: number;
}

export interface LabelledHistory {
  /** Contexts whose branches are among those that the history register holds, youngest first. */
  readonly trainers: readonly { readonly trainer: number; readonly mode: number; readonly branches: number }[];
}

export interface DetailedCounters {
  readonly l1dMisses: number;
  readonly l2Misses: number;
  readonly l3Misses: number;
  readonly branches: number;
  readonly mispredicted: number;
  readonly windows: number;
  readonly transientMicroOps: number;
  readonly forwarded: number;
}

export type CacheName = "l1d" | "l1i" | "l2" | "l3";

const QUARTERS = 4;
const LINE_BYTES = 64;
/** The ring of retirement times has a slot for so many micro-ops. */
const RING_GROUP = L.RING_GROUP_MASK + 1;
const ALL_MODES = 0x0f0f0f0f;
/** Byte m: only mode m. */
const OWN_MODE = 0x08040201;

/** log2 of the bytes of a set. */
function setShift(cache: CacheGeometry): number {
  return Math.ceil(Math.log2(cache.ways * L.LINE_BYTES));
}

export class DetailedStructures {
  readonly model: DetailedModel;
  readonly cores: number;
  private readonly view: DataView;
  private readonly exports: DetailedExports;
  private readonly blockOf: (cpu: number) => number;

  /** `blockOf`: address of a logical CPU's block in linear memory, wherever it is at the moment. */
  constructor(memory: ArrayBufferLike, exports: DetailedExports, cpus: number, model: DetailedModel, blockOf: (cpu: number) => number) {
    checkDetailedModel(model, {
      fillBuffers: L.MAX_FILL_BUFFERS,
      returnStack: L.MAX_RETURN_STACK,
      reorderBuffer: L.MAX_REORDER_BUFFER,
      storeBuffer: L.STORE_BUFFER_SLOTS,
    });
    this.model = model;
    this.cores = Math.ceil(cpus / model.threadsPerCore);
    this.view = new DataView(memory);
    this.exports = exports;
    this.blockOf = blockOf;
    this.placeStructures();
    this.writeModel();
    for (let cpu = 0; cpu < cpus; cpu++) this.set32(blockOf(cpu) + L.CPU_TRAINERS_ALLOWED - L.CPU_REGION, this.isolation());
  }

  // ------------------------------------------------------------------------------------------------ labels

  /** Frame `pfn` holds data of `label` from now on; lines of it that are cached follow. */
  setFrameOwner(pfn: number, label: number): void {
    assert(pfn >= 0 && pfn < L.MAX_FRAMES, () => `no such frame: ${pfn}`);
    this.view.setUint16(L.FRAME_OWNERS_REGION + pfn * 2, label, true);
    this.exports.frameOwnerChanged(pfn);
  }

  frameOwner(pfn: number): number {
    return this.view.getUint16(L.FRAME_OWNERS_REGION + pfn * 2, true);
  }

  /** From now on `cpu` executes as `label` whenever it is in `mode` (guest << 1 | user). */
  setContextLabel(cpu: number, mode: PredictorMode, label: number): void {
    this.view.setUint16(this.block(cpu) + L.CPU_MODE_LABELS + mode * 2, label, true);
  }

  /** Which trainers' entries each mode of `cpu` may use: byte m, bit t (IBRS, eIBRS). */
  setTrainersAllowed(cpu: number, mask: number): void {
    this.set32(this.block(cpu) + L.CPU_TRAINERS_ALLOWED, mask);
  }

  // ------------------------------------------------------------------------------------------------ what is where

  /** The valid lines of a cache; `core` is ignored for L3. */
  *lines(cache: CacheName, core: number): Generator<LabelledLine> {
    const record = this.cacheRecord(cache, core);
    const base = this.get32(record + L.CACHE_BASE);
    const bytes = (this.get32(record + L.CACHE_MASK) + 1) << this.get32(record + L.CACHE_SHIFT);
    for (let at = base; at < base + bytes; at += L.LINE_BYTES) {
      const tag = this.get32(at + L.LINE_TAG);
      if (tag !== 0)
        yield {
          address: (tag & L.LINE_NUMBER) * LINE_BYTES,
          owner: this.get16(at + L.LINE_OWNER),
          dirty: (this.get8(at + L.LINE_STATE) & L.LINE_DIRTY) !== 0,
        };
    }
  }

  /** True if the cache holds the line of physical address `pa`. */
  holds(cache: CacheName, core: number, pa: number): boolean {
    const record = this.cacheRecord(cache, core);
    const line = Math.floor(pa / LINE_BYTES);
    const set = this.get32(record + L.CACHE_BASE) + ((line & this.get32(record + L.CACHE_MASK)) << this.get32(record + L.CACHE_SHIFT));
    for (let way = 0; way < this.get32(record + L.CACHE_WAYS); way++) {
      const tag = this.get32(set + way * L.LINE_BYTES);
      if (tag !== 0 && (tag & L.LINE_NUMBER) === line) return true;
    }
    return false;
  }

  /** Fill buffers that hold a line, of a core. */
  *fillBuffers(core: number): Generator<LabelledLine> {
    const first = this.get32(this.coreRecord(core) + L.CORE_FILL_BUFFERS);
    for (let at = first; at < first + this.model.lineFillBuffers * L.FILL_BYTES; at += L.FILL_BYTES) {
      const tag = this.get32(at + L.FILL_TAG);
      if (tag !== 0) yield { address: (tag & L.LINE_NUMBER) * LINE_BYTES, owner: this.get16(at + L.FILL_OWNER), dirty: false };
    }
  }

  /** Store buffer slots that hold data, of a logical CPU. */
  *storeBuffer(cpu: number): Generator<LabelledStore> {
    const first = this.block(cpu) + L.CPU_STORE_BUFFER;
    for (let slot = 0; slot < L.STORE_BUFFER_SLOTS; slot++) {
      const at = first + slot * L.STORE_BYTES;
      const host = this.get32(at + L.STORE_HOST);
      if (host !== 0) yield { address: host - L.PHYSICAL_REGION, owner: this.get16(at + L.STORE_OWNER) };
    }
  }

  /** Entries of the indirect predictor, of a core. */
  *targets(core: number): Generator<LabelledTarget> {
    const first = this.get32(this.coreRecord(core) + L.CORE_TARGETS);
    for (let entry = 0; entry < this.model.targetEntries; entry++) yield* this.target(first + entry * L.TARGET_BYTES);
  }

  /** Entries of the return stack, of a logical CPU, in slot order. */
  *returnStack(cpu: number): Generator<LabelledTarget> {
    const first = this.block(cpu) + L.CPU_RETURN_STACK;
    for (let entry = 0; entry < this.model.returnStackDepth; entry++) yield* this.target(first + entry * L.TARGET_BYTES);
  }

  /** Whose branches the history register of a logical CPU holds. */
  history(cpu: number): LabelledHistory {
    const block = this.block(cpu);
    const count = this.get32(block + L.CPU_HISTORY_COUNT);
    const mark = this.get32(block + L.CPU_HISTORY_MARK);
    const trainers: { trainer: number; mode: number; branches: number }[] = [];
    let until = count;
    for (let back = 1; back <= L.HISTORY_MARK_COUNT && count - until < this.model.historyLength; back++) {
      const at = block + L.CPU_HISTORY_MARKS + ((mark - back + L.HISTORY_MARK_COUNT) % L.HISTORY_MARK_COUNT) * 8;
      const label = this.get32(at + 4);
      const since = Math.max(this.get32(at), count - this.model.historyLength);
      if (since < until) trainers.push({ trainer: label & 0xffff, mode: label >>> 16, branches: until - since });
      until = Math.min(until, since);
      if (since === 0) break;
    }
    return { trainers };
  }

  counters(): DetailedCounters {
    const count = (address: number): number => Number(this.view.getBigUint64(address, true));
    return {
      l1dMisses: count(L.DETAILED_COUNT_L1D_MISSES),
      l2Misses: count(L.DETAILED_COUNT_L2_MISSES),
      l3Misses: count(L.DETAILED_COUNT_L3_MISSES),
      branches: count(L.DETAILED_COUNT_BRANCHES),
      mispredicted: count(L.DETAILED_COUNT_MISPREDICTED),
      windows: count(L.DETAILED_COUNT_WINDOWS),
      transientMicroOps: count(L.DETAILED_COUNT_TRANSIENT),
      forwarded: count(L.DETAILED_COUNT_FORWARDED),
    };
  }

  // ------------------------------------------------------------------------------------------------ placing

  private placeStructures(): void {
    let top: number = L.ARENA_REGION;
    const take = (bytes: number): number => {
      const at = top;
      top = Math.ceil((top + bytes) / LINE_BYTES) * LINE_BYTES;
      assert(top <= L.ARENA_REGION + L.ARENA_REGION_BYTES, () => `the structures of ${this.cores} cores do not fit the arena`);
      return at;
    };
    const model = this.model;
    const directions = (L.DIRECTION_BIMODAL_ENTRIES + 3 * L.DIRECTION_TABLE_ENTRIES) * L.DIRECTION_BYTES;
    assert(this.cores * L.CORE_BYTES <= L.CORES_REGION_BYTES, () => `too many cores: ${this.cores}`);
    for (let core = 0; core < this.cores; core++) {
      const record = this.coreRecord(core);
      take(L.DATA_TLB_BYTES);
      this.placeCache(record + L.CORE_L1D, model.l1d, L.L1D_SET_SHIFT, take);
      this.placeCache(record + L.CORE_L1I, model.l1i, setShift(model.l1i), take);
      this.placeCache(record + L.CORE_L2, model.l2, setShift(model.l2), take);
      this.set32(record + L.CORE_FILL_BUFFERS, take(model.lineFillBuffers * L.FILL_BYTES));
      this.set32(record + L.CORE_FILL_NEXT, 0);
      this.set32(record + L.CORE_DIRECTIONS, take(directions));
      this.set32(record + L.CORE_TARGETS, take(model.targetEntries * L.TARGET_BYTES));
    }
    const shared = this.coreRecord(this.cores);
    this.placeCache(shared, model.l3, setShift(model.l3), take);
    this.set32(L.DETAILED_L3, shared);
    this.set32(L.DETAILED_CORES, this.cores);
    this.set32(L.DETAILED_THREADS, model.threadsPerCore);
    new Uint8Array(this.view.buffer, L.ARENA_REGION, top - L.ARENA_REGION).fill(0);
  }

  private placeCache(record: number, cache: CacheGeometry, shift: number, take: (bytes: number) => number): void {
    this.set32(record + L.CACHE_BASE, take(cache.sets << shift));
    this.set32(record + L.CACHE_MASK, cache.sets - 1);
    this.set32(record + L.CACHE_SHIFT, shift);
    this.set32(record + L.CACHE_WAYS, cache.ways);
    this.set32(record + L.CACHE_LATENCY, cache.latency * QUARTERS);
  }

  private writeModel(): void {
    const model = this.model;
    const bugs = (model.bugs.meltdown ? L.BUG_MELTDOWN : 0) | (model.bugs.l1tf ? L.BUG_L1TF : 0) | (model.bugs.mds ? L.BUG_MDS : 0);
    this.set32(L.MODEL_MEMORY_LATENCY, model.memoryLatency * QUARTERS);
    this.set32(L.MODEL_FILL_BUFFERS, model.lineFillBuffers);
    this.set32(L.MODEL_REORDER_BUFFER, Math.ceil(model.reorderBuffer / RING_GROUP) * RING_GROUP);
    this.set32(L.MODEL_STORE_BUFFER, model.storeBuffer);
    this.set32(L.MODEL_FORWARD_LATENCY, model.forwardLatency * QUARTERS);
    this.set32(L.MODEL_MISPREDICT_PENALTY, model.mispredictPenalty * QUARTERS);
    this.set32(L.MODEL_FAULT_WINDOW, model.faultWindow * QUARTERS);
    this.set32(L.MODEL_DATA_TLB_WAYS, Math.ceil((model.dataTlb.sets * model.dataTlb.ways) / L.DATA_TLB_SETS));
    this.set32(L.MODEL_STLB_LATENCY, model.secondTlbLatency * QUARTERS);
    this.set32(L.MODEL_TARGET_MASK, model.targetEntries - 1);
    this.set32(L.MODEL_SOURCE_MASK, 2 ** model.targetSourceBits - 1);
    this.set32(L.MODEL_RETURN_DEPTH, model.returnStackDepth);
    this.set32(L.MODEL_RETURN_UNDERFLOW, model.returnUnderflow === "indirect" ? L.UNDERFLOW_INDIRECT : L.UNDERFLOW_STALE);
    this.view.setBigUint64(L.MODEL_HISTORY_MASK, (1n << BigInt(2 * model.historyLength)) - 1n, true);
    this.set32(L.MODEL_BUGS, bugs);
    this.set32(L.MODEL_L3_INCLUSIVE, model.l3.inclusive ? 1 : 0);
    this.set32(L.MODEL_IBPB_CLEARS_RETURNS, model.ibpbClearsReturns ? 1 : 0);
    this.set32(L.MODEL_MD_CLEAR, model.mdClear ? 1 : 0);
    this.set32(L.MODEL_ISOLATION, this.isolation());
    this.set32(L.MODEL_COST_DELIVERY, model.costs.interrupt * QUARTERS);
    this.set32(L.MODEL_COST_PAGE_FAULT, model.costs.pageFault * QUARTERS);
    for (const [index, name] of OPERATION_COSTS.entries())
      this.set32(L.MODEL_COSTS + index * 4, name === "none" ? 0 : model.costs[name] * QUARTERS);
    this.view.setBigInt64(L.DETAILED_LIMIT, BigInt(L.TIME_NEVER), true);
  }

  private isolation(): number {
    return this.model.isolation === "mode" ? OWN_MODE : ALL_MODES;
  }

  // ------------------------------------------------------------------------------------------------ reading

  private *target(at: number): Generator<LabelledTarget> {
    if (this.get32(at + L.TARGET_TAG) === 0) return;
    const target = this.view.getInt32(at + L.TARGET_ADDRESS + 4, true) * 2 ** 32 + this.get32(at + L.TARGET_ADDRESS);
    yield { target, trainer: this.get16(at + L.TARGET_LABEL), mode: this.get8(at + L.TARGET_MODE) };
  }

  /** Fields of a CPU block have absolute names, of the active block: what is added to them to reach the block of `cpu`. */
  private block(cpu: number): number {
    return this.blockOf(cpu) - L.CPU_REGION;
  }

  private cacheRecord(cache: CacheName, core: number): number {
    if (cache === "l3") return this.get32(L.DETAILED_L3);
    const record = this.coreRecord(core);
    return record + (cache === "l1d" ? L.CORE_L1D : cache === "l1i" ? L.CORE_L1I : L.CORE_L2);
  }

  private coreRecord(core: number): number {
    assert(core >= 0 && core <= this.cores, () => `no such core: ${core}`);
    return L.CORES_REGION + core * L.CORE_BYTES;
  }

  private get8(address: number): number {
    return this.view.getUint8(address);
  }
  private get16(address: number): number {
    return this.view.getUint16(address, true);
  }
  private get32(address: number): number {
    return this.view.getUint32(address, true);
  }
  private set32(address: number, value: number): void {
    this.view.setUint32(address, value >>> 0, true);
  }
}
