// Prints the architectural executor: semantics, MMU through the soft TLB, the instruction budget, nothing else. Two functions come
// out: `execute`, one dense switch over the hot ops with flags, budget and temporaries in locals; and `executeCold` for the rest,
// with the flags in the CPU block.
import type { Op, Temp, Width } from "./ir.ts";
import { TEMPS } from "./ir.ts";
import { HOT_OPS, OPS } from "./op-table.ts";
import { type Dialect, intType, printOp } from "./print.ts";

/** How a dialect leaves: hot code spills its locals first, cold code finds them spilled. */
interface Exits {
  leave(code: string): string;
}

const LOCAL_FLAGS = { kind: "fk", a: "fa", b: "fb", r: "fr" } as const;
export const MEMORY_FLAGS = {
  kind: "load<i32>(CPU_FLAG_KIND)",
  a: "load<i64>(CPU_FLAG_A)",
  b: "load<i64>(CPU_FLAG_B)",
  r: "load<i64>(CPU_FLAG_R)",
} as const;

/** `e`: the soft-TLB entry of the page of `va`. */
const ENTRY = `e = SOFT_TLB_REGION + ((((va >> 12) as u32) & ${"SOFT_TLB_ENTRIES - 1"}) << 5);`;

/** True when the whole access lies in the page of entry `e` and the tag allows it: page-crossers never match. */
function tagMatches(tag: string, width: Width): string {
  const lastByte = width === 8 ? "va" : `(va + ${width / 8 - 1})`;
  return `load<i64>(e, ${tag}) == ((${lastByte} & ~0xfff) | load<i64>(CPU_GENERATION))`;
}

const HOST_ADDRESS = "(va as u32) + load<u32>(e, SOFT_ADDEND)";

/** Memory statements, which both dialects share but for the way out. */
function memoryStatements(exits: Exits): Pick<Dialect, "load" | "loadForWrite" | "storeBack" | "store"> {
  const access = (tag: string, slow: string, width: Width, address: string): string =>
    `va = ${address}; ${ENTRY} if (${tagMatches(tag, width)}) h = ${HOST_ADDRESS}; ` +
    `else { h = ${slow}(va, ${width / 8}); if (h == 0) ${exits.leave("LEAVE_FAULT")} }`;
  const fetched = (target: Temp, width: Width, unsigned: boolean): string => `${target} = load<${intType(width, unsigned)}>(h) as i64;`;
  return {
    load: (target, width, address, unsigned) => `${access("SOFT_READ", "slowRead", width, address)} ${fetched(target, width, unsigned)}`,
    loadForWrite: (target, width, address, unsigned) =>
      `${access("SOFT_WRITE", "slowReadForWrite", width, address)} ${fetched(target, width, unsigned)}`,
    storeBack: (width, value) =>
      `store<${intType(width)}>(h, (${value}) as ${intType(width)}); if (h == BOUNCE_REGION) commitBounce(va, ${width / 8});`,
    store: (width, address, value) =>
      `va = ${address}; ${ENTRY} if (${tagMatches("SOFT_WRITE", width)}) ` +
      `store<${intType(width)}>(${HOST_ADDRESS}, (${value}) as ${intType(width)}); ` +
      `else if (!slowStore(va, ${width / 8}, ${value})) ${exits.leave("LEAVE_FAULT")}`,
  };
}

const hotExits: Exits = { leave: (code) => `return leave(${code}, pc, bud, fa, fb, fr, fk);` };

/** Counts the instructions of a segment and goes on at `next`, or leaves when the slice is used up. */
const GO_ON = `bud -= load<u16>(pc, UOP_COUNT) as i32; pc = next; if (bud > 0) continue; ${hotExits.leave("LEAVE_SLICE")}`;

const hotDialect: Dialect = {
  ...memoryStatements(hotExits),
  flags: LOCAL_FLAGS,
  setFlags: (kind, a, b, r) =>
    [a === undefined ? "" : `fa = ${a};`, b === undefined ? "" : `fb = ${b};`, r === undefined ? "" : `fr = ${r};`, `fk = ${kind};`].join(
      " ",
    ),
  status: () => {
    throw new Error("a hot op cannot call the core: mark it cold");
  },
  raise: (vector) => `{ store<u32>(CPU_FAULT_VECTOR, ${vector}); ${hotExits.leave("LEAVE_FAULT")} }`,
  pushReturn: () => "",
  branch: (taken) => `next = load<u32>(pc + ((${taken}) ? 4 : 0), UOP_LINK); ${GO_ON}`,
  jump: () => `next = load<u32>(pc, UOP_LINK + 4); ${GO_ON}`,
  indirect: (target) =>
    `va = ${target}; next = lookUpJump(va); ` +
    "if (next == 0) { store<i64>(CPU_RIP, va); bud -= load<u16>(pc, UOP_COUNT) as i32; " +
    `${hotExits.leave("LEAVE_DISPATCH")} } store<i64>(CPU_PAGE_BASE, va & ~0xfff); ${GO_ON}`,
  next: (op) => `pc += ${op.bytes}; continue;`,
};

const coldExits: Exits = { leave: (code) => `return ${code};` };

/** The dialect of cold ops, for every executor whose cold ops need no timing of their own. */
export const coldDialect: Dialect = {
  ...memoryStatements(coldExits),
  flags: MEMORY_FLAGS,
  // The operands may themselves read the flags: all are computed before the first is stored.
  setFlags: (kind, a, b, r) =>
    [
      a === undefined ? "" : `x = ${a};`,
      b === undefined ? "" : `y = ${b};`,
      r === undefined ? "" : `store<i64>(CPU_FLAG_R, ${r});`,
      a === undefined ? "" : "store<i64>(CPU_FLAG_A, x);",
      b === undefined ? "" : "store<i64>(CPU_FLAG_B, y);",
      `store<i32>(CPU_FLAG_KIND, ${kind});`,
    ].join(" "),
  status: (call) => `s = ${call}; if (s != 0) return s;`,
  raise: (vector) => `{ store<u32>(CPU_FAULT_VECTOR, ${vector}); return LEAVE_FAULT; }`,
  pushReturn: () => "",
  branch: unreachable,
  jump: unreachable,
  indirect: unreachable,
  next: () => "return 0;",
};

function unreachable(): never {
  throw new Error("a cold op cannot transfer control by links: mark it hot");
}

const TEMP_LOCALS = TEMPS.map((name) => `${name}: i64 = 0`).join(", ");

function cases(ops: readonly Op[], first: number, dialect: Dialect): string {
  return ops.map((op, index) => `    case ${first + index}: { ${printOp(op, dialect)} } // ${op.name}`).join("\n");
}

/** The function `executeCold(pc)`: 0, or the LEAVE_* code. Flags and budget are in the CPU block. */
export function printColdExecutor(dialect: Dialect = coldDialect): string {
  return `
/** Executes one cold micro-op; the caller has spilled flags, budget and pc. Returns 0 or a LEAVE_* code. */
export function executeCold(pc: usize): i32 {
  let ${TEMP_LOCALS}, va: i64 = 0, e: u32 = 0, h: u32 = 0, s: i32 = 0;
  switch (load<u16>(pc) as i32) {
${cases(OPS.slice(HOT_OPS), HOT_OPS, dialect)}
    default:
      break;
  }
  return LEAVE_FAULT;
}
`;
}

/** Names of core functions that op bodies call, so that the generated file can import them. */
export function calledFunctions(): readonly string[] {
  const names = new Set<string>();
  const text = JSON.stringify(OPS.map((op) => op.body));
  for (const match of text.matchAll(/"fn":"(\w+)"/g)) if (match[1] !== undefined) names.add(match[1]);
  return [...names].sort();
}

export function printArchitecturalExecutor(): string {
  return `
export function execute(start: usize, budget: i32): i32 {
  let pc: usize = start, bud: i32 = budget;
  let fa: i64 = load<i64>(CPU_FLAG_A), fb: i64 = load<i64>(CPU_FLAG_B), fr: i64 = load<i64>(CPU_FLAG_R), fk: i32 = load<i32>(CPU_FLAG_KIND);
  let ${TEMP_LOCALS}, va: i64 = 0, e: u32 = 0, h: u32 = 0, next: u32 = 0, s: i32 = 0;
  while (true) {
    switch (load<u16>(pc) as i32) {
${cases(OPS.slice(0, HOT_OPS), 0, hotDialect)}
    default: {
      leave(0, pc, bud, fa, fb, fr, fk);
      s = executeCold(pc);
      if (s != 0) return s;
      fa = load<i64>(CPU_FLAG_A); fb = load<i64>(CPU_FLAG_B); fr = load<i64>(CPU_FLAG_R); fk = load<i32>(CPU_FLAG_KIND);
      pc += 16;
    }
    }
  }
  return 0;
}

/** Spills what the executor keeps in locals. */
function leave(code: i32, pc: usize, bud: i32, fa: i64, fb: i64, fr: i64, fk: i32): i32 {
  store<i64>(CPU_FLAG_A, fa);
  store<i64>(CPU_FLAG_B, fb);
  store<i64>(CPU_FLAG_R, fr);
  store<i32>(CPU_FLAG_KIND, fk);
  store<i32>(CPU_BUDGET, bud);
  store<u32>(CPU_PC, pc as u32);
  return code;
}
`;
}
