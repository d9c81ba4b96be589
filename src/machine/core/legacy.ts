// Instructions that 64-bit mode does not have: decimal and ASCII adjustment, BOUND, SALC. SDM vol. 2. (INTO is in
// events.ts, ARPL is an op.)
import { fault } from "./faults.ts";
import { AF, ARITHMETIC, CF, PF, readFlags, SF, ZF } from "./flags.ts";
import { CPU_FLAG_A, CPU_FLAG_KIND, CPU_REGS, CPU_TEMP1, CPU_TEMP2, FLAGS_RAW } from "./layout.gen.ts";
import { VECTOR_BR, VECTOR_DE } from "./mmu.ts";
import { sizeOf } from "./stack.ts";

const AL = CPU_REGS;
const AH = CPU_REGS + 1;

function setFlags(bits: u32): i32 {
  store<i64>(CPU_FLAG_A, ((readFlags() & ~(ARITHMETIC as u64)) | (bits as u64)) as i64);
  store<i32>(CPU_FLAG_KIND, FLAGS_RAW);
  return 0;
}

/** ZF SF PF of a byte. */
function resultFlags(value: u32): u32 {
  let bits: u32 = 0;
  if ((value & 0xff) === 0) bits |= ZF;
  if (value & 0x80) bits |= SF;
  if ((popcnt<u32>(value & 0xff) & 1) === 0) bits |= PF;
  return bits;
}

/** AAA and AAS: 0x106 is added to AX, or taken away. */
function asciiAdjust(sign: u32): i32 {
  const adjusts = (load<u8>(AL) & 0xf) > 9 || (readFlags() & (AF as u64)) !== 0;
  if (adjusts) store<u16>(AL, (load<u16>(AL) as u32) + 0x106 * sign);
  store<u8>(AL, load<u8>(AL) & 0xf);
  return setFlags((adjusts ? AF | CF : 0) | resultFlags(load<u8>(AL) as u32));
}

export function asciiAdjustAddition(_pc: usize): i32 {
  return asciiAdjust(1);
}

export function asciiAdjustSubtraction(_pc: usize): i32 {
  return asciiAdjust(-1 as u32);
}

export function decimalAdjustAddition(_pc: usize): i32 {
  const old = load<u8>(AL) as u32;
  const flags = readFlags() as u32;
  let value = old;
  let bits: u32 = 0;
  if ((old & 0xf) > 9 || flags & AF) {
    value += 6;
    bits |= AF;
  }
  if (old > 0x99 || flags & CF) {
    value += 0x60;
    bits |= CF;
  }
  store<u8>(AL, value as u8);
  return setFlags(bits | resultFlags(value));
}

export function decimalAdjustSubtraction(_pc: usize): i32 {
  const old = load<u8>(AL) as u32;
  const flags = readFlags() as u32;
  let value = old;
  let bits: u32 = 0;
  if ((old & 0xf) > 9 || flags & AF) {
    value -= 6;
    bits |= AF;
    // A borrow of the low digit is a carry too.
    if (flags & CF || old < 6) bits |= CF;
  }
  if (old > 0x99 || flags & CF) {
    value -= 0x60;
    bits |= CF;
  }
  store<u8>(AL, value as u8);
  return setFlags(bits | resultFlags(value));
}

export function asciiAdjustMultiplication(_pc: usize, base: i64): i32 {
  const divisor = base as u32;
  if (divisor === 0) return fault(VECTOR_DE, 0);
  const value = load<u8>(AL) as u32;
  store<u8>(AH, (value / divisor) as u8);
  store<u8>(AL, (value % divisor) as u8);
  return setFlags(resultFlags(load<u8>(AL) as u32));
}

export function asciiAdjustDivision(_pc: usize, base: i64): i32 {
  const value = (load<u8>(AL) as u32) + (load<u8>(AH) as u32) * (base as u32);
  store<u16>(AL, (value & 0xff) as u16);
  return setFlags(resultFlags(value));
}

/** SALC (D6; not in the SDM, on every processor): AL = CF ? 0xff : 0. */
export function setAlFromCarry(_pc: usize): i32 {
  store<u8>(AL, readFlags() & (CF as u64) ? 0xff : 0);
  return 0;
}

/** BOUND: limits, sign-extended to 32 bits, in TEMP1 and TEMP2. */
export function checkBound(pc: usize, index: i64): i32 {
  const value = sizeOf(pc) === 2 ? (index as i16 as i32) : (index as i32);
  return value < load<i32>(CPU_TEMP1) || value > load<i32>(CPU_TEMP2) ? fault(VECTOR_BR, 0) : 0;
}
