// Addresses in segments, outside 64-bit mode (SDM vol. 3, 3.4 and 6.3): limit and type are checked, the base is added, the sum has 32 bits.
// And the stack of every mode: in 64-bit mode RSP as it is, else ESP or SP in SS.
import { ACCESS_BIG, ACCESS_UNUSABLE } from "./context.ts";
import { fault } from "./faults.ts";
import {
  CPU_CODE_MODE,
  CPU_FS_BASE,
  CPU_GENERATION,
  CPU_GS_BASE,
  CPU_PAGE_BASE,
  CPU_REGS,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_TEMP0,
  CPU_TEMP1,
  LEAVE_FAULT,
  SEG_CS,
  SEG_FS,
  SEG_GS,
  SEG_SS,
  SHARED_SCRATCH,
  UOP_DST,
  UOP_SCALE,
} from "./layout.gen.ts";
import { hostForRead, storeAs } from "./memory.ts";
import { VECTOR_GP, VECTOR_SS } from "./mmu.ts";

const RSP = CPU_REGS + 32;
const RBP = CPU_REGS + 40;
/** Not a canonical address: the access was refused, and a fault is recorded. */
export const NOWHERE: i64 = i64.MIN_VALUE;
const TYPE_CODE: u32 = 8;
const TYPE_READ_OR_WRITE: u32 = 2;
const TYPE_EXPAND_DOWN: u32 = 4;

export function isCompat(): bool {
  return load<u32>(CPU_CODE_MODE) !== 0;
}

export function segmentBase(segment: u32): u64 {
  if (segment === SEG_FS) return load<u64>(CPU_FS_BASE);
  if (segment === SEG_GS) return load<u64>(CPU_GS_BASE);
  return load<u64>(CPU_SEG_BASE + segment * 8);
}

/** CS base: what an instruction pointer is relative to. 0 in 64-bit mode, whatever the register holds. */
export function codeBase(): u64 {
  return isCompat() ? load<u64>(CPU_SEG_BASE + SEG_CS * 8) : 0;
}

function refuses(segment: u32, offset: u32, bytes: u32, isWrite: bool): bool {
  const access = load<u32>(CPU_SEG_ACCESS + segment * 4);
  if (access & ACCESS_UNUSABLE) return true;
  const isCode = (access & TYPE_CODE) !== 0;
  if (isWrite && (isCode || !(access & TYPE_READ_OR_WRITE))) return true;
  if (!isWrite && isCode && !(access & TYPE_READ_OR_WRITE)) return true;
  const limit = load<u32>(CPU_SEG_LIMIT + segment * 4) as u64;
  const last = (offset as u64) + (bytes as u64) - 1;
  if (!isCode && access & TYPE_EXPAND_DOWN) return (offset as u64) <= limit || last > (access & ACCESS_BIG ? 0xffffffff : 0xffff);
  return last > limit;
}

/** Linear address of `bytes` at `offset` in `segment` (SEG_*) of compatibility mode, or NOWHERE with #GP(0) or #SS(0) recorded. */
export function linearOf(segment: u32, offset: u32, bytes: u32, isWrite: bool): i64 {
  if (refuses(segment, offset, bytes, isWrite)) {
    fault(segment === SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
    return NOWHERE;
  }
  return ((segmentBase(segment) + (offset as u64)) & 0xffffffff) as i64;
}

/** Of a memory operand: the effective address becomes a linear one, in TEMP0. imm: segment, bytes << 4, 0x1000 for a write. */
export function segmentAddress(_pc: usize, how: i64, offset: i64): i32 {
  const linear = linearOf((how as u32) & 7, offset as u32, ((how as u32) >> 4) & 0xff, (how & 0x1000) !== 0);
  if (linear === NOWHERE) return LEAVE_FAULT;
  store<i64>(CPU_TEMP0, linear);
  return 0;
}

/** An instruction whose last byte, before `end` relative to the page, lies beyond the limit of CS is not fetched. */
export function checkFetch(_pc: usize, end: i64): i32 {
  const last = (((load<u64>(CPU_PAGE_BASE) + (end as u64) - 1) & 0xffffffff) - codeBase()) & 0xffffffff;
  return last > (load<u32>(CPU_SEG_LIMIT + SEG_CS * 4) as u64) ? fault(VECTOR_GP, 0) : 0;
}

// The stack ------------------------------------------------------------------------------------------------------------------------

/** Bits of the stack pointer. */
export function stackMask(): u64 {
  if (!isCompat()) return u64.MAX_VALUE;
  return load<u32>(CPU_SEG_ACCESS + SEG_SS * 4) & ACCESS_BIG ? 0xffffffff : 0xffff;
}

/** Linear address of `bytes` at `offset` from the stack pointer, or NOWHERE with #SS(0) recorded. */
export function stackAddress(offset: i64, bytes: u32, isWrite: bool): i64 {
  const at = (load<u64>(RSP) + (offset as u64)) & stackMask();
  return isCompat() ? linearOf(SEG_SS, at as u32, bytes, isWrite) : (at as i64);
}

/** Sets the stack pointer, of which a 16-bit stack has only the low half. */
export function setStackPointer(value: u64): void {
  const mask = stackMask();
  if (mask === 0xffff) store<u16>(RSP, value as u16);
  else store<u64>(RSP, value & mask);
}

export function moveStack(bytes: i64): void {
  setStackPointer(load<u64>(RSP) + (bytes as u64));
}

/** Host address of `bytes` at `offset` from the stack pointer, or 0 with a fault recorded. */
export function stackRead(offset: i64, bytes: u32): u32 {
  const at = stackAddress(offset, bytes, false);
  return at === NOWHERE ? 0 : hostForRead(at, bytes, load<u64>(CPU_GENERATION));
}

/** Writes at `offset` from the stack pointer; false with a fault recorded. */
export function stackWrite(offset: i64, bytes: u32, value: u64): bool {
  const at = stackAddress(offset, bytes, true);
  return at !== NOWHERE && storeAs(at, bytes, value as i64, load<u64>(CPU_GENERATION));
}

export function valueAt(host: u32, bytes: u32): u64 {
  return bytes === 2 ? (load<u16>(host) as u64) : bytes === 4 ? (load<u32>(host) as u64) : load<u64>(host);
}

/** Operand size of a micro-op that a function performs; 8 where the translator gave none. */
export function sizeOf(pc: usize): u32 {
  const bytes = load<u8>(pc, UOP_SCALE) as u32;
  return bytes === 0 ? 8 : bytes;
}

/** Writes a register of `bytes`: 32 bits clear the upper half, 16 keep the rest. */
export function setSized(at: u32, bytes: u32, value: u64): void {
  if (bytes === 2) store<u16>(at, value as u16);
  else store<u64>(at, bytes === 4 ? value & 0xffffffff : value);
}

export function stackPush(pc: usize, value: i64): i32 {
  const bytes = sizeOf(pc);
  if (!stackWrite(-(bytes as i64), bytes, value as u64)) return LEAVE_FAULT;
  moveStack(-(bytes as i64));
  return 0;
}

/** POP to a register: it gets the value after the increment, which matters when it is the stack pointer. */
export function stackPop(pc: usize): i32 {
  const bytes = sizeOf(pc);
  const host = stackRead(0, bytes);
  if (host === 0) return LEAVE_FAULT;
  const value = valueAt(host, bytes);
  moveStack(bytes as i64);
  setSized(CPU_REGS + (load<u8>(pc, UOP_DST) as u32), bytes, value);
  return 0;
}

/** The value on top goes to TEMP1; nothing moves. */
export function stackPeek(pc: usize): i32 {
  const bytes = sizeOf(pc);
  const host = stackRead(0, bytes);
  if (host === 0) return LEAVE_FAULT;
  store<u64>(CPU_TEMP1, valueAt(host, bytes));
  return 0;
}

export function stackDrop(pc: usize): i32 {
  moveStack(sizeOf(pc) as i64);
  return 0;
}

/** PUSHA, PUSHAD: eight registers in the order of their numbers; ESP as it was. */
export function pushAll(pc: usize): i32 {
  const bytes = sizeOf(pc);
  for (let n: u32 = 0; n < 8; n++) {
    if (!stackWrite(-((bytes * (n + 1)) as i64), bytes, load<u64>(CPU_REGS + n * 8))) return LEAVE_FAULT;
  }
  moveStack(-((bytes * 8) as i64));
  return 0;
}

/** POPA, POPAD: the place of ESP is skipped. */
export function popAll(pc: usize): i32 {
  const bytes = sizeOf(pc);
  for (let n: u32 = 0; n < 8; n++) {
    const host = stackRead((bytes * n) as i64, bytes);
    if (host === 0) return LEAVE_FAULT;
    store<u64>(SHARED_SCRATCH + n * 8, valueAt(host, bytes));
  }
  moveStack((bytes * 8) as i64);
  for (let n: u32 = 0; n < 8; n++) {
    const register = 7 - n;
    if (register !== 4) setSized(CPU_REGS + register * 8, bytes, load<u64>(SHARED_SCRATCH + n * 8));
  }
  return 0;
}

/** ENTER: `level` outer frame pointers are copied, found through EBP in SS. */
export function enterFrame(pc: usize, frameBytes: i64, level: i64): i32 {
  const bytes = sizeOf(pc);
  const size = bytes as i64;
  if (!stackWrite(-size, bytes, load<u64>(RBP))) return LEAVE_FAULT;
  const framePointer = (load<u64>(RSP) - (size as u64)) & stackMask();
  let at = -size;
  for (let n: i64 = 1; n < level; n++) {
    const outer = linearOf(SEG_SS, ((load<u64>(RBP) - ((size * n) as u64)) & stackMask()) as u32, bytes, false);
    if (outer === NOWHERE) return LEAVE_FAULT;
    const host = hostForRead(outer, bytes, load<u64>(CPU_GENERATION));
    if (host === 0) return LEAVE_FAULT;
    at -= size;
    if (!stackWrite(at, bytes, valueAt(host, bytes))) return LEAVE_FAULT;
  }
  if (level > 0) {
    at -= size;
    if (!stackWrite(at, bytes, framePointer)) return LEAVE_FAULT;
  }
  setSized(RBP, bytes, framePointer);
  moveStack(at - frameBytes);
  return 0;
}

/** LEAVE: the stack pointer becomes EBP (BP on a 16-bit stack), then EBP is popped. */
export function leaveFrame(pc: usize): i32 {
  const bytes = sizeOf(pc);
  const at = load<u64>(RBP) & stackMask();
  const linear = isCompat() ? linearOf(SEG_SS, at as u32, bytes, false) : (at as i64);
  if (linear === NOWHERE) return LEAVE_FAULT;
  const host = hostForRead(linear, bytes, load<u64>(CPU_GENERATION));
  if (host === 0) return LEAVE_FAULT;
  const value = valueAt(host, bytes);
  setStackPointer(at + (bytes as u64));
  setSized(RBP, bytes, value);
  return 0;
}
