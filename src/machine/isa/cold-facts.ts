// Cold ops in the detailed gear. What the code around them must know of each (which operands it waits for, what it writes, how long it
// takes, whether a wrong path may execute it) is one word, derived from the op's body: the COLD_* bits.
import { effectsOf } from "./effects.ts";
import type { Op, Operand } from "./ir.ts";
import { OPERATION_COSTS, type OperationCost } from "./layout-detailed.ts";
import { HOT_OPS, OPS } from "./op-table.ts";
import { operandOffset } from "./print.ts";
import { LATENCY_CYCLES, PER_CYCLE, readyPlace } from "./ready-times.ts";

const COLD_READ: Readonly<Record<Operand, number>> = { dst: 1, src: 2, base: 4, index: 8 };
const COLD_READ_FLAGS = 16;
const COLD_READ_FIXED = 32;
const COLD_WRITE_DST = 64;
const COLD_WRITE_SRC = 128;
export const COLD_WRITE_FLAGS = 256;
const COLD_WRITE_FIXED = 512;
/** Waits for everything older, and nothing younger starts before. */
export const COLD_WAITS = 1024;
/** May execute on a wrong path; anything else ends it. */
export const COLD_TRANSIENT = 2048;
/** Calls a core function. */
export const COLD_CALLS = 4096;
export const COLD_LATENCY_SHIFT = 16;
export const COLD_LATENCY_MASK = 0xff;
/** Index in MODEL_COSTS: what the operation takes beyond its latency class. */
export const COLD_COST_SHIFT = 24;

const COSTS: Readonly<Record<string, OperationCost>> = {
  syscall: "syscall",
  sysretq: "sysret",
  iretq: "iret",
  swapgs: "swapgs",
  mov_to_cr: "controlWrite",
  invlpg: "invlpg",
  invpcid: "invpcid",
  verw_m: "verw",
  lfence: "lfence",
};

/** Core functions that change nothing but what a window takes back, so that a wrong path may call them. */
const TRANSIENT_FUNCTIONS: ReadonlySet<string> = new Set([
  "checkNextPage",
  "flushLine",
  "loadFence",
  "memoryFence",
  "pause",
  "prefetchLine",
  "readProcessorId",
  "readTimeStamp",
  "readTimeStampAndAux",
  "setDirection",
  "storeFence",
  "vectorFromRegister",
  "vectorLoad",
  "vectorLoadAligned",
  "vectorMove",
  "vectorToRegister",
  "vectorXor",
]);

function mayRunTransiently(op: Op): boolean {
  return op.body.every((stmt) => stmt.s !== "status" || TRANSIENT_FUNCTIONS.has(stmt.fn));
}

/** The COLD_* word of an op. Core functions count as reading and writing RAX to RDX, which those with fixed operands do. */
export function coldFacts(op: Op): number {
  const effects = effectsOf(op);
  let facts = 0;
  for (const at of effects.readsOperands) facts |= COLD_READ[at];
  if (effects.readsFlags) facts |= COLD_READ_FLAGS;
  if (effects.readsFixed.size > 0 || effects.calls) facts |= COLD_READ_FIXED;
  if (effects.writesOperands.has("dst") || effects.calls) facts |= COLD_WRITE_DST;
  if (effects.writesOperands.has("src")) facts |= COLD_WRITE_SRC;
  if (effects.writesFlags) facts |= COLD_WRITE_FLAGS;
  if (effects.writesFixed.size > 0 || effects.calls) facts |= COLD_WRITE_FIXED;
  // RDTSC alone is not ordered (SDM vol. 2): software puts LFENCE before it or uses RDTSCP.
  const isOrdered = op.latency === "serialize" || op.latency === "system";
  if (isOrdered && op.name !== "rdtsc") facts |= COLD_WAITS;
  if (mayRunTransiently(op)) facts |= COLD_TRANSIENT;
  if (effects.calls) facts |= COLD_CALLS;
  const cost = OPERATION_COSTS.indexOf(COSTS[op.name] ?? "none");
  return facts | ((LATENCY_CYCLES[op.latency] * PER_CYCLE) << COLD_LATENCY_SHIFT) | (cost << COLD_COST_SHIFT);
}

/** The functions `coldFacts`, `coldStart` and `coldFinish` of the generated executor. */
export function printColdFacts(): string {
  const byFacts = new Map<number, number[]>();
  for (const [index, op] of OPS.slice(HOT_OPS).entries()) {
    const facts = coldFacts(op);
    byFacts.set(facts, [...(byFacts.get(facts) ?? []), HOT_OPS + index]);
  }
  const lines = [...byFacts].map(([facts, numbers]) => `    ${numbers.map((n) => `case ${n}:`).join(" ")} return ${facts};`);
  return `
/** COLD_* facts of a cold op: what it reads and writes, its latency, whether it waits, whether a wrong path may execute it. */
function coldFacts(op: i32): u32 {
  switch (op) {
${lines.join("\n")}
    default: return 0;
  }
}

/** When the operands of the cold op at \`pc\` are known. */
function coldStart(pc: usize, facts: u32, now: i64, fready: i64): i64 {
  let start = now;
  if ((facts & ${COLD_READ.dst}) != 0) start = later(start, load<i64>(${readyPlace("dst")}));
  if ((facts & ${COLD_READ.src}) != 0) start = later(start, load<i64>(${readyPlace("src")}));
  if ((facts & ${COLD_READ.base}) != 0) start = later(start, load<i64>(${readyPlace("base")}));
  if ((facts & ${COLD_READ.index}) != 0) start = later(start, load<i64>(${readyPlace("index")}));
  if ((facts & ${COLD_READ_FIXED}) != 0) {
    start = later(start, later(load<i64>(CPU_READY), later(load<i64>(CPU_READY + 8), load<i64>(CPU_READY + 16))));
  }
  return (facts & ${COLD_READ_FLAGS}) != 0 ? later(start, fready) : start;
}

/** Marks the results of the cold op at \`pc\` known at \`t\`. */
function coldFinish(pc: usize, facts: u32, t: i64): void {
  if ((facts & ${COLD_WRITE_DST}) != 0) store<i64>(${operandOffset("dst")} & 0xf8, t, CPU_READY);
  if ((facts & ${COLD_WRITE_SRC}) != 0) store<i64>(${operandOffset("src")} & 0xf8, t, CPU_READY);
  if ((facts & ${COLD_WRITE_FIXED}) != 0) {
    store<i64>(CPU_READY, t);
    store<i64>(CPU_READY + 16, t);
  }
  // An absent operand names the zero slot, which is always known.
  store<i64>(CPU_READY + (CPU_ZERO - CPU_REGS), 0);
}
`;
}
