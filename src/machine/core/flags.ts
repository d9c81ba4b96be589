// Lazy arithmetic flags: an op leaves operands, result and a kind; a reader computes the bit it wants. Values are sign-extended to
// 64 bits, so the sign of a result is bit 63 at every width, and unsigned order is kept (sign extension is monotone).
import {
  CPU_FLAG_A,
  CPU_FLAG_B,
  CPU_FLAG_KIND,
  CPU_FLAG_R,
  CPU_RFLAGS,
  FLAGS_ADD,
  FLAGS_EXPLICIT,
  FLAGS_LOGIC,
  FLAGS_RAW,
  FLAGS_SUB,
} from "./layout.gen.ts";

export const CF = 0x1;
export const PF = 0x4;
export const AF = 0x10;
export const ZF = 0x40;
export const SF = 0x80;
export const TF = 0x100;
export const IF = 0x200;
export const DF = 0x400;
export const OF = 0x800;
export const IOPL = 0x3000;
export const NT = 0x4000;
export const RF = 0x10000;
export const VM = 0x20000;
export const AC = 0x40000;
export const VIF = 0x80000;
export const VIP = 0x100000;
export const ID = 0x200000;
/** All bits that exist but bit 1; 3, 5 and 15 read as zero (SDM vol. 1, 3.4.3). */
const DEFINED: u64 = 0x3f7fd5;
/** CF PF AF ZF SF OF. */
export const ARITHMETIC = 0x8d5;

/** CF. Also right with carry-in (ADC, SBB), since it looks at the carry out of the top bit. */
export function flagCarry(kind: i32, a: i64, b: i64, r: i64): bool {
  if (kind === FLAGS_SUB) return ((~a & b) | ((~a | b) & r)) < 0;
  if (kind === FLAGS_ADD) return ((a & b) | ((a | b) & ~r)) < 0;
  if (kind === FLAGS_LOGIC) return false;
  return (a & 1) !== 0;
}

export function flagOverflow(kind: i32, a: i64, b: i64, r: i64): bool {
  if (kind === FLAGS_SUB) return ((a ^ b) & (a ^ r)) < 0;
  if (kind === FLAGS_ADD) return ((a ^ r) & (b ^ r)) < 0;
  if (kind === FLAGS_LOGIC) return false;
  if (kind === FLAGS_EXPLICIT) return b < 0;
  return (a & OF) !== 0;
}

function flagZero(kind: i32, a: i64, r: i64): bool {
  return kind !== FLAGS_RAW ? r === 0 : (a & ZF) !== 0;
}

function flagSign(kind: i32, a: i64, r: i64): bool {
  return kind !== FLAGS_RAW ? r < 0 : (a & SF) !== 0;
}

/** PF: even parity of the low byte. */
export function flagParity(kind: i32, a: i64, _b: i64, r: i64): bool {
  if (kind === FLAGS_RAW) return (a & PF) !== 0;
  return (popcnt<i64>(r & 0xff) & 1) === 0;
}

export function flagBelowOrEqual(kind: i32, a: i64, b: i64, r: i64): bool {
  return flagZero(kind, a, r) || flagCarry(kind, a, b, r);
}

export function flagLess(kind: i32, a: i64, b: i64, r: i64): bool {
  return flagSign(kind, a, r) !== flagOverflow(kind, a, b, r);
}

export function flagLessOrEqual(kind: i32, a: i64, b: i64, r: i64): bool {
  return flagZero(kind, a, r) || flagLess(kind, a, b, r);
}

/** The six arithmetic bits in their RFLAGS places. */
export function arithmeticFlags(kind: i32, a: i64, b: i64, r: i64): i64 {
  if (kind === FLAGS_RAW) return a & ARITHMETIC;
  let bits: i64 = 0;
  if (flagCarry(kind, a, b, r)) bits |= CF;
  if (flagOverflow(kind, a, b, r)) bits |= OF;
  if (r === 0) bits |= ZF;
  if (r < 0) bits |= SF;
  if ((popcnt<i64>(r & 0xff) & 1) === 0) bits |= PF;
  if (kind === FLAGS_ADD || kind === FLAGS_SUB) bits |= (a ^ b ^ r) & AF;
  else if (kind === FLAGS_EXPLICIT) bits |= a & AF;
  return bits;
}

/** ZF at an instruction whose flags are in the CPU block. */
export function flagZeroNow(): bool {
  return flagZero(load<i32>(CPU_FLAG_KIND), load<i64>(CPU_FLAG_A), load<i64>(CPU_FLAG_R));
}

/** All of RFLAGS as software sees it. */
export function readFlags(): u64 {
  const bits = arithmeticFlags(load<i32>(CPU_FLAG_KIND), load<i64>(CPU_FLAG_A), load<i64>(CPU_FLAG_B), load<i64>(CPU_FLAG_R));
  return (load<u64>(CPU_RFLAGS) & ~(ARITHMETIC as u64)) | (bits as u64) | 2;
}

/** Sets all of RFLAGS; callers that change IF, TF or AC tell the dispatcher. */
export function writeFlags(value: u64): void {
  store<u64>(CPU_RFLAGS, (value & DEFINED) | 2);
  store<i64>(CPU_FLAG_A, value as i64);
  store<i32>(CPU_FLAG_KIND, FLAGS_RAW);
}
