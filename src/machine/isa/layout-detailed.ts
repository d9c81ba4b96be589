// Records of the detailed gear (caches, buffers, predictors, scoreboard): appended to the CPU block, the regions, the records and the
// constants of `layout.ts`. Times are quarter cycles, so that four micro-ops issue per cycle with integers alone.
import type { ConstantGroup, Field, LayoutRecord, Region } from "./layout.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Most entries of a return stack that a CPU block holds. */
export const MAX_RETURN_STACK = 64;
/** Slots of the store buffer: direct-mapped by 8-byte word, so that forwarding is one compare. */
export const STORE_BUFFER_SLOTS = 64;
export const MAX_REORDER_BUFFER = 512;
/** Ring of retirement times, one for eight micro-ops: a wrong path may run past the reorder buffer's end by a block before it notices. */
const RING_SLOTS = 256;
const RING_GROUP = 8;
const JOURNAL_RECORDS = 4096;
export const MAX_FILL_BUFFERS = 32;
/** Changes of the executing context that are remembered to label the branch history. */
export const HISTORY_MARKS = 8;

/** L1D is indexed by page offset, so every x86 processor since 2008 has 64 sets. Constants, because each load computes with them. */
export const L1D_SETS = 64;
/** First-level data TLB: 16 sets, ways as the model says (a fully associative one is taken as that). */
export const DATA_TLB_SETS = 16;

/** Fields of a logical CPU. */
export const detailedCpuFields: readonly Field[] = [
  { name: "NOW", type: "i64", comment: "detailed gear: issue time of the next micro-op, in quarter cycles" },
  { name: "RETIRE", type: "i64", comment: "completion of everything older than the next micro-op (in-order retirement)" },
  { name: "FLAGS_READY", type: "i64", comment: "when the arithmetic flags are known" },
  { name: "READY", type: "i64", count: 32, comment: "when each slot of the register file is known, indexed as the file" },
  { name: "XMM_READY", type: "i64", count: 16, comment: "the same for the vector registers" },
  { name: "HISTORY", type: "u64", comment: "branch history register: footprints of the last taken branches" },
  { name: "HISTORY_COUNT", type: "u32", comment: "taken branches so far" },
  { name: "HISTORY_MARK", type: "u32", comment: "next slot of HISTORY_MARKS" },
  { name: "HISTORY_LABEL", type: "u32", comment: "label | mode << 16 of the context whose branches enter the history now" },
  {
    name: "HISTORY_MARKS",
    type: "u64",
    count: HISTORY_MARKS,
    comment: "low half: HISTORY_COUNT when a context began; high half: its label | mode << 16",
  },
  { name: "RETURN_TOP", type: "u32", comment: "slot of the youngest entry of the return stack" },
  { name: "RETURN_COUNT", type: "u32", comment: "entries pushed and not popped, at most the depth" },
  { name: "RETURN_STACK", type: "u64", count: 2 * MAX_RETURN_STACK, comment: "TARGET records: the return stack" },
  { name: "STORE_BUFFER", type: "u64", count: 4 * STORE_BUFFER_SLOTS, comment: "STORE records" },
  {
    name: "MODE_LABELS",
    type: "u16",
    count: 4,
    comment: "owner label of the context of each MODE_*, set by the host; CONTEXT_LABEL follows the mode",
  },
  { name: "TRAINERS_ALLOWED", type: "u32", comment: "byte m: bit set of the modes whose predictor entries mode m may use (IBRS, eIBRS)" },
];

/** State of the machine in the detailed gear, at a fixed address. */
const detailedFields: readonly Field[] = [
  { name: "TRANSIENT", type: "u32", comment: "1: a wrong path executes" },
  { name: "LIMIT", type: "i64", comment: "transient: when the window closes; otherwise the largest time" },
  { name: "CPU", type: "u32", comment: "the logical CPU whose core is selected" },
  { name: "CORE", type: "u32", comment: "number of the physical core of the active CPU" },
  { name: "CORES", type: "u32", comment: "number of physical cores" },
  { name: "THREADS", type: "u32", comment: "logical CPUs per core" },
  // The active core's structures (copied from its CORE record when a CPU is selected).
  { name: "L1D", type: "u32", comment: "CACHE record" },
  { name: "L1I", type: "u32", comment: "CACHE record" },
  { name: "L2", type: "u32", comment: "CACHE record" },
  { name: "L3", type: "u32", comment: "CACHE record, shared by all cores" },
  { name: "L1D_BASE", type: "u32", comment: "copy of the CACHE record's fields, for the fast path" },
  { name: "L1D_LATENCY", type: "u32", comment: "the same" },
  { name: "L1I_BASE", type: "u32", comment: "the same, of the instruction cache" },
  { name: "L1I_MASK", type: "u32", comment: "the same" },
  { name: "L1I_SHIFT", type: "u32", comment: "the same" },
  { name: "FILL_BUFFERS", type: "u32", comment: "first FILL record of the core" },
  { name: "DIRECTIONS", type: "u32", comment: "direction predictor of the core" },
  { name: "TARGETS", type: "u32", comment: "indirect branch predictor of the core: TARGET records" },
  // What one access leaves for the next step.
  { name: "WALK_TIME", type: "i64", comment: "time that page walks of the current access took" },
  { name: "ACCESS_TIME", type: "i64", comment: "ready time: of the access that a slow path assembled; of a cold operation's accesses" },
  { name: "SINK", type: "u64", count: 4, comment: "where a store of a wrong path goes that may not write" },
  { name: "FORWARD_SOURCE", type: "u32", comment: "FORWARD_*: where from" },
  { name: "FORWARD_DATA", type: "u64", count: 4, comment: "what a faulting load forwards" },
  { name: "JOURNAL_TOP", type: "u32", comment: "end of the journal" },
  { name: "RING_INDEX", type: "u32", comment: "micro-ops so far: position in the retirement ring" },
  { name: "WINDOW_ORDER", type: "u32", comment: "RING_INDEX when the window opened" },
  { name: "PREDICTOR", type: "u32", comment: "direction counter that the last prediction came from" },
  { name: "PREDICTOR_TABLE", type: "u32", comment: "0: bimodal, 1..3: history table" },
  // What a branch leaves for the executor.
  { name: "GO", type: "u32", comment: "conditional: the direction that execution follows, 0 or 1" },
  {
    name: "WRONG",
    type: "u32",
    comment: "mispredicted: micro-op at which the wrong path begins; 0: none (nothing was predicted, or no code there)",
  },
  { name: "GO_ADDRESS", type: "u64", comment: "indirect: the address that execution follows; 0: the front end waits" },
  { name: "WRONG_PAGE", type: "u64", comment: "mispredicted: PAGE_BASE of the wrong path" },
  { name: "WRONG_HISTORY", type: "u64", comment: "mispredicted: branch history of the wrong path" },
  { name: "RESOLVE", type: "i64", comment: "mispredicted: when the branch is resolved; 0: predicted rightly" },
  { name: "FETCHED_LINE", type: "u32", comment: "physical line that the front end is in; all ones: none" },
  { name: "CODE_PAGE", type: "u32", comment: "host address of the page that executes; 0: not known" },
  { name: "FETCH_DUE", type: "u32", comment: "1: the next run of the executor begins where nothing was fetched yet" },
  { name: "DEADLINE", type: "i64", comment: "end of the slice" },
  // Counters.
  { name: "COUNT_L1D_MISSES", type: "u64", comment: "" },
  { name: "COUNT_L2_MISSES", type: "u64", comment: "" },
  { name: "COUNT_L3_MISSES", type: "u64", comment: "" },
  { name: "COUNT_BRANCHES", type: "u64", comment: "conditional branches retired" },
  { name: "COUNT_MISPREDICTED", type: "u64", comment: "branches of all kinds that were mispredicted" },
  { name: "COUNT_WINDOWS", type: "u64", comment: "wrong paths executed" },
  { name: "COUNT_TRANSIENT", type: "u64", comment: "micro-ops executed on wrong paths" },
  { name: "COUNT_FORWARDED", type: "u64", comment: "faulting loads that forwarded data" },
];

/** What the host fills in from a `DetailedModel`. Latencies in quarter cycles. */
const modelFields: readonly Field[] = [
  { name: "MEMORY_LATENCY", type: "u32", comment: "load to use, all levels missed" },
  { name: "FILL_BUFFERS", type: "u32", comment: "number of line fill buffers" },
  { name: "REORDER_BUFFER", type: "u32", comment: "micro-ops in flight, a multiple of eight" },
  { name: "STORE_BUFFER", type: "u32", comment: "stores in flight (the slots are STORE_BUFFER_SLOTS)" },
  { name: "FORWARD_LATENCY", type: "u32", comment: "store to load forwarding" },
  { name: "MISPREDICT_PENALTY", type: "u32", comment: "resolution of a branch to the first micro-op of the right path" },
  { name: "FAULT_WINDOW", type: "u32", comment: "a faulting load's issue to its earliest retirement" },
  { name: "DATA_TLB_WAYS", type: "u32", comment: "" },
  { name: "STLB_LATENCY", type: "u32", comment: "miss in the first level, hit in the second" },
  { name: "TARGET_MASK", type: "u32", comment: "indirect predictor entries - 1" },
  { name: "SOURCE_MASK", type: "u32", comment: "bits of a branch's address that the indirect predictor sees" },
  { name: "RETURN_DEPTH", type: "u32", comment: "entries of the return stack" },
  { name: "RETURN_UNDERFLOW", type: "u32", comment: "UNDERFLOW_*" },
  { name: "HISTORY_MASK", type: "u64", comment: "valid bits of the branch history: two per branch" },
  { name: "BUGS", type: "u32", comment: "BUG_*" },
  { name: "L3_INCLUSIVE", type: "u32", comment: "1: a line that leaves L3 leaves the cores" },
  { name: "IBPB_CLEARS_RETURNS", type: "u32", comment: "1" },
  { name: "MD_CLEAR", type: "u32", comment: "1: VERW and the L1D flush clear the buffers" },
  { name: "COST_DELIVERY", type: "u32", comment: "quarter cycles of delivering an event" },
  { name: "COST_PAGE_FAULT", type: "u32", comment: "the same for #PF" },
  { name: "COSTS", type: "u32", count: 16, comment: "quarter cycles that operations take beyond their accesses, by COST_*" },
  { name: "ISOLATION", type: "u32", comment: "TRAINERS_ALLOWED that a reset gives" },
];

export const detailedRecords: readonly LayoutRecord[] = [
  { prefix: "DETAILED", comment: "State of the detailed gear.", fields: detailedFields, absolute: true },
  { prefix: "MODEL", comment: "The CPU model of the detailed gear.", fields: modelFields, absolute: true },
  {
    prefix: "CACHE",
    comment: "A cache: sets of LINE records, most recently used first.",
    bytes: 32,
    fields: [
      { name: "BASE", type: "u32", comment: "first LINE record" },
      { name: "MASK", type: "u32", comment: "sets - 1" },
      { name: "SHIFT", type: "u32", comment: "log2 of the bytes of a set" },
      { name: "WAYS", type: "u32", comment: "" },
      { name: "LATENCY", type: "u32", comment: "load to use, quarter cycles" },
    ],
  },
  {
    prefix: "LINE",
    comment: "A cache line. TAG is LINE_VALID | physical address / 64, so that a hit in the first way is one compare.",
    bytes: 8,
    fields: [
      { name: "TAG", type: "u32", comment: "LINE_VALID | LINE_IN_FLIGHT | line number; 0: empty" },
      { name: "OWNER", type: "u16", comment: "label of the frame" },
      { name: "STATE", type: "u8", comment: "LINE_DIRTY, LINE_OWNED" },
      { name: "FILL", type: "u8", comment: "in flight: number of its fill buffer" },
    ],
  },
  {
    prefix: "CORE",
    comment: "Structures of a physical core (addresses).",
    bytes: 160,
    fields: [
      { name: "L1D", type: "u64", count: 4, comment: "CACHE record" },
      { name: "L1I", type: "u64", count: 4, comment: "CACHE record" },
      { name: "L2", type: "u64", count: 4, comment: "CACHE record" },
      { name: "FILL_BUFFERS", type: "u32", comment: "" },
      { name: "FILL_NEXT", type: "u32", comment: "number of the fill buffer used next" },
      { name: "DIRECTIONS", type: "u32", comment: "" },
      { name: "TARGETS", type: "u32", comment: "" },
    ],
  },
  {
    prefix: "FILL",
    comment: "A line fill buffer. It keeps line and data after the fill, until it is used again or cleared.",
    bytes: 96,
    fields: [
      { name: "TAG", type: "u32", comment: "LINE_VALID | line number; 0: empty" },
      { name: "OWNER", type: "u16", comment: "label of the frame at the fill" },
      { name: "PAD", type: "u16", comment: "" },
      { name: "READY", type: "i64", comment: "when the line arrives" },
      { name: "DATA", type: "u64", count: 8, comment: "the line as it was" },
    ],
  },
  {
    prefix: "STORE",
    comment: "A store buffer slot: the 8-byte word last stored to. It keeps the data after the store drained.",
    bytes: 32,
    fields: [
      { name: "HOST", type: "u32", comment: "host address of the word; 0: empty" },
      { name: "OWNER", type: "u16", comment: "label of the frame" },
      { name: "PAD", type: "u16", comment: "" },
      { name: "READY", type: "i64", comment: "when a younger load may take the data" },
      { name: "DATA", type: "u64", comment: "the word after the store" },
      { name: "PAD2", type: "u64", comment: "" },
    ],
  },
  {
    prefix: "TARGET",
    comment: "A predicted target: of an indirect branch, or of a return.",
    bytes: 16,
    fields: [
      { name: "TAG", type: "u32", comment: "indirect predictor: what identifies source and history; return stack: 1; 0: empty" },
      { name: "LABEL", type: "u16", comment: "context that trained it" },
      { name: "MODE", type: "u8", comment: "MODE_* it was trained in" },
      { name: "PAD", type: "u8", comment: "" },
      { name: "ADDRESS", type: "u64", comment: "virtual address" },
    ],
  },
  {
    prefix: "DIRECTION",
    comment: "A direction counter: bimodal (TAG unused) or of a history table.",
    bytes: 8,
    fields: [
      { name: "TAG", type: "u16", comment: "" },
      { name: "COUNTER", type: "u8", comment: "0..7; taken from 4" },
      {
        name: "USEFUL",
        type: "u8",
        comment: "of a history table: not to be replaced yet; bimodal: 1: a history table has entries of such branches",
      },
      { name: "LABEL", type: "u16", comment: "context that trained it last" },
      { name: "PAD", type: "u16", comment: "" },
    ],
  },
  {
    prefix: "JOURNAL",
    comment: "A store of a wrong path: what stood there.",
    bytes: 16,
    fields: [
      { name: "HOST", type: "u32", comment: "host address" },
      { name: "WIDTH", type: "u32", comment: "bytes" },
      { name: "OLD", type: "u64", comment: "" },
    ],
  },
];

/** Room for the structures of all cores; the host places them by geometry. */
export const ARENA_BYTES = 16 * MIB;

/** Operations that take long by themselves: indices of MODEL_COSTS. The printer names them by op, the host fills in cycles. */
export const OPERATION_COSTS = [
  "none",
  "syscall",
  "sysret",
  "iret",
  "swapgs",
  "controlWrite",
  "invlpg",
  "invpcid",
  "verw",
  "lfence",
  "interrupt",
] as const;
export type OperationCost = (typeof OPERATION_COSTS)[number];

/** `frames`: most frames of physical memory. */
export function detailedRegionsFor(frames: number): readonly Region[] {
  return [
    { name: "DETAILED", bytes: 4 * KIB, align: 4096, comment: "DETAILED_* fields" },
    { name: "MODEL", bytes: 4 * KIB, align: 4096, comment: "MODEL_* fields" },
    { name: "CORES", bytes: 4 * KIB, align: 4096, comment: "CORE records" },
    { name: "RING", bytes: RING_SLOTS * 8, align: 4096, comment: "retirement times of the micro-ops in flight" },
    { name: "TRANSIENT_SAVE", bytes: 8 * KIB, align: 4096, comment: "registers and ready times as they were when a wrong path began" },
    { name: "JOURNAL", bytes: JOURNAL_RECORDS * 16, align: 4096, comment: "JOURNAL records" },
    { name: "FRAME_OWNERS", bytes: frames * 2, align: 4096, comment: "u16 per frame: whose data it holds" },
    { name: "ARENA", bytes: ARENA_BYTES, align: 4096, comment: "caches, buffers, predictors" },
  ];
}

export const detailedConstants: readonly ConstantGroup[] = [
  {
    comment: "Cache lines.",
    values: [
      ["LINE_VALID", 0x80000000, "in TAG"],
      ["LINE_IN_FLIGHT", 0x40000000, "in TAG: the fill is not complete"],
      ["LINE_NUMBER", 0x3fffffff, "in TAG: physical address / 64"],
      ["LINE_DIRTY", 1, "in STATE"],
      ["LINE_OWNED", 2, "in STATE: no other core holds it"],
    ],
  },
  {
    comment: "Bugs that the model may have (Linux: X86_BUG_*).",
    values: [
      ["BUG_MELTDOWN", 1, "supervisor data in L1D is forwarded to user loads"],
      ["BUG_L1TF", 2, "a terminal fault forwards what L1D holds at the entry's frame"],
      ["BUG_MDS", 4, "a faulting load may get fill buffer or store buffer data"],
    ],
  },
  {
    comment: "Where a faulting load's data came from.",
    values: [
      ["FORWARD_NOTHING", 0, ""],
      ["FORWARD_L1D_SUPERVISOR", 1, "Meltdown"],
      ["FORWARD_L1D_TERMINAL", 2, "L1TF"],
      ["FORWARD_FILL_BUFFER", 3, "MFBDS"],
      ["FORWARD_STORE_BUFFER", 4, "MSBDS"],
    ],
  },
  {
    comment: "Predictor modes: guest << 1 | user.",
    values: [
      ["MODE_HOST_KERNEL", 0, ""],
      ["MODE_HOST_USER", 1, ""],
      ["MODE_GUEST_KERNEL", 2, ""],
      ["MODE_GUEST_USER", 3, ""],
    ],
  },
  {
    comment: "A return with an empty return stack.",
    values: [
      ["UNDERFLOW_STALE", 0, "takes what the slot holds"],
      ["UNDERFLOW_INDIRECT", 1, "asks the indirect predictor (RSBA)"],
    ],
  },
  {
    comment: "Sizes of the detailed gear.",
    values: [
      ["MAX_RETURN_STACK", MAX_RETURN_STACK, ""],
      ["STORE_BUFFER_SLOTS", STORE_BUFFER_SLOTS, ""],
      ["MAX_REORDER_BUFFER", MAX_REORDER_BUFFER, ""],
      [
        "RING_GROUP_MASK",
        RING_GROUP - 1,
        "micro-ops with these bits clear have a slot in the ring: at 8 bytes each, their number is its offset",
      ],
      ["RING_MASK", RING_SLOTS * 8 - 1, ""],
      ["L1D_SETS", L1D_SETS, "of every model"],
      ["L1D_SET_SHIFT", 7, "bytes of a set of the first-level caches: up to 16 ways"],
      ["DATA_TLB_SETS", DATA_TLB_SETS, "of every model"],
      ["DATA_TLB_SET_SHIFT", 5, "bytes of a set of tags: up to 8 ways"],
      ["DATA_TLB_BYTES", DATA_TLB_SETS * 32, "the tags stand just below L1D"],
      ["MAX_FILL_BUFFERS", MAX_FILL_BUFFERS, ""],
      ["HISTORY_MARK_COUNT", HISTORY_MARKS, ""],
      ["DIRECTION_BIMODAL_ENTRIES", 8192, ""],
      ["DIRECTION_TABLE_ENTRIES", 2048, "of each of three history tables"],
      ["TIME_NEVER", 2 ** 52, "later than any time"],
    ],
  },
];
