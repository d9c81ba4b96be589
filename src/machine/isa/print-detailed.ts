// Prints the detailed executor from the op table: the same bodies as the architectural one, and around them the scoreboard (when is
// each operand known), the cache model at each access, and at each branch prediction, wrong path and resolution. What is not a line
// or two is a function of `core/detailed/`, out of line: inlining them into the switch made the compiler take minutes.
import {
  COLD_CALLS,
  COLD_COST_SHIFT,
  COLD_LATENCY_MASK,
  COLD_LATENCY_SHIFT,
  COLD_TRANSIENT,
  COLD_WAITS,
  COLD_WRITE_FLAGS,
  printColdFacts,
} from "./cold-facts.ts";
import { type Effects, effectsOf } from "./effects.ts";
import type { Expr, Op, Operand, Stmt, Temp, Transfer, Width } from "./ir.ts";
import { num, PAGE_BASE, RSP, TEMPS } from "./ir.ts";
import { HOT_OPS, OPS } from "./op-table.ts";
import { type Dialect, intType, printOp } from "./print.ts";
import { coldDialect } from "./print-architectural.ts";
import { LATENCY_CYCLES, PER_CYCLE, readyPlace } from "./ready-times.ts";

const LOCAL_FLAGS = { kind: "fk", a: "fa", b: "fb", r: "fr" } as const;

/** The state that lives in locals of the executor and that every way out spills. */
const STATE = "pc, bud, fa, fb, fr, fk, now, retired, fready, order";

/** Operand and fixed registers that something reads, without duplicates. */
interface Reads {
  readonly operands: ReadonlySet<Operand>;
  readonly fixed: ReadonlySet<number>;
  readonly flags: boolean;
}

function readsOf(effects: Effects): Reads {
  return { operands: effects.readsOperands, fixed: effects.readsFixed, flags: effects.readsFlags };
}

function isAccess(stmt: Stmt): stmt is Extract<Stmt, { s: "load" | "loadForWrite" | "store" }> {
  return stmt.s === "load" || stmt.s === "loadForWrite" || stmt.s === "store";
}

/** What an op needs for its addresses: an access may start when these are known, whatever else the op waits for. */
export function addressReads(op: Op): Reads {
  const addresses: Expr[] = op.body.filter(isAccess).map((stmt) => stmt.address);
  const body: Stmt[] = addresses.map((value) => ({ s: "let", temp: "a", value }));
  return readsOf(effectsOf({ ...op, body }));
}

/** What an op needs besides its addresses. */
export function valueReads(op: Op): Reads {
  const body = op.body.map((stmt) => (isAccess(stmt) ? { ...stmt, address: num(0) } : stmt));
  return readsOf(effectsOf({ ...op, body }));
}

function readyFixed(offset: number): string {
  return `CPU_READY + ${offset & ~7}`;
}

/**
 * Statements: `target` becomes `from`, or later when what is read is known later. In terms of one shared local: as calls of a function,
 * which the compiler inlines, each maximum cost two locals, and locals are what compile time grows with.
 */
function laterOf(target: string, from: string, reads: Reads): string {
  const latest = (place: string): string => `u = ${place}; ${target} = select<i64>(u, ${target}, u > ${target});`;
  const lines = target === from ? [] : [`${target} = ${from};`];
  for (const at of reads.operands) lines.push(latest(`load<i64>(${readyPlace(at)})`));
  // Nobody computes PAGE_BASE: it is always known.
  const fixed = new Set([...reads.fixed].filter((offset) => offset !== PAGE_BASE).map((offset) => offset & ~7));
  for (const offset of fixed) lines.push(latest(`load<i64>(${readyFixed(offset)})`));
  if (reads.flags) lines.push(`${target} = select<i64>(fready, ${target}, fready > ${target});`);
  return lines.join(" ");
}

/** PUSH, POP, CALL and RET move RSP in the front end (the stack engine): nobody waits for it. */
function isStackEngine(effects: Effects): boolean {
  return effects.readsFixed.has(RSP) && effects.writesFixed.has(RSP);
}

/** Marks the results known at `t`. */
function complete(effects: Effects): string {
  const lines = [...effects.writesOperands].map((at) => `store<i64>(${readyPlace(at).replace(", CPU_READY", "")}, t, CPU_READY);`);
  for (const offset of effects.writesFixed) {
    if (offset === RSP && isStackEngine(effects)) continue;
    lines.push(`store<i64>(${readyFixed(offset)}, t);`);
  }
  if (effects.writesFlags) lines.push("fready = t;");
  return lines.join(" ");
}

/**
 * Retires in order, and gives the issue time of what follows: a quarter cycle later, or when the reorder buffer has room, which is looked
 * at every eighth micro-op.
 */
const RETIRE =
  "retired = select<i64>(t, retired, t > retired); now++; " +
  "if ((++order & RING_GROUP_MASK) == 0) { store<i64>(RING_REGION + (order & RING_MASK), retired); " +
  "u = load<i64>(RING_REGION + ((order - depth) & RING_MASK)); now = select<i64>(u, now, u > now); }";

const ENTRY = "e = SOFT_TLB_REGION + ((((va >> 12) as u32) & SOFT_TLB_ENTRIES - 1) << 5);";
const HOST_ADDRESS = "(va as u32) + load<u32>(e, SOFT_ADDEND)";

function tagMatches(tag: string, width: Width): string {
  const lastByte = width === 8 ? "va" : `(va + ${width / 8 - 1})`;
  return `load<i64>(e, ${tag}) == ((${lastByte} & ~0xfff) | load<i64>(CPU_GENERATION))`;
}

// How an op ends. Code that all ops of a kind share stands once, behind the switch: printed into each case it made the function so
// large that compiling it took two minutes.
const END_NEXT = 0;
const END_BRANCH = 1;
const END_JUMP = 2;
const END_INDIRECT = 3;
const END_RETURN = 4;
const END_FAR_JUMP = 5;
const END_FAULT = 6;
const END_RAISE = 7;
const END_GO_ON = 8;

/** After GO was read: the branches of the wrong path leave theirs in the same place. */
const RUN_WRONG_PATH = `if (load<i64>(DETAILED_RESOLVE) != 0) { spill(0, ${STATE}); now = wrongPath(); }`;

/** What follows the switch. An address is followed through the jump cache; a wrong path may have code translated on the way. */
const TAIL = `
    if (end == ${END_NEXT}) {
      ${RETIRE}
      continue;
    }
    // Jumps from block to block that the translator made are no micro-ops of the program: they take no time.
    if (end == ${END_JUMP} && (load<u8>(pc, UOP_FLAGS) & UOP_FLAG_FIRST) == 0) end = ${END_GO_ON};
    if (end == ${END_FAULT}) return faulted(start, ${STATE});
    if (end == ${END_RAISE}) return spill(LEAVE_FAULT, ${STATE});
    if (end < ${END_FAR_JUMP}) {
      ${RETIRE}
    }
    if (end == ${END_BRANCH}) {
      now = conditional(pc, taken, t, now);
      next = load<u32>(pc + (load<u32>(DETAILED_GO) << 2), UOP_LINK);
      ${RUN_WRONG_PATH}
    } else if (end == ${END_JUMP}) {
      now = direct(pc, now);
      next = load<u32>(pc, UOP_LINK + 4);
    } else if (end == ${END_GO_ON}) {
      next = load<u32>(pc, UOP_LINK + 4);
    } else {
      if (end != ${END_FAR_JUMP}) {
        now = end == ${END_RETURN} ? returned(pc, va, t, now) : indirect(pc, va, t, now);
        va = load<i64>(DETAILED_GO_ADDRESS);
        ${RUN_WRONG_PATH}
      }
      next = lookUpJump(va);
      if (next == 0) {
        if (isTransient) {
          next = transientCode(va);
          if (next == 0) return spill(LEAVE_SLICE, ${STATE});
        } else {
          store<i64>(CPU_RIP, va);
          bud -= load<u16>(pc, UOP_COUNT) as i32;
          return spill(LEAVE_DISPATCH, ${STATE});
        }
      }
      store<i64>(CPU_PAGE_BASE, va & ~0xfff);
      noteCodePage();
    }
    // A segment ends: count its instructions, and go on unless the slice or the window is over.
    end = ${END_NEXT};
    bud -= load<u16>(pc, UOP_COUNT) as i32;
    pc = next;
    now += fetchDelay(pc, now);
    if (now >= limit || bud <= 0) return spill(LEAVE_SLICE, ${STATE});
`;

/** The dialect of one hot op; it knows the op's effects, so it is made anew for each. */
function hotDialect(op: Op): Dialect {
  const effects = effectsOf(op);
  const start = laterOf("start", "now", addressReads(op));
  const values = valueReads(op);
  const latency = isPlainLoad(op, effects) ? 0 : LATENCY_CYCLES[op.latency] * PER_CYCLE;
  const fault = `{ end = ${END_FAULT}; break; }`;
  let isTimed = false;
  // The result's time is computed once: before the first store if there is one, else at the end.
  const timed = (): string => {
    if (isTimed) return "";
    isTimed = true;
    return `${laterOf("t", effects.loads ? "t" : "now", values)} ${latency === 0 ? "" : `t += ${latency};`}`;
  };
  const finish = (): string => `${timed()} ${complete(effects)}`;
  const access = (tag: string, slow: string, width: Width, address: string): string =>
    `va = ${address}; ${start} ${ENTRY} if (${tagMatches(tag, width)}) h = ${HOST_ADDRESS}; ` +
    `else { h = ${slow}(va, ${width / 8}, start); if (h == 0) ${fault} } t = loadTime(h, ${width / 8}, (va >> 12) as u32, start);`;
  const fetched = (target: Temp, width: Width, unsigned: boolean): string => `${target} = load<${intType(width, unsigned)}>(h) as i64;`;
  return {
    flags: LOCAL_FLAGS,
    load: (target, width, address, unsigned) =>
      `${access("SOFT_READ", "detailedRead", width, address)} ${fetched(target, width, unsigned)}`,
    loadForWrite: (target, width, address, unsigned) =>
      `${access("SOFT_WRITE", "detailedReadForWrite", width, address)} ${fetched(target, width, unsigned)}`,
    storeBack: (width, value) =>
      `${timed()} if (isTransient) h = journalled(h, ${width / 8}); store<${intType(width)}>(h, (${value}) as ${intType(width)}); ` +
      `if (h == BOUNCE_REGION) commitBounce(va, ${width / 8}); storeTime(h, ${width / 8}, t);`,
    store: (width, address, value) =>
      `va = ${address}; ${start} ${timed()} ${ENTRY} if (${tagMatches("SOFT_WRITE", width)}) { h = ${HOST_ADDRESS}; ` +
      `if (isTransient) h = journalled(h, ${width / 8}); store<${intType(width)}>(h, (${value}) as ${intType(width)}); storeTime(h, ${width / 8}, t); } ` +
      `else if (!detailedStore(va, ${width / 8}, ${value}, start, t)) ${fault}`,
    setFlags: (kind, a, b, r) =>
      [a === undefined ? "" : `fa = ${a};`, b === undefined ? "" : `fb = ${b};`, r === undefined ? "" : `fr = ${r};`, `fk = ${kind};`].join(
        " ",
      ),
    status: () => {
      throw new Error("a hot op cannot call the core: mark it cold");
    },
    raise: (vector) => `{ store<u32>(CPU_FAULT_VECTOR, ${vector}); end = ${END_RAISE}; break; }`,
    pushReturn: (address) => `pushReturn(${address});`,
    branch: (taken) => `taken = (${taken}) ? 1 : 0; ${finish()} end = ${END_BRANCH}; break;`,
    jump: () => `${finish()} end = ${END_JUMP}; break;`,
    indirect: (target, via) => `va = ${target}; ${finish()} end = ${indirectEnd(op, via)}; break;`,
    next: () => `${finish()} pc += ${op.bytes}; break;`,
  };
}

/** MOV, MOVZX, POP: the result is what the load brings, when it brings it. */
function isPlainLoad(op: Op, effects: Effects): boolean {
  return effects.loads && op.latency === "move";
}

/** How the target of an indirect transfer was predicted. `far_jump` leaves a page by a direct jump: nothing to predict. */
function indirectEnd(op: Op, via: Transfer): number {
  if (op.name === "far_jump") return END_FAR_JUMP;
  return via === "return" ? END_RETURN : END_INDIRECT;
}

/** Cold ops: their accesses are timed by the functions called, which move ACCESS_TIME. */
const timedColdDialect: Dialect = {
  ...coldDialect,
  load: (target, width, address, unsigned) =>
    `va = ${address}; h = timedRead(va, ${width / 8}); if (h == 0) return LEAVE_FAULT; ${target} = load<${intType(width, unsigned)}>(h) as i64;`,
  loadForWrite: (target, width, address, unsigned) =>
    `va = ${address}; h = timedReadForWrite(va, ${width / 8}); if (h == 0) return LEAVE_FAULT; ${target} = load<${intType(width, unsigned)}>(h) as i64;`,
  storeBack: (width, value) => `timedStoreBack(h, va, ${width / 8}, ${value});`,
  store: (width, address, value) => `va = ${address}; if (!timedStore(va, ${width / 8}, ${value})) return LEAVE_FAULT;`,
};

const TEMP_LOCALS = TEMPS.map((name) => `${name}: i64 = 0`).join(", ");

function hotCases(): string {
  return OPS.slice(0, HOT_OPS)
    .map((op, number) => `    case ${number}: { ${printOp(op, hotDialect(op))} } // ${op.name}`)
    .join("\n");
}

function coldCases(): string {
  return OPS.slice(HOT_OPS)
    .map((op, index) => `    case ${HOT_OPS + index}: { ${printOp(op, timedColdDialect)} } // ${op.name}`)
    .join("\n");
}

/** Functions of `core/detailed/` that the printed text calls. */
export const DETAILED_RUNTIME_FUNCTIONS: readonly string[] = [
  "commitBounce",
  "conditional",
  "detailedRead",
  "detailedReadForWrite",
  "detailedStore",
  "direct",
  "faultWindow",
  "fetchDelay",
  "indirect",
  "journalled",
  "loadTime",
  "lookUpJump",
  "noteCodePage",
  "pushReturn",
  "returned",
  "storeTime",
  "timedRead",
  "timedReadForWrite",
  "timedStore",
  "timedStoreBack",
  "transientCode",
  "transientLink",
  "wrongPath",
];

/** `linkStub`: number of the op that stands for a link not followed yet. */
export function printDetailedExecutor(linkStub: number): string {
  return `
function later(a: i64, b: i64): i64 {
  return a > b ? a : b;
}

/**
 * Executes from \`start\`, at most \`budget\` instructions, until DEADLINE; on a wrong path, until its window closes. Returns a LEAVE_* code.
 * Times and flags are in the CPU block before and after.
 */
export function executeDetailed(start_: usize, budget: i32): i32 {
  let pc: usize = start_, bud: i32 = budget;
  let fa: i64 = load<i64>(CPU_FLAG_A), fb: i64 = load<i64>(CPU_FLAG_B), fr: i64 = load<i64>(CPU_FLAG_R), fk: i32 = load<i32>(CPU_FLAG_KIND);
  let now: i64 = load<i64>(CPU_NOW), retired: i64 = load<i64>(CPU_RETIRE), fready: i64 = load<i64>(CPU_FLAGS_READY), order: u32 = load<u32>(DETAILED_RING_INDEX);
  const isTransient: bool = load<u32>(DETAILED_TRANSIENT) != 0;
  const limit: i64 = isTransient ? load<i64>(DETAILED_LIMIT) : load<i64>(DETAILED_DEADLINE);
  const depth: u32 = load<u32>(MODEL_REORDER_BUFFER);
  let ${TEMP_LOCALS}, va: i64 = 0, e: u32 = 0, h: u32 = 0, next: u32 = 0, s: i32 = 0;
  let t: i64 = 0, u: i64 = 0, start: i64 = 0, taken: u32 = 0, facts: u32 = 0, end: i32 = ${END_NEXT};
  while (true) {
    switch (load<u16>(pc) as i32) {
${hotCases()}
    default: {
      facts = coldFacts(load<u16>(pc) as i32);
      if (isTransient) {
        if (load<u16>(pc) == ${linkStub}) {
          next = transientLink(pc);
          if (next == 0) return spill(LEAVE_SLICE, ${STATE});
          pc = next;
          continue;
        }
        if ((facts & ${COLD_TRANSIENT}) == 0) return spill(LEAVE_SLICE, ${STATE});
      }
      if ((facts & ${COLD_WAITS}) != 0) now = later(now, retired);
      start = coldStart(pc, facts, now, fready);
      // A core function does not know of operands that are not there in time.
      if (isTransient && start >= limit && (facts & ${COLD_CALLS}) != 0) return spill(LEAVE_SLICE, ${STATE});
      spill(0, ${STATE});
      store<i64>(DETAILED_ACCESS_TIME, start);
      s = executeColdDetailed(pc);
      if ((facts >> ${COLD_COST_SHIFT}) != 0 && s != LEAVE_FAULT) {
        store<i64>(CPU_NOW, load<i64>(CPU_NOW) + (load<u32>(MODEL_COSTS + ((facts >> ${COLD_COST_SHIFT}) << 2)) as i64));
      }
      if (s != 0) {
        if (s == LEAVE_FAULT && !isTransient) faultWindow(pc, start);
        return s;
      }
      fa = load<i64>(CPU_FLAG_A); fb = load<i64>(CPU_FLAG_B); fr = load<i64>(CPU_FLAG_R); fk = load<i32>(CPU_FLAG_KIND);
      now = later(now, load<i64>(CPU_NOW));
      t = load<i64>(DETAILED_ACCESS_TIME) + load<i64>(DETAILED_WALK_TIME) + (((facts >> ${COLD_LATENCY_SHIFT}) & ${COLD_LATENCY_MASK}) as i64);
      store<i64>(DETAILED_WALK_TIME, 0);
      coldFinish(pc, facts, t);
      if ((facts & ${COLD_WRITE_FLAGS}) != 0) fready = t;
      pc += 16;
    }
    }
${TAIL}  }
  return 0;
}

/** Spills what the executor keeps in locals. */
function spill(
  code: i32, pc: usize, bud: i32, fa: i64, fb: i64, fr: i64, fk: i32, now: i64, retired: i64, fready: i64, order: u32
): i32 {
  store<i64>(CPU_FLAG_A, fa);
  store<i64>(CPU_FLAG_B, fb);
  store<i64>(CPU_FLAG_R, fr);
  store<i32>(CPU_FLAG_KIND, fk);
  store<i32>(CPU_BUDGET, bud);
  store<u32>(CPU_PC, pc as u32);
  store<i64>(CPU_NOW, now);
  store<i64>(CPU_RETIRE, retired);
  store<i64>(CPU_FLAGS_READY, fready);
  store<u32>(DETAILED_RING_INDEX, order);
  return code;
}

/** The load or store at \`pc\` faults: what is younger executes until the fault retires, then the fault is taken. */
function faulted(
  start: i64, pc: usize, bud: i32, fa: i64, fb: i64, fr: i64, fk: i32, now: i64, retired: i64, fready: i64, order: u32
): i32 {
  spill(0, ${STATE});
  faultWindow(pc, start);
  return LEAVE_FAULT;
}
${printColdFacts()}
/** Executes one cold micro-op: as in the architectural gear, with its accesses timed from ACCESS_TIME on. */
function executeColdDetailed(pc: usize): i32 {
  let ${TEMP_LOCALS}, va: i64 = 0, e: u32 = 0, h: u32 = 0, s: i32 = 0;
  switch (load<u16>(pc) as i32) {
${coldCases()}
    default:
      break;
  }
  return LEAVE_FAULT;
}
`;
}
