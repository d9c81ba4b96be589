// What all string instructions share: registers of the address size, the direction, the count of a repetition, comparisons.
import { DF } from "./flags.ts";
import { CPU_FLAG_A, CPU_FLAG_B, CPU_FLAG_KIND, CPU_FLAG_R, CPU_REGS, CPU_RFLAGS, FLAGS_SUB, LEAVE_REPEAT } from "./layout.gen.ts";

export const RAX = CPU_REGS;
export const RCX = CPU_REGS + 8;
export const RSI = CPU_REGS + 48;
export const RDI = CPU_REGS + 56;

/** Bits of the immediate, as in src/machine/isa/ops/string.ts. */
export const SIZE_MASK = 3;
export const REPEAT = 4;
export const REPEAT_NE = 8;
export const ADDRESS32 = 16;
export const ADDRESS16 = 32;
export const SEGMENT_SHIFT: u32 = 8;

export function repeats(how: u32): bool {
  return (how & (REPEAT | REPEAT_NE)) !== 0;
}

export function readRegister(at: u32, how: u32): i64 {
  if (how & ADDRESS16) return load<u16>(at) as i64;
  return how & ADDRESS32 ? (load<u32>(at) as i64) : load<i64>(at);
}

export function writeRegister(at: u32, how: u32, value: i64): void {
  if (how & ADDRESS16) store<u16>(at, value as u16);
  else if (how & ADDRESS32) store<u64>(at, value as u32 as u64);
  else store<i64>(at, value);
}

export function advance(at: u32, how: u32, bytes: i64): void {
  writeRegister(at, how, readRegister(at, how) + bytes);
}

export function goesDown(): bool {
  return (load<u64>(CPU_RFLAGS) & (DF as u64)) !== 0;
}

/** Signed step of one element. */
export function stepOf(how: u32): i64 {
  const bytes: i64 = (1 as i64) << ((how & SIZE_MASK) as i64);
  return goesDown() ? -bytes : bytes;
}

/** What is left to do after `done` elements. */
export function afterPortion(how: u32, done: i64): i32 {
  if (!repeats(how)) return 0;
  const left = readRegister(RCX, how) - done;
  writeRegister(RCX, how, left);
  return left !== 0 ? LEAVE_REPEAT : 0;
}

export function elementAt(host: u32, size: u32): i64 {
  switch (size) {
    case 0:
      return load<i8>(host) as i64;
    case 1:
      return load<i16>(host) as i64;
    case 2:
      return load<i32>(host) as i64;
    default:
      return load<i64>(host);
  }
}

export function accumulator(size: u32): i64 {
  return elementAt(RAX, size);
}

export function compareFlags(a: i64, b: i64, size: u32): void {
  let r = a - b;
  switch (size) {
    case 0:
      r = r as i8 as i64;
      break;
    case 1:
      r = r as i16 as i64;
      break;
    case 2:
      r = r as i32 as i64;
      break;
    default:
      break;
  }
  store<i64>(CPU_FLAG_A, a);
  store<i64>(CPU_FLAG_B, b);
  store<i64>(CPU_FLAG_R, r);
  store<i32>(CPU_FLAG_KIND, FLAGS_SUB);
}

/** After one comparison: whether the repetition goes on, by the prefix. Decrements the count. */
export function comparisonGoesOn(how: u32, equal: bool): bool {
  if (!repeats(how)) return false;
  const left = readRegister(RCX, how) - 1;
  writeRegister(RCX, how, left);
  if (left === 0) return false;
  return how & REPEAT_NE ? !equal : equal;
}
