// Transfers that change the code segment: far JMP, CALL and RET, 64-bit call gates, IRET (SDM vol. 2; vol. 3, 6.8). Between 64-bit and
// compatibility mode, to the same privilege or, by returns, to an outer one; inwards by a call gate.
import { ACCESS_BIG, ACCESS_UNUSABLE, refreshMode } from "./context.ts";
import { nextRipOf } from "./events.ts";
import { fault } from "./faults.ts";
import { IF, IOPL, NT, RF, readFlags, VIF, VIP, VM, writeFlags } from "./flags.ts";
import { isFred } from "./fred-delivery.ts";
import {
  CPU_CONTEXT_BASE,
  CPU_CPL,
  CPU_FAULT_VECTOR,
  CPU_NMI_BLOCKED,
  CPU_REGS,
  CPU_RIP,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  LEAVE_FAULT,
  LEAVE_STEPPED,
  SEG_CS,
  SEG_DS,
  SEG_ES,
  SEG_FS,
  SEG_GS,
  SEG_SS,
  SEG_TR,
  SHARED_SCRATCH,
} from "./layout.gen.ts";
import { hostForRead, storeAs } from "./memory.ts";
import { isCanonical, VECTOR_GP, VECTOR_NP, VECTOR_SS, VECTOR_TS } from "./mmu.ts";
import { portSerialize } from "./port.gen.ts";
import {
  checkCodeSegment,
  DESCRIPTOR_CODE_OR_DATA,
  DESCRIPTOR_PRESENT,
  descriptorAccess,
  descriptorBase,
  descriptorDpl,
  descriptorLimit,
  enterCodeSegment,
  isConforming,
  isLong,
  markAccessed,
  readDescriptor,
  setNullSegment,
  setSegment,
} from "./segments.ts";
import { codeBase, isCompat, moveStack, setStackPointer, sizeOf, stackRead, stackWrite, valueAt } from "./stack.ts";

const RSP = CPU_REGS + 32;
const TYPE_CALL_GATE: u64 = 0xc;
const TYPE_CODE: u32 = 8;
const TYPE_CONFORMING: u32 = 4;

/** True when `rip` cannot be an instruction pointer in the code segment of `descriptor`. */
function isOutside(descriptor: u64, rip: u64): bool {
  if (isLong(descriptor)) return !isCanonical(rip as i64);
  return (rip & 0xffffffff) > (descriptorLimit(descriptor) as u64);
}

/** CS, CPL and RIP. Nothing can fail any more. */
export function enter(selector: u32, descriptor: u64, cpl: u32, rip: u64): i32 {
  enterCodeSegment(selector, descriptor, cpl);
  store<u64>(CPU_RIP, isLong(descriptor) ? rip : (descriptorBase(descriptor) + (rip & 0xffffffff)) & 0xffffffff);
  return LEAVE_STEPPED;
}

function currentCs(): u64 {
  return load<u32>(CPU_SEG_SELECTOR + SEG_CS * 4) as u64;
}

// Far JMP and CALL -------------------------------------------------------------------------------------------------------------------

export function jumpFar(pc: usize, offset: i64, selector: i64): i32 {
  return transfer(pc, offset as u64, (selector as u32) & 0xffff, false);
}

export function callFar(pc: usize, offset: i64, selector: i64): i32 {
  return transfer(pc, offset as u64, (selector as u32) & 0xffff, true);
}

function transfer(pc: usize, offset: u64, selector: u32, isCall: bool): i32 {
  if ((selector & 0xfffc) === 0) return fault(VECTOR_GP, 0);
  const code = readDescriptor(selector, VECTOR_GP, 8);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  if (!(descriptor & DESCRIPTOR_CODE_OR_DATA)) return throughGate(pc, selector, descriptor, isCall);
  const checked = checkCodeSegment(selector, VECTOR_GP);
  if (checked !== 0 && load<u32>(CPU_FAULT_VECTOR) !== (VECTOR_NP as u32)) return checked;
  const cpl = load<u32>(CPU_CPL);
  const dpl = descriptorDpl(descriptor);
  if (isConforming(descriptor) ? dpl > cpl : (selector & 3) > cpl || dpl !== cpl) return fault(VECTOR_GP, selector & 0xfffc);
  if (checked !== 0) return fault(VECTOR_NP, selector & 0xfffc);
  const bytes = sizeOf(pc);
  const rip = bytes === 2 ? offset & 0xffff : bytes === 4 ? offset & 0xffffffff : offset;
  if (isOutside(descriptor, rip)) return fault(VECTOR_GP, 0);
  const marked = markAccessed(selector, descriptor);
  if (marked !== 0) return marked;
  if (isCall) {
    const size = bytes as i64;
    if (!stackWrite(-size, bytes, currentCs())) return LEAVE_FAULT;
    if (!stackWrite(-2 * size, bytes, nextRipOf(pc) - codeBase())) return LEAVE_FAULT;
    moveStack(-2 * size);
  }
  return enter(selector, descriptor, cpl, rip);
}

/** A 64-bit call gate; other system descriptors are #GP in long mode. */
function throughGate(pc: usize, selector: u32, low: u64, isCall: bool): i32 {
  if (((low >> 40) & 0x1f) !== TYPE_CALL_GATE) return fault(VECTOR_GP, selector & 0xfffc);
  const cpl = load<u32>(CPU_CPL);
  if (descriptorDpl(low) < cpl || descriptorDpl(low) < (selector & 3)) return fault(VECTOR_GP, selector & 0xfffc);
  const wide = readDescriptor(selector, VECTOR_GP, 16);
  if (wide !== 0) return wide;
  // The type field of the upper half is 0.
  if ((load<u64>(SHARED_SCRATCH + 8) >> 40) & 0x1f) return fault(VECTOR_GP, selector & 0xfffc);
  if (!(low & DESCRIPTOR_PRESENT)) return fault(VECTOR_NP, selector & 0xfffc);
  const rip = (low & 0xffff) | ((low >> 32) & 0xffff0000) | (load<u64>(SHARED_SCRATCH + 8) << 32);
  const target = ((low >> 16) & 0xffff) as u32;
  const code = checkCodeSegment(target, VECTOR_GP);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const dpl = descriptorDpl(descriptor);
  const isInward = isCall && !isConforming(descriptor) && dpl < cpl;
  const isRefused = isCall || isConforming(descriptor) ? dpl > cpl : dpl !== cpl;
  if (!isLong(descriptor) || isRefused) return fault(VECTOR_GP, target & 0xfffc);
  if (!isCanonical(rip as i64)) return fault(VECTOR_GP, 0);
  if (isInward) return callInward(pc, target, descriptor, dpl, rip);
  if (isCall) {
    if (!stackWrite(-8, 8, currentCs()) || !stackWrite(-16, 8, nextRipOf(pc) - codeBase())) return LEAVE_FAULT;
    moveStack(-16);
  }
  return enter(target, descriptor, cpl, rip);
}

/** To a more privileged level: the stack of the task-state segment, SS null (SDM vol. 3, 6.8.5.1). */
function callInward(pc: usize, selector: u32, descriptor: u64, cpl: u32, rip: u64): i32 {
  const at: u32 = 4 + cpl * 8;
  if (at + 7 > load<u32>(CPU_SEG_LIMIT + SEG_TR * 4)) return fault(VECTOR_TS, load<u32>(CPU_SEG_SELECTOR + SEG_TR * 4) & 0xfffc);
  const supervisor = load<u32>(CPU_CONTEXT_BASE) as u64;
  const slot = hostForRead((load<u64>(CPU_SEG_BASE + SEG_TR * 8) + (at as u64)) as i64, 8, supervisor);
  if (slot === 0) return LEAVE_FAULT;
  const top = load<i64>(slot);
  if (!isCanonical(top)) return fault(VECTOR_SS, 0);
  if (!storeAs(top - 8, 8, load<u32>(CPU_SEG_SELECTOR + SEG_SS * 4) as i64, supervisor)) return LEAVE_FAULT;
  if (!storeAs(top - 16, 8, load<i64>(RSP), supervisor)) return LEAVE_FAULT;
  if (!storeAs(top - 24, 8, currentCs() as i64, supervisor)) return LEAVE_FAULT;
  if (!storeAs(top - 32, 8, (nextRipOf(pc) - codeBase()) as i64, supervisor)) return LEAVE_FAULT;
  setNullSegment(SEG_SS, cpl);
  store<i64>(RSP, top - 32);
  return enter(selector, descriptor, cpl, rip);
}

// Returns ----------------------------------------------------------------------------------------------------------------------------

/** Checks SS of a return to `cpl`; its descriptor (0: null, which 64-bit code above CPL 3 may have) goes to SHARED_SCRATCH. */
export function checkReturnStack(ss: u32, cpl: u32, toLong: bool): i32 {
  if ((ss & 0xfffc) === 0) {
    store<u64>(SHARED_SCRATCH, 0);
    return !toLong || cpl === 3 || (ss & 3) !== cpl ? fault(VECTOR_GP, 0) : 0;
  }
  const code = readDescriptor(ss, VECTOR_GP, 8);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const access = descriptorAccess(descriptor);
  // A writable data segment of the new privilege level.
  if ((access & 0x1a) !== 0x12 || descriptorDpl(descriptor) !== cpl || (ss & 3) !== cpl) return fault(VECTOR_GP, ss & 0xfffc);
  if (!(access & 0x80)) return fault(VECTOR_SS, ss & 0xfffc);
  return markAccessed(ss, descriptor);
}

/**
 * The stack of the code that was returned to, which is current already. A 16-bit stack gets the low half alone: the upper half of ESP
 * is then that of the stack that was left, which is how a kernel's addresses used to leak (SDM vol. 2, IRET; the espfix of kernels).
 */
function returnStack(ss: u32, descriptor: u64, rsp: u64): void {
  if ((ss & 0xfffc) === 0) setNullSegment(SEG_SS, ss);
  else setSegment(SEG_SS, ss, descriptor);
  // Whether segments are flat depends on SS too.
  refreshMode();
  if (isCompat() && !(load<u32>(CPU_SEG_ACCESS + SEG_SS * 4) & ACCESS_BIG)) {
    store<u64>(RSP, (load<u64>(RSP) & 0xffff0000) | (rsp & 0xffff));
  } else setStackPointer(rsp);
}

/** Data segments that the outer level may not use become null. FS and GS keep their bases. */
export function dropInnerSegments(cpl: u32): void {
  dropIfInner(SEG_ES, cpl);
  dropIfInner(SEG_DS, cpl);
  dropIfInner(SEG_FS, cpl);
  dropIfInner(SEG_GS, cpl);
}

function dropIfInner(segment: u32, cpl: u32): void {
  const access = load<u32>(CPU_SEG_ACCESS + segment * 4);
  if (access & ACCESS_UNUSABLE || ((access >> 5) & 3) >= cpl) return;
  const isConformingCode = (access & (TYPE_CODE | TYPE_CONFORMING)) === (TYPE_CODE | TYPE_CONFORMING);
  if (!isConformingCode) setNullSegment(segment, 0);
}

/** Checks CS of a return and leaves its descriptor in SHARED_SCRATCH. */
export function checkReturnCode(cs: u32, rip: u64): i32 {
  const newCpl = cs & 3;
  if ((cs & 0xfffc) === 0) return fault(VECTOR_GP, 0);
  if (newCpl < load<u32>(CPU_CPL)) return fault(VECTOR_GP, cs & 0xfffc);
  const code = checkCodeSegment(cs, VECTOR_GP);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const dpl = descriptorDpl(descriptor);
  if (isConforming(descriptor) ? dpl > newCpl : dpl !== newCpl) return fault(VECTOR_GP, cs & 0xfffc);
  if (isOutside(descriptor, rip)) return fault(VECTOR_GP, 0);
  const marked = markAccessed(cs, descriptor);
  store<u64>(SHARED_SCRATCH, descriptor);
  return marked;
}

/** RET far; imm: bytes of parameters to drop, on the outer stack too. */
export function farReturn(pc: usize, drop: i64): i32 {
  const bytes = sizeOf(pc);
  const size = bytes as i64;
  const first = stackRead(0, bytes);
  if (first === 0) return LEAVE_FAULT;
  const rip = valueAt(first, bytes);
  const second = stackRead(size, bytes);
  if (second === 0) return LEAVE_FAULT;
  const cs = (valueAt(second, bytes) as u32) & 0xffff;
  const code = checkReturnCode(cs, rip);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const newCpl = cs & 3;
  if (newCpl === load<u32>(CPU_CPL)) {
    moveStack(2 * size + drop);
    return enter(cs, descriptor, newCpl, rip);
  }
  const third = stackRead(2 * size + drop, bytes);
  if (third === 0) return LEAVE_FAULT;
  const rsp = valueAt(third, bytes);
  const fourth = stackRead(3 * size + drop, bytes);
  if (fourth === 0) return LEAVE_FAULT;
  const ss = (valueAt(fourth, bytes) as u32) & 0xffff;
  const stackCode = checkReturnStack(ss, newCpl, isLong(descriptor));
  if (stackCode !== 0) return stackCode;
  const stackDescriptor = load<u64>(SHARED_SCRATCH);
  dropInnerSegments(newCpl);
  enter(cs, descriptor, newCpl, rip);
  returnStack(ss, stackDescriptor, rsp + (drop as u64));
  return LEAVE_STEPPED;
}

/** IRETQ, IRETD, IRET; imm: operand size. In 64-bit mode RSP and SS are always popped (SDM vol. 2, IRET/IRETD/IRETQ). */
export function interruptReturn(_pc: usize, operandBytes: i64): i32 {
  const flags = readFlags();
  if (flags & NT) return fault(VECTOR_GP, 0);
  const bytes = operandBytes as u32;
  const size = operandBytes;
  const first = stackRead(0, bytes);
  if (first === 0) return LEAVE_FAULT;
  const rip = valueAt(first, bytes);
  const second = stackRead(size, bytes);
  if (second === 0) return LEAVE_FAULT;
  const cs = (valueAt(second, bytes) as u32) & 0xffff;
  const third = stackRead(2 * size, bytes);
  if (third === 0) return LEAVE_FAULT;
  const newFlags = valueAt(third, bytes);
  const cpl = load<u32>(CPU_CPL);
  const newCpl = cs & 3;
  // With FRED this instruction does not change the ring (specification, 8).
  if (isFred() && newCpl !== cpl) return fault(VECTOR_GP, cs & 0xfffc);
  const withStack = !isCompat() || newCpl > cpl;
  let rsp: u64 = 0;
  let ss: u32 = 0;
  if (withStack) {
    const fourth = stackRead(3 * size, bytes);
    if (fourth === 0) return LEAVE_FAULT;
    rsp = valueAt(fourth, bytes);
    const fifth = stackRead(4 * size, bytes);
    if (fifth === 0) return LEAVE_FAULT;
    ss = (valueAt(fifth, bytes) as u32) & 0xffff;
  }
  const code = checkReturnCode(cs, rip);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  let stackDescriptor: u64 = 0;
  if (withStack) {
    const stackCode = checkReturnStack(ss, newCpl, isLong(descriptor));
    if (stackCode !== 0) return stackCode;
    stackDescriptor = load<u64>(SHARED_SCRATCH);
  }
  // From here nothing can fail.
  let changeable: u64 = ~((IOPL | IF | VIF | VIP | VM | RF) as u64);
  if (cpl === 0) changeable |= (IOPL | IF | VIF | VIP) as u64;
  else if (((flags >> 12) & 3) >= (cpl as u64)) changeable |= IF as u64;
  if (bytes === 2) changeable &= 0xffff;
  writeFlags((newFlags & changeable) | (flags & ~changeable & ~(RF as u64)));
  if (newCpl > cpl) dropInnerSegments(newCpl);
  if (!withStack) moveStack(3 * size);
  enter(cs, descriptor, newCpl, rip);
  if (withStack) returnStack(ss, stackDescriptor, rsp);
  store<u32>(CPU_NMI_BLOCKED, 0);
  portSerialize();
  return LEAVE_STEPPED;
}
