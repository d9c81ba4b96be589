// Prints op bodies as AssemblyScript. Expressions and conditions are the same in every executor; how memory is reached, where flags
// live, and how control goes on is the dialect's. Temporaries become shared locals: a body never declares one, because a local per
// case made the executor too large for the optimizing compiler of V8.
import type { Cond, Condition, Expr, Op, Operand, Stmt, Temp, Transfer, Width } from "./ir.ts";

/** The expressions that hold the lazy flags: locals in a hot switch, loads in a cold one. */
export interface FlagPlaces {
  readonly kind: string;
  readonly a: string;
  readonly b: string;
  readonly r: string;
}

/** What distinguishes executors. Every method returns complete statements. */
export interface Dialect {
  readonly flags: FlagPlaces;
  load(target: Temp, width: Width, address: string, unsigned: boolean): string;
  loadForWrite(target: Temp, width: Width, address: string, unsigned: boolean): string;
  storeBack(width: Width, value: string): string;
  store(width: Width, address: string, value: string): string;
  /** `kind` is FLAGS_*; absent operands are not written. */
  setFlags(kind: string, a: string | undefined, b: string | undefined, r: string | undefined): string;
  status(call: string): string;
  raise(vector: number): string;
  pushReturn(address: string): string;
  branch(taken: string): string;
  jump(): string;
  indirect(target: string, via: Transfer): string;
  /** End of a body without control transfer. */
  next(op: Op): string;
}

const FIELD: Readonly<Record<Operand, string>> = { dst: "UOP_DST", src: "UOP_SRC", base: "UOP_BASE", index: "UOP_INDEX" };

/** The register-file offset held by a field of the micro-op. */
export function operandOffset(at: Operand): string {
  return `load<u8>(pc, ${FIELD[at]})`;
}

export function intType(width: Width, unsigned = false): string {
  return `${unsigned ? "u" : "i"}${width}`;
}

export function printOp(op: Op, dialect: Dialect): string {
  const lines = op.body.map((stmt) => printStmt(stmt, dialect));
  const last = op.body.at(-1)?.s;
  if (last !== "branch" && last !== "jump" && last !== "indirect") lines.push(dialect.next(op));
  return lines.join(" ");
}

export function printStmt(stmt: Stmt, dialect: Dialect): string {
  const flags = dialect.flags;
  const text = (expr: Expr): string => printExpr(expr, flags);
  switch (stmt.s) {
    case "let":
      return `${stmt.temp} = ${text(stmt.value)};`;
    case "setReg":
      return writeRegister(operandOffset(stmt.at), stmt.width, text(stmt.value));
    case "setFixed":
      return writeFixed(stmt.offset, stmt.width, text(stmt.value));
    case "load":
      return dialect.load(stmt.temp, stmt.width, text(stmt.address), stmt.unsigned);
    case "loadForWrite":
      return dialect.loadForWrite(stmt.temp, stmt.width, text(stmt.address), stmt.unsigned);
    case "storeBack":
      return dialect.storeBack(stmt.width, text(stmt.value));
    case "store":
      return dialect.store(stmt.width, text(stmt.address), text(stmt.value));
    case "flags":
      return printFlags(stmt, dialect);
    case "if":
      return `if (${printCond(stmt.when, flags)}) { ${stmt.body.map((inner) => printStmt(inner, dialect)).join(" ")} }`;
    case "status":
      return dialect.status(`${stmt.fn}(${["pc", ...stmt.args.map(text)].join(", ")})`);
    case "raise":
      return dialect.raise(stmt.vector);
    case "pushReturn":
      return dialect.pushReturn(text(stmt.address));
    case "branch":
      return dialect.branch(printCond(stmt.when, flags));
    case "jump":
      return dialect.jump();
    case "indirect":
      return dialect.indirect(text(stmt.target), stmt.via);
  }
}

function printFlags(stmt: Extract<Stmt, { s: "flags" }>, dialect: Dialect): string {
  const text = (expr: Expr): string => printExpr(expr, dialect.flags);
  switch (stmt.kind) {
    case "add":
      return dialect.setFlags("FLAGS_ADD", text(stmt.a), text(stmt.b), text(stmt.r));
    case "sub":
      return dialect.setFlags("FLAGS_SUB", text(stmt.a), text(stmt.b), text(stmt.r));
    case "logic":
      return dialect.setFlags("FLAGS_LOGIC", undefined, undefined, text(stmt.r));
    case "explicit":
      return dialect.setFlags("FLAGS_EXPLICIT", text(stmt.a), text(stmt.b), text(stmt.r));
    case "raw":
      return dialect.setFlags("FLAGS_RAW", text(stmt.a), undefined, undefined);
  }
}

/** A 32-bit result clears the upper half; 8- and 16-bit results keep the rest (SDM vol. 1, 3.4.1.1). */
export function writeRegister(offset: string, width: Width, value: string): string {
  switch (width) {
    case 64:
      return `store<i64>(${offset}, ${value}, CPU_REGS);`;
    case 32:
      return `store<u64>(${offset}, (${value}) as u32 as u64, CPU_REGS);`;
    default:
      return `store<i${width}>(${offset}, (${value}) as i${width}, CPU_REGS);`;
  }
}

function writeFixed(offset: number, width: Width, value: string): string {
  const place = `CPU_REGS + ${offset}`;
  switch (width) {
    case 64:
      return `store<i64>(${place}, ${value});`;
    case 32:
      return `store<u64>(${place}, (${value}) as u32 as u64);`;
    default:
      return `store<i${width}>(${place}, (${value}) as i${width});`;
  }
}

const PLAIN_BINARY = { add: "+", sub: "-", mul: "*", and: "&", or: "|", xor: "^", shl: "<<", sar: ">>" } as const;

export function printExpr(expr: Expr, flags: FlagPlaces): string {
  const text = (inner: Expr): string => printExpr(inner, flags);
  switch (expr.k) {
    case "const":
      return `(${expr.value} as i64)`;
    case "temp":
      return expr.temp;
    case "reg":
      return readWidth(`${operandOffset(expr.at)}, CPU_REGS`, expr.width, expr.unsigned);
    case "fixed":
      return readWidth(`CPU_REGS + ${expr.offset}`, expr.width, expr.unsigned);
    case "imm":
      return "(load<i32>(pc, UOP_IMM) as i64)";
    case "imm64":
      return "load<i64>(pc, UOP_DISP)";
    case "disp":
      return "(load<i32>(pc, UOP_DISP) as i64)";
    case "address":
      return (
        `(load<i64>(${operandOffset("base")}, CPU_REGS) + (load<i64>(${operandOffset("index")}, CPU_REGS) << ` +
        "(load<u8>(pc, UOP_SCALE) as i64)) + (load<i32>(pc, UOP_DISP) as i64))"
      );
    case "bin":
      return printBinary(expr, text);
    case "un":
      return printUnary(expr, text);
    case "ext":
      return `(${text(expr.a)} as ${intType(expr.width, expr.unsigned)} as i64)`;
    case "select":
      return `(${printCond(expr.when, flags)} ? ${text(expr.a)} : ${text(expr.b)})`;
    case "bool":
      return `((${printCond(expr.when, flags)}) as i64)`;
    case "flagBits":
      return `arithmeticFlags(${flags.kind}, ${flags.a}, ${flags.b}, ${flags.r})`;
    case "call":
      return `${expr.fn}(${expr.args.map(text).join(", ")})`;
  }
}

function readWidth(place: string, width: Width, unsigned: boolean): string {
  if (width === 64) return `load<i64>(${place})`;
  return `(load<${intType(width, unsigned)}>(${place}) as i64)`;
}

function printBinary(expr: Extract<Expr, { k: "bin" }>, text: (inner: Expr) => string): string {
  const a = text(expr.a);
  const b = text(expr.b);
  switch (expr.op) {
    case "shr":
      return `(((${a} as u64) >> (${b} as u64)) as i64)`;
    case "divu":
      return `(((${a} as u64) / (${b} as u64)) as i64)`;
    case "remu":
      return `(((${a} as u64) % (${b} as u64)) as i64)`;
    case "rotl":
    case "rotr":
      return `(${expr.op}<u64>(${a} as u64, ${b} as u64) as i64)`;
    default:
      return `(${a} ${PLAIN_BINARY[expr.op]} ${b})`;
  }
}

function printUnary(expr: Extract<Expr, { k: "un" }>, text: (inner: Expr) => string): string {
  const a = text(expr.a);
  switch (expr.op) {
    case "not":
      return `(~${a})`;
    case "neg":
      return `(-${a})`;
    default:
      return `${expr.op}<i64>(${a})`;
  }
}

const COMPARE = { eq: "==", ne: "!=", lt: "<", ge: ">=", le: "<=", gt: ">", ltu: "<", geu: ">=", leu: "<=", gtu: ">" } as const;

export function printCond(cond: Cond, flags: FlagPlaces): string {
  if (cond.k === "flag") return printFlag(cond.code, flags);
  const a = printExpr(cond.a, flags);
  const b = printExpr(cond.b, flags);
  const unsigned = cond.op.endsWith("u");
  const operator = COMPARE[cond.op];
  return unsigned ? `((${a} as u64) ${operator} (${b} as u64))` : `(${a} ${operator} ${b})`;
}

/** A condition code over the lazy flags. Codes come in pairs: the odd one is the negation. */
function printFlag(code: Condition, flags: FlagPlaces): string {
  const { kind, a, b, r } = flags;
  const all = `${kind}, ${a}, ${b}, ${r}`;
  switch (code) {
    case "e":
      return `(${kind} != FLAGS_RAW ? ${r} == 0 : (${a} & 0x40) != 0)`;
    case "ne":
      return `(${kind} != FLAGS_RAW ? ${r} != 0 : (${a} & 0x40) == 0)`;
    case "s":
      return `(${kind} != FLAGS_RAW ? ${r} < 0 : (${a} & 0x80) != 0)`;
    case "ns":
      return `(${kind} != FLAGS_RAW ? ${r} >= 0 : (${a} & 0x80) == 0)`;
    case "b":
      return `flagCarry(${all})`;
    case "ae":
      return `!flagCarry(${all})`;
    case "be":
      return `flagBelowOrEqual(${all})`;
    case "a":
      return `!flagBelowOrEqual(${all})`;
    case "o":
      return `flagOverflow(${all})`;
    case "no":
      return `!flagOverflow(${all})`;
    case "p":
      return `flagParity(${all})`;
    case "np":
      return `!flagParity(${all})`;
    case "l":
      return `flagLess(${all})`;
    case "ge":
      return `!flagLess(${all})`;
    case "le":
      return `flagLessOrEqual(${all})`;
    case "g":
      return `!flagLessOrEqual(${all})`;
  }
}
