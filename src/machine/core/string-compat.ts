// String instructions of compatibility mode: element by element, each checked in its segment. The source is in DS or what a prefix names,
// the destination in ES. A repeated one leaves after a portion, as in 64-bit mode.
import { CPU_GENERATION, LEAVE_FAULT, LEAVE_REPEAT, SEG_ES } from "./layout.gen.ts";
import { hostForRead, storeAs } from "./memory.ts";
import { linearOf, NOWHERE } from "./stack.ts";
import {
  accumulator,
  advance,
  compareFlags,
  comparisonGoesOn,
  elementAt,
  RAX,
  RCX,
  RDI,
  RSI,
  readRegister,
  repeats,
  SEGMENT_SHIFT,
  SIZE_MASK,
  stepOf,
  writeRegister,
} from "./string-steps.ts";

/** Most elements of one call. */
const PORTION: u32 = 256;

function bytesOf(how: u32): u32 {
  return 1 << (how & SIZE_MASK);
}

function isDone(how: u32): bool {
  return repeats(how) && readRegister(RCX, how) === 0;
}

/** Host address of the element at `register` in `segment`, or 0. */
function element(register: u32, segment: u32, how: u32): u32 {
  const at = linearOf(segment, readRegister(register, how) as u32, bytesOf(how), false);
  return at === NOWHERE ? 0 : hostForRead(at, bytesOf(how), load<u64>(CPU_GENERATION));
}

function sourceElement(how: u32): u32 {
  return element(RSI, (how >> SEGMENT_SHIFT) & 7, how);
}

function storeElement(how: u32, value: i64): bool {
  const at = linearOf(SEG_ES, readRegister(RDI, how) as u32, bytesOf(how), true);
  return at !== NOWHERE && storeAs(at, bytesOf(how), value, load<u64>(CPU_GENERATION));
}

/** Counts one element. True: another follows. */
function goesOn(how: u32): bool {
  if (!repeats(how)) return false;
  const left = readRegister(RCX, how) - 1;
  writeRegister(RCX, how, left);
  return left !== 0;
}

export function compatMove(how: u32): i32 {
  if (isDone(how)) return 0;
  for (let n: u32 = 0; n < PORTION; n++) {
    const host = sourceElement(how);
    if (host === 0 || !storeElement(how, elementAt(host, how & SIZE_MASK))) return LEAVE_FAULT;
    advance(RSI, how, stepOf(how));
    advance(RDI, how, stepOf(how));
    if (!goesOn(how)) return 0;
  }
  return LEAVE_REPEAT;
}

export function compatStore(how: u32): i32 {
  if (isDone(how)) return 0;
  for (let n: u32 = 0; n < PORTION; n++) {
    if (!storeElement(how, accumulator(how & SIZE_MASK))) return LEAVE_FAULT;
    advance(RDI, how, stepOf(how));
    if (!goesOn(how)) return 0;
  }
  return LEAVE_REPEAT;
}

export function compatLoad(how: u32): i32 {
  if (isDone(how)) return 0;
  for (let n: u32 = 0; n < PORTION; n++) {
    const host = sourceElement(how);
    if (host === 0) return LEAVE_FAULT;
    if (bytesOf(how) === 1) store<u8>(RAX, load<u8>(host));
    else if (bytesOf(how) === 2) store<u16>(RAX, load<u16>(host));
    else store<u64>(RAX, load<u32>(host) as u64);
    advance(RSI, how, stepOf(how));
    if (!goesOn(how)) return 0;
  }
  return LEAVE_REPEAT;
}

export function compatScan(how: u32): i32 {
  if (isDone(how)) return 0;
  const size = how & SIZE_MASK;
  const a = accumulator(size);
  for (let n: u32 = 0; n < PORTION; n++) {
    const host = element(RDI, SEG_ES, how);
    if (host === 0) return LEAVE_FAULT;
    const b = elementAt(host, size);
    compareFlags(a, b, size);
    advance(RDI, how, stepOf(how));
    if (!comparisonGoesOn(how, a === b)) return 0;
  }
  return LEAVE_REPEAT;
}

export function compatCompare(how: u32): i32 {
  if (isDone(how)) return 0;
  const size = how & SIZE_MASK;
  for (let n: u32 = 0; n < PORTION; n++) {
    const first = sourceElement(how);
    if (first === 0) return LEAVE_FAULT;
    const a = elementAt(first, size);
    const second = element(RDI, SEG_ES, how);
    if (second === 0) return LEAVE_FAULT;
    const b = elementAt(second, size);
    compareFlags(a, b, size);
    advance(RSI, how, stepOf(how));
    advance(RDI, how, stepOf(how));
    if (!comparisonGoesOn(how, a === b)) return 0;
  }
  return LEAVE_REPEAT;
}
