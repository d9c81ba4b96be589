// The language in which micro-operations are defined: a small expression tree and a few statements. An op says once what it reads,
// writes and computes; printers turn that into executors. All values are 64-bit integers; those of narrower operands are
// sign-extended, so that comparisons and lazy flags work alike at every width. Conditions are a type of their own (boolean).
//
// Discipline that printers rely on:
//  - a body writes no register and no flag before its last statement that can fault (load, loadForWrite, store, status);
//  - `loadForWrite` is followed by exactly one `storeBack`, nothing that can fault in between;
//  - temporaries are the fixed set TEMPS: they become shared locals of the executor, not one local per op.

export type Width = 8 | 16 | 32 | 64;
export const WIDTHS: readonly Width[] = [8, 16, 32, 64];

/** Register fields of a micro-op: each holds a byte offset into the register file. */
export type Operand = "dst" | "src" | "base" | "index";

/** Shared 64-bit temporaries. `va` holds the address of the access in progress, `a b r` the operands and result of flag setters. */
export const TEMPS = ["a", "b", "r", "v", "w", "x", "y", "c"] as const;
export type Temp = (typeof TEMPS)[number];

/** Condition codes in the order of the encoding (SDM vol. 1, appendix B). */
export const CONDITIONS = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"] as const;
export type Condition = (typeof CONDITIONS)[number];

export type BinaryOp = "add" | "sub" | "mul" | "and" | "or" | "xor" | "shl" | "shr" | "sar" | "divu" | "remu" | "rotl" | "rotr";
export type UnaryOp = "not" | "neg" | "popcnt" | "clz" | "ctz";
export type CompareOp = "eq" | "ne" | "lt" | "ge" | "le" | "gt" | "ltu" | "geu" | "leu" | "gtu";

export type Expr =
  | { readonly k: "const"; readonly value: number }
  | { readonly k: "temp"; readonly temp: Temp }
  /** Register named by a field of the micro-op, sign-extended from `width`; zero-extended if `unsigned`. */
  | { readonly k: "reg"; readonly at: Operand; readonly width: Width; readonly unsigned: boolean }
  /** Register at a fixed byte offset (RAX, RSP ...). */
  | { readonly k: "fixed"; readonly offset: number; readonly width: Width; readonly unsigned: boolean }
  /** The immediate: 32 bits sign-extended, or DISP and IMM as one 64-bit value. */
  | { readonly k: "imm" }
  | { readonly k: "imm64" }
  /** The displacement field, sign-extended. */
  | { readonly k: "disp" }
  /** base + (index << scale) + disp. */
  | { readonly k: "address" }
  | { readonly k: "bin"; readonly op: BinaryOp; readonly a: Expr; readonly b: Expr }
  | { readonly k: "un"; readonly op: UnaryOp; readonly a: Expr }
  /** Sign- or zero-extension from `width`. */
  | { readonly k: "ext"; readonly width: Width; readonly unsigned: boolean; readonly a: Expr }
  | { readonly k: "select"; readonly when: Cond; readonly a: Expr; readonly b: Expr }
  /** A condition as 0 or 1. */
  | { readonly k: "bool"; readonly when: Cond }
  /** The arithmetic bits of RFLAGS (CF PF AF ZF SF OF) in their places. */
  | { readonly k: "flagBits" }
  /** A pure function of the core over i64 values: no memory, no flags, no faults. */
  | { readonly k: "call"; readonly fn: string; readonly args: readonly Expr[] };

export type Cond =
  | { readonly k: "compare"; readonly op: CompareOp; readonly a: Expr; readonly b: Expr }
  /** A condition code over the lazy flags. */
  | { readonly k: "flag"; readonly code: Condition };

/** How an indirect transfer is predicted. */
export type Transfer = "jump" | "call" | "return";

export type Stmt =
  | { readonly s: "let"; readonly temp: Temp; readonly value: Expr }
  | { readonly s: "setReg"; readonly at: Operand; readonly width: Width; readonly value: Expr }
  | { readonly s: "setFixed"; readonly offset: number; readonly width: Width; readonly value: Expr }
  /** temp = memory[address], sign-extended (zero-extended if `unsigned`). Can fault. */
  | { readonly s: "load"; readonly temp: Temp; readonly width: Width; readonly address: Expr; readonly unsigned: boolean }
  /** As load, but the page must be writable; the executor keeps the place for storeBack. Can fault. */
  | { readonly s: "loadForWrite"; readonly temp: Temp; readonly width: Width; readonly address: Expr; readonly unsigned: boolean }
  /** Writes to the place of the preceding loadForWrite. Cannot fault. */
  | { readonly s: "storeBack"; readonly width: Width; readonly value: Expr }
  /** memory[address] = value. Can fault. */
  | { readonly s: "store"; readonly width: Width; readonly address: Expr; readonly value: Expr }
  | { readonly s: "flags"; readonly kind: "add" | "sub"; readonly a: Expr; readonly b: Expr; readonly r: Expr }
  | { readonly s: "flags"; readonly kind: "logic"; readonly r: Expr }
  /** CF and AF from `a` (places as in RFLAGS), OF = sign of `b`, the rest from `r`. */
  | { readonly s: "flags"; readonly kind: "explicit"; readonly a: Expr; readonly b: Expr; readonly r: Expr }
  /** All arithmetic bits from `a`, as in RFLAGS. */
  | { readonly s: "flags"; readonly kind: "raw"; readonly a: Expr }
  | { readonly s: "if"; readonly when: Cond; readonly body: readonly Stmt[] }
  /** Calls a core function `fn(pc, ...args): i32`; a result other than 0 leaves the executor with that LEAVE_* code. Cold ops only. */
  | { readonly s: "status"; readonly fn: string; readonly args: readonly Expr[] }
  /** Raises an exception without error code at this instruction. */
  | { readonly s: "raise"; readonly vector: number }
  /** An address that the return predictor shall expect (CALL). Nothing in the architectural gear. */
  | { readonly s: "pushReturn"; readonly address: Expr }
  // The rest end a body; a body without one goes on with the next micro-op.
  /** To LINK[1] when the condition holds, else to LINK[0]; counts COUNT instructions. */
  | { readonly s: "branch"; readonly when: Cond }
  /** To LINK[1]; counts COUNT instructions. */
  | { readonly s: "jump" }
  /** To the block of a virtual address, through the jump cache; counts COUNT instructions. */
  | { readonly s: "indirect"; readonly target: Expr; readonly via: Transfer };

/**
 * What the detailed gear charges an op: cycles from sources ready to result ready, in the table of the printer. Loads and stores
 * are charged by the cache model on top. `serialize`: waits for everything before it, and nothing after it starts early.
 * `system`: as serialize, and a wrong path ends there.
 */
export type Latency = "move" | "alu" | "shift" | "multiply" | "divide" | "branch" | "bits" | "slow" | "serialize" | "system";

export interface Op {
  readonly name: string;
  /** Cold ops are executed by a second function: rare ones, so that the hot switch stays small. */
  readonly cold: boolean;
  /** 16, or 32 with the branch half. */
  readonly bytes: 16 | 32;
  readonly latency: Latency;
  readonly body: readonly Stmt[];
}

// Builders -------------------------------------------------------------------------------------------------------------------

export function num(value: number): Expr {
  return { k: "const", value };
}
export function temp(name: Temp): Expr {
  return { k: "temp", temp: name };
}
export function reg(at: Operand, width: Width): Expr {
  return { k: "reg", at, width, unsigned: false };
}
export function regUnsigned(at: Operand, width: Width): Expr {
  return { k: "reg", at, width, unsigned: true };
}
export function fixed(offset: number, width: Width): Expr {
  return { k: "fixed", offset, width, unsigned: false };
}
export function fixedUnsigned(offset: number, width: Width): Expr {
  return { k: "fixed", offset, width, unsigned: true };
}
export const imm: Expr = { k: "imm" };
export const imm64: Expr = { k: "imm64" };
export const disp: Expr = { k: "disp" };
export const address: Expr = { k: "address" };
export const flagBits: Expr = { k: "flagBits" };
export function bin(op: BinaryOp, a: Expr, b: Expr): Expr {
  return { k: "bin", op, a, b };
}
export function add(a: Expr, b: Expr): Expr {
  return bin("add", a, b);
}
export function sub(a: Expr, b: Expr): Expr {
  return bin("sub", a, b);
}
export function and(a: Expr, b: Expr): Expr {
  return bin("and", a, b);
}
export function or(a: Expr, b: Expr): Expr {
  return bin("or", a, b);
}
export function xor(a: Expr, b: Expr): Expr {
  return bin("xor", a, b);
}
export function un(op: UnaryOp, a: Expr): Expr {
  return { k: "un", op, a };
}
export function sext(width: Width, a: Expr): Expr {
  return width === 64 ? a : { k: "ext", width, unsigned: false, a };
}
export function zext(width: Width, a: Expr): Expr {
  return width === 64 ? a : { k: "ext", width, unsigned: true, a };
}
export function select(when: Cond, a: Expr, b: Expr): Expr {
  return { k: "select", when, a, b };
}
export function bool(when: Cond): Expr {
  return { k: "bool", when };
}
export function call(fn: string, ...args: Expr[]): Expr {
  return { k: "call", fn, args };
}
export function compare(op: CompareOp, a: Expr, b: Expr): Cond {
  return { k: "compare", op, a, b };
}
export function flag(code: Condition): Cond {
  return { k: "flag", code };
}
export function let_(name: Temp, value: Expr): Stmt {
  return { s: "let", temp: name, value };
}
export function setReg(at: Operand, width: Width, value: Expr): Stmt {
  return { s: "setReg", at, width, value };
}
export function setFixed(offset: number, width: Width, value: Expr): Stmt {
  return { s: "setFixed", offset, width, value };
}
export function load(into: Temp, width: Width, from: Expr, unsigned = false): Stmt {
  return { s: "load", temp: into, width, address: from, unsigned };
}
export function loadForWrite(into: Temp, width: Width, from: Expr, unsigned = false): Stmt {
  return { s: "loadForWrite", temp: into, width, address: from, unsigned };
}
export function storeBack(width: Width, value: Expr): Stmt {
  return { s: "storeBack", width, value };
}
export function store(width: Width, to: Expr, value: Expr): Stmt {
  return { s: "store", width, address: to, value };
}
export function status(fn: string, ...args: Expr[]): Stmt {
  return { s: "status", fn, args };
}

/** Byte offsets of the register file with fixed roles. Checked against the layout by a test. */
export const RAX = 0;
export const RCX = 8;
export const RDX = 16;
export const RBX = 24;
export const RSP = 32;
export const RBP = 40;
export const RSI = 48;
export const RDI = 56;
export const R11 = 88;
export const ZERO = 128;
export const TEMP0 = 136;
export const TEMP1 = 144;
export const PAGE_BASE = 152;
export const FS_BASE = 160;
export const GS_BASE = 168;
export const TEMP2 = 176;
