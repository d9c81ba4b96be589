// String instructions. A repeated one does at most one page of each operand per call and says LEAVE_REPEAT while elements remain, so
// that it can be interrupted, and restarted from its registers, as on silicon. Going down (DF = 1) is done element by element.

import { frameHasCode } from "./blocks.ts";
import { BOUNCE_REGION, CPU_GENERATION, LEAVE_FAULT, LEAVE_REPEAT, SOFT_ADDEND, SOFT_WRITE } from "./layout.gen.ts";
import { hostForRead, slowReadForWrite, softEntry, storeAs } from "./memory.ts";
import { isBounce, physicalOf } from "./physical.ts";
import { portHostAccess } from "./port.gen.ts";
import { isCompat } from "./stack.ts";
import { compatCompare, compatLoad, compatMove, compatScan, compatStore } from "./string-compat.ts";
import {
  accumulator,
  advance,
  afterPortion,
  compareFlags,
  comparisonGoesOn,
  elementAt,
  goesDown,
  RAX,
  RCX,
  RDI,
  RSI,
  readRegister,
  repeats,
  SIZE_MASK,
  stepOf,
} from "./string-steps.ts";

/** Most elements of one call of a comparing instruction. */
const PORTION: i64 = 4096;

/** Elements that remain before the page of `va` ends, going up; 0 if the first crosses. */
function elementsInPage(va: i64, size: u32): i64 {
  return ((4096 - (va & 0xfff)) as i64) >> (size as i64);
}

function minimum(a: i64, b: i64): i64 {
  return a < b ? a : b;
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

export function movsString(_pc: usize, imm: i64, base: i64): i32 {
  const how = imm as u32;
  if (isCompat()) return compatMove(how);
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
  if (isCompat()) return compatStore(how);
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
  if (isCompat()) return compatLoad(how);
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

export function scasString(_pc: usize, imm: i64, _base: i64): i32 {
  const how = imm as u32;
  if (isCompat()) return compatScan(how);
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
  if (isCompat()) return compatCompare(how);
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
