// Segments and descriptors (SDM vol. 3, 3.4 and 3.5) as far as 64-bit mode uses them: code segments for the privilege level, FS and GS
// for their bases, TR for the task-state segment.
import { CR4_FSGSBASE, refreshMode } from "./context.ts";
import { fault } from "./faults.ts";
import {
  CPU_CONTEXT_BASE,
  CPU_CPL,
  CPU_CR4,
  CPU_FS_BASE,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_GENERATION,
  CPU_GS_BASE,
  CPU_REGS,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  CPU_SHADOW,
  LEAVE_FAULT,
  LEAVE_NEXT,
  SEG_CS,
  SEG_FS,
  SEG_GS,
  SEG_LDTR,
  SEG_SS,
  SEG_TR,
  SHARED_SCRATCH,
  UOP_DST,
} from "./layout.gen.ts";
import { hostForRead, slowRead, storeAs } from "./memory.ts";
import { VECTOR_GP, VECTOR_NP, VECTOR_SS, VECTOR_UD } from "./mmu.ts";

const ACCESS_UNUSABLE: u32 = 0x10000;
const DESCRIPTOR_PRESENT: u64 = 0x800000000000;
const DESCRIPTOR_CODE_OR_DATA: u64 = 0x100000000000;
const DESCRIPTOR_CODE: u64 = 0x80000000000;
const DESCRIPTOR_CONFORMING: u64 = 0x40000000000;
const DESCRIPTOR_WRITABLE: u64 = 0x20000000000;
const DESCRIPTOR_LONG: u64 = 0x20000000000000;
const RSP_OFFSET = 32;

/** Reads the descriptor of `selector` into SHARED_SCRATCH (and the next quadword behind it). 0, or a LEAVE_* code. */
export function readDescriptor(selector: u32, vector: u32, bytes: u32): i32 {
  const index = selector & 0xfff8;
  if (selector & 4 || index + bytes - 1 > load<u32>(CPU_GDTR_LIMIT)) return fault(vector, selector & 0xfffc);
  const host = hostForRead((load<u64>(CPU_GDTR_BASE) + (index as u64)) as i64, bytes, load<u32>(CPU_CONTEXT_BASE) as u64);
  if (host === 0) return LEAVE_FAULT;
  store<u64>(SHARED_SCRATCH, load<u64>(host));
  if (bytes > 8) store<u64>(SHARED_SCRATCH + 8, load<u64>(host, 8));
  return 0;
}

export function descriptorBase(descriptor: u64): u64 {
  return ((descriptor >> 16) & 0xffffff) | ((descriptor >> 32) & 0xff000000);
}

function descriptorLimit(descriptor: u64): u32 {
  const limit = ((descriptor & 0xffff) | ((descriptor >> 32) & 0xf0000)) as u32;
  return descriptor & 0x80000000000000 ? (limit << 12) | 0xfff : limit;
}

export function descriptorAccess(descriptor: u64): u32 {
  return ((descriptor >> 40) & 0xf0ff) as u32;
}

export function descriptorDpl(descriptor: u64): u32 {
  return ((descriptor >> 45) & 3) as u32;
}

/** Fills the hidden part of a segment register. */
export function setSegment(segment: u32, selector: u32, descriptor: u64): void {
  store<u32>(CPU_SEG_SELECTOR + segment * 4, selector);
  store<u32>(CPU_SEG_LIMIT + segment * 4, descriptorLimit(descriptor));
  store<u32>(CPU_SEG_ACCESS + segment * 4, descriptorAccess(descriptor));
  setBase(segment, descriptorBase(descriptor));
}

function setBase(segment: u32, base: u64): void {
  if (segment === SEG_FS) store<u64>(CPU_FS_BASE, base);
  else if (segment === SEG_GS) store<u64>(CPU_GS_BASE, base);
  else store<u64>(CPU_SEG_BASE + segment * 8, base);
}

export function setFlatSegment(segment: u32, selector: u32, access: u32): void {
  store<u32>(CPU_SEG_SELECTOR + segment * 4, selector);
  store<u32>(CPU_SEG_LIMIT + segment * 4, 0xffffffff);
  store<u32>(CPU_SEG_ACCESS + segment * 4, access);
  setBase(segment, 0);
}

export function setNullSegment(segment: u32, selector: u32): void {
  store<u32>(CPU_SEG_SELECTOR + segment * 4, selector);
  store<u32>(CPU_SEG_ACCESS + segment * 4, ACCESS_UNUSABLE | ((selector & 3) << 5));
  store<u32>(CPU_SEG_LIMIT + segment * 4, 0);
}

/**
 * Checks that `selector` names a 64-bit code segment and leaves its descriptor in SHARED_SCRATCH. Compatibility mode is not
 * implemented: a 32-bit code segment is refused with #GP.
 */
export function checkCodeSegment(selector: u32, vector: u32): i32 {
  if ((selector & 0xfffc) === 0) return fault(vector, 0);
  const code = readDescriptor(selector, vector, 8);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const isCode = (descriptor & DESCRIPTOR_CODE_OR_DATA) !== 0 && (descriptor & DESCRIPTOR_CODE) !== 0;
  if (!isCode || !(descriptor & DESCRIPTOR_LONG)) return fault(vector, selector & 0xfffc);
  if (!(descriptor & DESCRIPTOR_PRESENT)) return fault(VECTOR_NP, selector & 0xfffc);
  return 0;
}

export function isConforming(descriptor: u64): bool {
  return (descriptor & DESCRIPTOR_CONFORMING) !== 0;
}

/** Sets CS and CPL. */
export function enterCodeSegment(selector: u32, descriptor: u64, cpl: u32): void {
  setSegment(SEG_CS, (selector & ~3) | cpl, descriptor);
  store<u32>(CPU_CPL, cpl);
  refreshMode();
}

/** MOV to a segment register. SDM vol. 2, MOV: loading SS holds interrupts back for one instruction. */
export function loadSegment(_pc: usize, segment: i64, value: i64): i32 {
  const selector = (value as u32) & 0xffff;
  const number = segment as u32;
  if (number === SEG_CS) return fault(VECTOR_UD, 0);
  if ((selector & 0xfffc) === 0) {
    if (number === SEG_SS && (load<u32>(CPU_CPL) === 3 || (selector & 3) !== load<u32>(CPU_CPL))) return fault(VECTOR_GP, 0);
    // The base of a null FS or GS: Intel clears it, AMD keeps it. As Intel.
    if (number >= (SEG_FS as u32)) setBase(number, 0);
    setNullSegment(number, selector);
  } else {
    const code = readDescriptor(selector, VECTOR_GP, 8);
    if (code !== 0) return code;
    const descriptor = load<u64>(SHARED_SCRATCH);
    const refused = refusesSegment(number, selector, descriptor);
    if (refused) return fault(VECTOR_GP, selector & 0xfffc);
    if (!(descriptor & DESCRIPTOR_PRESENT)) return fault(number === SEG_SS ? VECTOR_SS : VECTOR_NP, selector & 0xfffc);
    setSegment(number, selector, descriptor);
  }
  if (number !== SEG_SS) return 0;
  store<u32>(CPU_SHADOW, 1);
  return LEAVE_NEXT;
}

function refusesSegment(number: u32, selector: u32, descriptor: u64): bool {
  if (!(descriptor & DESCRIPTOR_CODE_OR_DATA)) return true;
  const isCode = (descriptor & DESCRIPTOR_CODE) !== 0;
  const dpl = descriptorDpl(descriptor);
  const cpl = load<u32>(CPU_CPL);
  const rpl = selector & 3;
  if (number === SEG_SS) return isCode || !(descriptor & DESCRIPTOR_WRITABLE) || rpl !== cpl || dpl !== cpl;
  if (isCode) return !(descriptor & DESCRIPTOR_WRITABLE) || (!(descriptor & DESCRIPTOR_CONFORMING) && (rpl > dpl || cpl > dpl));
  return rpl > dpl || cpl > dpl;
}

export function loadSegmentMemory(pc: usize, segment: i64, va: i64): i32 {
  const host = slowRead(va, 2);
  return host === 0 ? LEAVE_FAULT : loadSegment(pc, segment, load<u16>(host) as i64);
}

/** MOV r, Sreg; also SLDT and STR to a register (imm: SEG_*, plus 16: 16-bit destination). */
export function storeSelector(pc: usize, segment: i64): i32 {
  const selector = load<u32>(CPU_SEG_SELECTOR + ((segment as u32) & 15) * 4);
  if (segment & 16) store<u16>(load<u8>(pc, UOP_DST), selector as u16, CPU_REGS);
  else store<u64>(load<u8>(pc, UOP_DST), selector as u64, CPU_REGS);
  return 0;
}

export function storeSelectorMemory(_pc: usize, segment: i64, va: i64): i32 {
  const selector = load<u32>(CPU_SEG_SELECTOR + ((segment as u32) & 15) * 4);
  return storeAs(va, 2, selector as i64, load<u64>(CPU_GENERATION)) ? 0 : LEAVE_FAULT;
}

export function pushSegment(_pc: usize, segment: i64): i32 {
  const rsp = load<i64>(CPU_REGS + RSP_OFFSET) - 8;
  if (!storeAs(rsp, 8, load<u32>(CPU_SEG_SELECTOR + (segment as u32) * 4) as i64, load<u64>(CPU_GENERATION))) return LEAVE_FAULT;
  store<i64>(CPU_REGS + RSP_OFFSET, rsp);
  return 0;
}

export function popSegment(pc: usize, segment: i64): i32 {
  const rsp = load<i64>(CPU_REGS + RSP_OFFSET);
  const host = slowRead(rsp, 8);
  if (host === 0) return LEAVE_FAULT;
  const code = loadSegment(pc, segment, load<u16>(host) as i64);
  if (code === 0 || code === LEAVE_NEXT) store<i64>(CPU_REGS + RSP_OFFSET, rsp + 8);
  return code;
}

/** LTR and LLDT; imm is SEG_TR or SEG_LDTR. System descriptors have 16 bytes in 64-bit mode. */
export function loadSystemSegment(_pc: usize, segment: i64, value: i64): i32 {
  if (load<u32>(CPU_CPL) !== 0) return fault(VECTOR_GP, 0);
  const selector = (value as u32) & 0xffff;
  const number = segment as u32;
  if ((selector & 0xfffc) === 0) {
    if (number === SEG_TR) return fault(VECTOR_GP, 0);
    setNullSegment(SEG_LDTR, selector);
    return 0;
  }
  const code = readDescriptor(selector, VECTOR_GP, 16);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const type = (descriptor >> 40) & 0x1f;
  const isWanted = number === SEG_TR ? type === 9 : type === 2;
  if (!isWanted) return fault(VECTOR_GP, selector & 0xfffc);
  if (!(descriptor & DESCRIPTOR_PRESENT)) return fault(VECTOR_NP, selector & 0xfffc);
  const base = descriptorBase(descriptor) | (load<u64>(SHARED_SCRATCH + 8) << 32);
  setSegment(number, selector, number === SEG_TR ? descriptor | 0x20000000000 : descriptor);
  store<u64>(CPU_SEG_BASE + number * 8, base);
  // LTR marks the task-state segment busy in the table.
  if (number === SEG_TR) {
    const at = (load<u64>(CPU_GDTR_BASE) + ((selector & 0xfff8) as u64)) as i64;
    if (!storeAs(at, 8, (descriptor | 0x20000000000) as i64, load<u32>(CPU_CONTEXT_BASE) as u64)) return LEAVE_FAULT;
  }
  return 0;
}

export function loadSystemSegmentMemory(pc: usize, segment: i64, va: i64): i32 {
  const host = slowRead(va, 2);
  return host === 0 ? LEAVE_FAULT : loadSystemSegment(pc, segment, load<u16>(host) as i64);
}

/** RDFSBASE RDGSBASE; imm: SEG_FS or SEG_GS, plus 8: 32-bit. */
export function readSegmentBase(pc: usize, segment: i64): i32 {
  if (!(load<u64>(CPU_CR4) & CR4_FSGSBASE)) return fault(VECTOR_UD, 0);
  const base = load<u64>(((segment as u32) & 7) === SEG_FS ? CPU_FS_BASE : CPU_GS_BASE);
  store<u64>(load<u8>(pc, UOP_DST), segment & 8 ? base & 0xffffffff : base, CPU_REGS);
  return 0;
}

export function writeSegmentBase(_pc: usize, segment: i64, value: i64): i32 {
  if (!(load<u64>(CPU_CR4) & CR4_FSGSBASE)) return fault(VECTOR_UD, 0);
  const base = segment & 8 ? value & 0xffffffff : value;
  if ((base << 16) >> 16 !== base) return fault(VECTOR_GP, 0);
  store<i64>(((segment as u32) & 7) === SEG_FS ? CPU_FS_BASE : CPU_GS_BASE, base);
  return 0;
}
