// Segments and descriptors (SDM vol. 3, 3.4 and 3.5): loading segment registers from the GDT or the LDT with all their checks, LDTR and TR,
// and asking about descriptors (LAR, LSL, VERR, VERW).
import { ACCESS_UNUSABLE, CR4_FSGSBASE, CR4_UMIP, refreshMode } from "./context.ts";
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
  CPU_TEMP1,
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
import { isCompat, moveStack, setSized, sizeOf, stackMask, stackRead, stackWrite } from "./stack.ts";

export const DESCRIPTOR_PRESENT: u64 = 0x800000000000;
export const DESCRIPTOR_CODE_OR_DATA: u64 = 0x100000000000;
export const DESCRIPTOR_CODE: u64 = 0x80000000000;
const DESCRIPTOR_CONFORMING: u64 = 0x40000000000;
const DESCRIPTOR_WRITABLE: u64 = 0x20000000000;
const DESCRIPTOR_ACCESSED: u64 = 0x10000000000;
export const DESCRIPTOR_LONG: u64 = 0x20000000000000;
const DESCRIPTOR_BIG: u64 = 0x40000000000000;
const RSP_OFFSET = 32;

/** Linear address of the descriptor of `selector`, in the GDT or the LDT; 0: there is none of `bytes` bytes. */
function descriptorAddress(selector: u32, bytes: u32): i64 {
  const index = selector & 0xfff8;
  const isLocal = (selector & 4) !== 0;
  if (isLocal && load<u32>(CPU_SEG_ACCESS + SEG_LDTR * 4) & ACCESS_UNUSABLE) return 0;
  const limit = load<u32>(isLocal ? CPU_SEG_LIMIT + SEG_LDTR * 4 : CPU_GDTR_LIMIT);
  if (index + bytes - 1 > limit) return 0;
  return (load<u64>(isLocal ? CPU_SEG_BASE + SEG_LDTR * 8 : CPU_GDTR_BASE) + (index as u64)) as i64;
}

/** Reads the descriptor of `selector` into SHARED_SCRATCH (and the next quadword behind it). 0, or a LEAVE_* code. */
export function readDescriptor(selector: u32, vector: u32, bytes: u32): i32 {
  const at = descriptorAddress(selector, bytes);
  if (at === 0) return fault(vector, selector & 0xfffc);
  const host = hostForRead(at, bytes, load<u32>(CPU_CONTEXT_BASE) as u64);
  if (host === 0) return LEAVE_FAULT;
  store<u64>(SHARED_SCRATCH, load<u64>(host));
  if (bytes > 8) store<u64>(SHARED_SCRATCH + 8, load<u64>(host, 8));
  return 0;
}

/** Sets the accessed bit of a descriptor that is being loaded, if it is clear (SDM vol. 3, 3.4.5.1). 0, or a LEAVE_* code. */
export function markAccessed(selector: u32, descriptor: u64): i32 {
  if (descriptor & DESCRIPTOR_ACCESSED) return 0;
  const at = descriptorAddress(selector, 8);
  const access = ((descriptor >> 40) & 0xff) | 1;
  return storeAs(at + 5, 1, access as i64, load<u32>(CPU_CONTEXT_BASE) as u64) ? 0 : LEAVE_FAULT;
}

export function descriptorBase(descriptor: u64): u64 {
  return ((descriptor >> 16) & 0xffffff) | ((descriptor >> 32) & 0xff000000);
}

export function descriptorLimit(descriptor: u64): u32 {
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
  store<u32>(CPU_SEG_ACCESS + segment * 4, descriptorAccess(descriptor) | (descriptor & DESCRIPTOR_CODE_OR_DATA ? 1 : 0));
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
 * Checks that `selector` names a code segment of 64-bit or compatibility mode and leaves its descriptor in SHARED_SCRATCH. L and D together
 * are reserved.
 */
export function checkCodeSegment(selector: u32, vector: u32): i32 {
  if ((selector & 0xfffc) === 0) return fault(vector, 0);
  const code = readDescriptor(selector, vector, 8);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const isCode = (descriptor & DESCRIPTOR_CODE_OR_DATA) !== 0 && (descriptor & DESCRIPTOR_CODE) !== 0;
  if (!isCode || (descriptor & DESCRIPTOR_LONG && descriptor & DESCRIPTOR_BIG)) return fault(vector, selector & 0xfffc);
  if (!(descriptor & DESCRIPTOR_PRESENT)) return fault(VECTOR_NP, selector & 0xfffc);
  return 0;
}

/** As checkCodeSegment(), for gates: their target is 64-bit code. */
export function checkLongCodeSegment(selector: u32, vector: u32): i32 {
  const code = checkCodeSegment(selector, vector);
  if (code !== 0) return code;
  return load<u64>(SHARED_SCRATCH) & DESCRIPTOR_LONG ? 0 : fault(vector, selector & 0xfffc);
}

export function isLong(descriptor: u64): bool {
  return (descriptor & DESCRIPTOR_LONG) !== 0;
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
    const isAllowed = !isCompat() && load<u32>(CPU_CPL) !== 3 && (selector & 3) === load<u32>(CPU_CPL);
    if (number === SEG_SS && !isAllowed) return fault(VECTOR_GP, 0);
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
    const marked = markAccessed(selector, descriptor);
    if (marked !== 0) return marked;
    setSegment(number, selector, descriptor);
  }
  // What the code behind it means depends on whether the segment is flat.
  const changes = isCompat() && number < (SEG_FS as u32);
  if (changes) refreshMode();
  if (number !== SEG_SS) return changes ? LEAVE_NEXT : 0;
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

/** SLDT, STR, SMSW, SGDT, SIDT above CPL 0 with CR4.UMIP are #GP. */
export function isUserPrevented(): bool {
  return load<u32>(CPU_CPL) !== 0 && (load<u64>(CPU_CR4) & CR4_UMIP) !== 0;
}

/** MOV r, Sreg; also SLDT and STR to a register (imm: SEG_*, plus 16: 16-bit destination). */
export function storeSelector(pc: usize, segment: i64): i32 {
  if (((segment as u32) & 15) >= (SEG_LDTR as u32) && isUserPrevented()) return fault(VECTOR_GP, 0);
  const selector = load<u32>(CPU_SEG_SELECTOR + ((segment as u32) & 15) * 4);
  if (segment & 16) store<u16>(load<u8>(pc, UOP_DST), selector as u16, CPU_REGS);
  else store<u64>(load<u8>(pc, UOP_DST), selector as u64, CPU_REGS);
  return 0;
}

export function storeSelectorMemory(_pc: usize, segment: i64, va: i64): i32 {
  if (((segment as u32) & 15) >= (SEG_LDTR as u32) && isUserPrevented()) return fault(VECTOR_GP, 0);
  const selector = load<u32>(CPU_SEG_SELECTOR + ((segment as u32) & 15) * 4);
  return storeAs(va, 2, selector as i64, load<u64>(CPU_GENERATION)) ? 0 : LEAVE_FAULT;
}

export function pushSegment(pc: usize, segment: i64): i32 {
  const bytes = sizeOf(pc);
  if (!stackWrite(-(bytes as i64), bytes, load<u32>(CPU_SEG_SELECTOR + (segment as u32) * 4) as u64)) return LEAVE_FAULT;
  moveStack(-(bytes as i64));
  return 0;
}

export function popSegment(pc: usize, segment: i64): i32 {
  const bytes = sizeOf(pc);
  const host = stackRead(0, bytes);
  if (host === 0) return LEAVE_FAULT;
  // The width of the stack pointer is that of the stack from which it was popped.
  const mask = stackMask();
  const next = load<u64>(CPU_REGS + RSP_OFFSET) + (bytes as u64);
  const code = loadSegment(pc, segment, load<u16>(host) as i64);
  if (code !== 0 && code !== LEAVE_NEXT) return code;
  if (mask === 0xffff) store<u16>(CPU_REGS + RSP_OFFSET, next as u16);
  else store<u64>(CPU_REGS + RSP_OFFSET, next & mask);
  return code;
}

/** LES LDS LSS LFS LGS: the offset, which is in TEMP1, goes to the register if the segment could be loaded. */
export function loadFarPointer(pc: usize, segment: i64, selector: i64): i32 {
  const code = loadSegment(pc, segment, selector & 0xffff);
  if (code === 0 || code === LEAVE_NEXT) setSized(CPU_REGS + (load<u8>(pc, UOP_DST) as u32), sizeOf(pc), load<u64>(CPU_TEMP1));
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
  if (selector & 4) return fault(VECTOR_GP, selector & 0xfffc);
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
