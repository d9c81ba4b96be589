// String instructions. A repeated one does at most one page of each operand per call and says LEAVE_REPEAT while elements remain, so
// that it can be interrupted, and restarted from its registers, as on silicon. Going down (DF = 1) is done element by element.

import { frameHasCode } from "./blocks.ts";
import { DF } from "./flags.ts";
import {
  BOUNCE_REGION,
  CPU_FLAG_A,
  CPU_FLAG_B,
  CPU_FLAG_KIND,
  CPU_FLAG_R,
  CPU_GENERATION,
  CPU_REGS,
  CPU_RFLAGS,
  FLAGS_SUB,
  LEAVE_FAULT,
  LEAVE_REPEAT,
  SOFT_ADDEND,
  SOFT_WRITE,
} from "./layout.gen.ts";
import { hostForRead, slowReadForWrite, softEntry, storeAs } from "./memory.ts";
import { isBounce, physicalOf } from "./physical.ts";
import { portHostAccess } from "./port.gen.ts";

const RAX = CPU_REGS;
const RCX = CPU_REGS + 8;
const RSI = CPU_REGS + 48;
const RDI = CPU_REGS + 56;

/** Bits of the immediate, as in src/machine/isa/ops/string.ts. */
const SIZE_MASK = 3;
const REPEAT = 4;
const REPEAT_NE = 8;
const ADDRESS32 = 16;

/** Most elements of one call of a comparing instruction. */
const PORTION: i64 = 4096;

function repeats(how: u32): bool {
  return (how & (REPEAT | REPEAT_NE)) !== 0;
}

function readRegister(at: u32, how: u32): i64 {
  return how & ADDRESS32 ? (load<u32>(at) as i64) : load<i64>(at);
}

function writeRegister(at: u32, how: u32, value: i64): void {
  if (how & ADDRESS32) store<u64>(at, value as u32 as u64);
  else store<i64>(at, value);
}

function advance(at: u32, how: u32, bytes: i64): void {
  writeRegister(at, how, readRegister(at, how) + bytes);
}

function goesDown(): bool {
  return (load<u64>(CPU_RFLAGS) & (DF as u64)) !== 0;
}

/** Signed step of one element. */
function stepOf(how: u32): i64 {
  const bytes: i64 = (1 as i64) << ((how & SIZE_MASK) as i64);
  return goesDown() ? -bytes : bytes;
}

/** Elements that remain before the page of `va` ends, going up; 0 if the first crosses. */
function elementsInPage(va: i64, size: u32): i64 {
  return ((4096 - (va & 0xfff)) as i64) >> (size as i64);
}

function minimum(a: i64, b: i64): i64 {
  return a < b ? a : b;
}

/** What is left to do after `done` elements. */
function afterPortion(how: u32, done: i64): i32 {
  if (!repeats(how)) return 0;
  const left = readRegister(RCX, how) - done;
  writeRegister(RCX, how, left);
  return left !== 0 ? LEAVE_REPEAT : 0;
}

/** Host address to write `bytes` of one page, 0 on a fault; BOUNCE when the frame holds code and bytes must be announced. */
function hostForWrite(va: i64, _bytes: u32): u32 {
  const entry = softEntry(va);
  if (load<u64>(entry, SOFT_WRITE) === (((va & ~0xfff) as u64) | load<u64>(CPU_GENERATION)))
    return (va as u32) + load<u32>(entry, SOFT_ADDEND);
  const host = slowReadForWrite(va, 1);
  if (host === 0) return 0;
  return isBounce(host) || frameHasCode(physicalOf(host)) ? BOUNCE_REGION : host;
}

function readElement(va: i64, size: u32): u32 {
  return hostForRead(va, 1 << size, load<u64>(CPU_GENERATION));
}

function elementAt(host: u32, size: u32): i64 {
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

function accumulator(size: u32): i64 {
  return elementAt(RAX, size);
}

export function movsString(_pc: usize, imm: i64, base: i64): i32 {
  const how = imm as u32;
  const size = how & SIZE_MASK;
  const count = repeats(how) ? readRegister(RCX, how) : 1;
  if (count === 0) return 0;
  const from = readRegister(RSI, how) + base;
  const to = readRegister(RDI, how);
  let n: i64 = 0;
  if (!goesDown()) {
    n = minimum((count as u64) > 4096 ? 4096 : count, minimum(elementsInPage(from, size), elementsInPage(to, size)));
    if (n !== 0) {
      const bytes = (n << (size as i64)) as u32;
      const source = hostForRead(from, bytes, load<u64>(CPU_GENERATION));
      if (source === 0) return LEAVE_FAULT;
      const target = hostForWrite(to, bytes);
      if (target === 0) return LEAVE_FAULT;
      if (target === BOUNCE_REGION) n = 0;
      else {
        portHostAccess(target, bytes, true);
        copyUp(target, source, bytes, size);
      }
    }
  }
  if (n === 0) {
    const source = readElement(from, size);
    if (source === 0) return LEAVE_FAULT;
    if (!storeAs(to, 1 << size, elementAt(source, size), load<u64>(CPU_GENERATION))) return LEAVE_FAULT;
    n = 1;
  }
  const moved = n * stepOf(how);
  advance(RSI, how, moved);
  advance(RDI, how, moved);
  return afterPortion(how, n);
}

/** Element after element, upwards: where the target overlaps the source from above, earlier elements are read again as written. */
function copyUp(target: u32, source: u32, bytes: u32, size: u32): void {
  if (target <= source || target >= source + bytes) {
    memory.copy(target, source, bytes);
    return;
  }
  for (let n: u32 = 0; n < bytes; n += 1 << size) {
    switch (size) {
      case 0:
        store<u8>(target + n, load<u8>(source + n));
        break;
      case 1:
        store<u16>(target + n, load<u16>(source + n));
        break;
      case 2:
        store<u32>(target + n, load<u32>(source + n));
        break;
      default:
        store<u64>(target + n, load<u64>(source + n));
        break;
    }
  }
}

export function stosString(_pc: usize, imm: i64, _base: i64): i32 {
  const how = imm as u32;
  const size = how & SIZE_MASK;
  const count = repeats(how) ? readRegister(RCX, how) : 1;
  if (count === 0) return 0;
  const to = readRegister(RDI, how);
  let n: i64 = 0;
  if (!goesDown()) {
    n = minimum((count as u64) > 4096 ? 4096 : count, elementsInPage(to, size));
    if (n !== 0) {
      const bytes = (n << (size as i64)) as u32;
      const target = hostForWrite(to, bytes);
      if (target === 0) return LEAVE_FAULT;
      if (target === BOUNCE_REGION) n = 0;
      else {
        portHostAccess(target, bytes, true);
        fill(target, bytes, size);
      }
    }
  }
  if (n === 0) {
    if (!storeAs(to, 1 << size, accumulator(size), load<u64>(CPU_GENERATION))) return LEAVE_FAULT;
    n = 1;
  }
  advance(RDI, how, n * stepOf(how));
  return afterPortion(how, n);
}

function fill(target: u32, bytes: u32, size: u32): void {
  if (size === 0) {
    memory.fill(target, load<u8>(RAX), bytes);
    return;
  }
  for (let n: u32 = 0; n < bytes; n += 1 << size) {
    switch (size) {
      case 1:
        store<u16>(target + n, load<u16>(RAX));
        break;
      case 2:
        store<u32>(target + n, load<u32>(RAX));
        break;
      default:
        store<u64>(target + n, load<u64>(RAX));
        break;
    }
  }
}

export function lodsString(_pc: usize, imm: i64, base: i64): i32 {
  const how = imm as u32;
  const size = how & SIZE_MASK;
  if (repeats(how) && readRegister(RCX, how) === 0) return 0;
  const host = readElement(readRegister(RSI, how) + base, size);
  if (host === 0) return LEAVE_FAULT;
  switch (size) {
    case 0:
      store<u8>(RAX, load<u8>(host));
      break;
    case 1:
      store<u16>(RAX, load<u16>(host));
      break;
    case 2:
      store<u64>(RAX, load<u32>(host) as u64);
      break;
    default:
      store<u64>(RAX, load<u64>(host));
      break;
  }
  advance(RSI, how, stepOf(how));
  return afterPortion(how, 1);
}

function compareFlags(a: i64, b: i64, size: u32): void {
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
function comparisonGoesOn(how: u32, equal: bool): bool {
  if (!repeats(how)) return false;
  const left = readRegister(RCX, how) - 1;
  writeRegister(RCX, how, left);
  if (left === 0) return false;
  return how & REPEAT_NE ? !equal : equal;
}

export function scasString(_pc: usize, imm: i64, _base: i64): i32 {
  const how = imm as u32;
  const size = how & SIZE_MASK;
  if (repeats(how) && readRegister(RCX, how) === 0) return 0;
  const a = accumulator(size);
  for (let n: i64 = 0; n < PORTION; n++) {
    const host = readElement(readRegister(RDI, how), size);
    if (host === 0) return LEAVE_FAULT;
    const b = elementAt(host, size);
    compareFlags(a, b, size);
    advance(RDI, how, stepOf(how));
    if (!comparisonGoesOn(how, a === b)) return 0;
  }
  return LEAVE_REPEAT;
}

export function cmpsString(_pc: usize, imm: i64, base: i64): i32 {
  const how = imm as u32;
  const size = how & SIZE_MASK;
  if (repeats(how) && readRegister(RCX, how) === 0) return 0;
  for (let n: i64 = 0; n < PORTION; n++) {
    const first = readElement(readRegister(RSI, how) + base, size);
    if (first === 0) return LEAVE_FAULT;
    const a = elementAt(first, size);
    const second = readElement(readRegister(RDI, how), size);
    if (second === 0) return LEAVE_FAULT;
    const b = elementAt(second, size);
    compareFlags(a, b, size);
    advance(RSI, how, stepOf(how));
    advance(RDI, how, stepOf(how));
    if (!comparisonGoesOn(how, a === b)) return 0;
  }
  return LEAVE_REPEAT;
}
