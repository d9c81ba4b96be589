// Interrupts, exceptions, and the instructions that raise them or return from them (SDM vol. 3, chapter 7). Delivery goes through the
// IDT in 64-bit mode: gate, stack (IST, TSS, or the current one), frame, flags. A fault met on the way becomes a double or triple fault.

import { siteOf } from "./blocks.ts";
import { EFER_SCE, refreshMode } from "./context.ts";
import { fault } from "./faults.ts";
import { IF, IOPL, NT, RF, readFlags, TF, VIF, VIP, VM, writeFlags } from "./flags.ts";
import {
  CPU_CONTEXT_BASE,
  CPU_CPL,
  CPU_CR2,
  CPU_DELIVERING,
  CPU_DELIVERING_ERROR,
  CPU_DELIVERING_HAS_ERROR,
  CPU_DELIVERING_LENGTH,
  CPU_DELIVERING_TYPE,
  CPU_DELIVERING_VECTOR,
  CPU_EFER,
  CPU_EXCEPTION_BITMAP,
  CPU_EXIT_ADDRESS,
  CPU_EXIT_ERROR,
  CPU_EXIT_HAS_ERROR,
  CPU_EXIT_KIND,
  CPU_EXIT_LENGTH,
  CPU_EXIT_QUALIFICATION,
  CPU_EXIT_VECTOR,
  CPU_FAULT_ADDRESS,
  CPU_FAULT_ERROR,
  CPU_FAULT_VECTOR,
  CPU_GENERATION,
  CPU_GS_BASE,
  CPU_GUEST_MODE,
  CPU_HALTED,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_MSR_FMASK,
  CPU_MSR_KERNEL_GS_BASE,
  CPU_MSR_LSTAR,
  CPU_MSR_STAR,
  CPU_NMI_BLOCKED,
  CPU_PAGE_BASE,
  CPU_PF_ERROR_MASK,
  CPU_PF_ERROR_MATCH,
  CPU_REGS,
  CPU_RIP,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  CPU_SHADOW,
  EVENT_EXCEPTION,
  EVENT_NMI,
  EVENT_PRIVILEGED_SOFTWARE,
  EVENT_SOFTWARE_EXCEPTION,
  EVENT_SOFTWARE_INTERRUPT,
  EXIT_EPT_MISCONFIG,
  EXIT_EPT_VIOLATION,
  EXIT_INTERCEPT,
  EXIT_TRIPLE_FAULT,
  FAULT_EPT_MISCONFIG,
  FAULT_EPT_VIOLATION,
  INTERCEPT_EXCEPTION,
  LEAVE_FAULT,
  LEAVE_STEPPED,
  SEG_CS,
  SEG_SS,
  SEG_TR,
  SHARED_SCRATCH,
  SITE_LENGTH,
  SITE_OFFSET,
  SITE_OFFSET_MASK,
} from "./layout.gen.ts";
import { hostForRead, storeAs } from "./memory.ts";
import { isCanonical, VECTOR_BP, VECTOR_DB, VECTOR_DF, VECTOR_GP, VECTOR_NP, VECTOR_PF, VECTOR_SS, VECTOR_TS, VECTOR_UD } from "./mmu.ts";
import { portDelivered, portSerialize } from "./port.gen.ts";
import {
  checkCodeSegment,
  descriptorAccess,
  descriptorDpl,
  enterCodeSegment,
  isConforming,
  readDescriptor,
  setFlatSegment,
  setNullSegment,
  setSegment,
} from "./segments.ts";

const RSP = CPU_REGS + 32;
const RCX = CPU_REGS + 8;
const R11 = CPU_REGS + 88;
const CODE64_KERNEL: u32 = 0xa09b;
const CODE64_USER: u32 = 0xa0fb;
const DATA_KERNEL: u32 = 0xc093;
const DATA_USER: u32 = 0xc0f3;
/** Error-code bits: external event; the selector part is an IDT index. */
const ERROR_EXTERNAL: u32 = 1;
const ERROR_IDT: u32 = 2;
const GATE_INTERRUPT: u64 = 0xe;
const GATE_TRAP: u64 = 0xf;
/** Vectors 10 to 13 and #DE: a second one of them while delivering one makes a double fault (SDM vol. 3, table 7-5). */
const CONTRIBUTORY: u32 = 0x3c01;
/** Vectors with error codes: 8, 10 to 14, 17, 21. */
const WITH_ERROR: u32 = 0x227d00;

function supervisorGeneration(): u64 {
  return load<u32>(CPU_CONTEXT_BASE) as u64;
}

/** RIP of the instruction of a micro-op, in the page that executes. */
export function ripOf(pc: usize): u64 {
  return load<u64>(CPU_PAGE_BASE) + ((load<u16>(siteOf(pc as u32), SITE_OFFSET) & SITE_OFFSET_MASK) as u64);
}

/** RIP of the instruction after it. */
export function nextRipOf(pc: usize): u64 {
  return ripOf(pc) + (load<u8>(siteOf(pc as u32), SITE_LENGTH) as u64);
}

export function hasErrorCode(vector: u32): bool {
  return vector < 32 && ((WITH_ERROR >> vector) & 1) !== 0;
}

/** Whether the guest's exception leaves to the host (SDM vol. 3, 26.2 "Other causes of VM exits"). */
function leavesGuest(vector: u32, error: u32): bool {
  if (load<u32>(CPU_GUEST_MODE) === 0 || vector > 31) return false;
  const wanted = ((load<u32>(CPU_EXCEPTION_BITMAP) >> vector) & 1) !== 0;
  if (vector !== VECTOR_PF) return wanted;
  const matches = (error & load<u32>(CPU_PF_ERROR_MASK)) === load<u32>(CPU_PF_ERROR_MATCH);
  return matches ? wanted : !wanted;
}

function leaveWithException(vector: u32, error: u32): i32 {
  store<u32>(CPU_EXIT_KIND, INTERCEPT_EXCEPTION);
  store<u32>(CPU_EXIT_VECTOR, vector);
  store<u32>(CPU_EXIT_ERROR, error);
  store<u32>(CPU_EXIT_HAS_ERROR, hasErrorCode(vector) as u32);
  store<u64>(CPU_EXIT_ADDRESS, load<u64>(CPU_FAULT_ADDRESS));
  store<u64>(CPU_EXIT_QUALIFICATION, vector === VECTOR_PF ? load<u64>(CPU_FAULT_ADDRESS) : 0);
  return EXIT_INTERCEPT;
}

function eptExit(vector: u32): i32 {
  return vector === FAULT_EPT_MISCONFIG ? EXIT_EPT_MISCONFIG : EXIT_EPT_VIOLATION;
}

/** The recorded fault happens to the instruction at RIP. 0: delivered; else an EXIT_* code. */
export function raiseFault(): i32 {
  const vector = load<u32>(CPU_FAULT_VECTOR);
  const error = load<u32>(CPU_FAULT_ERROR);
  store<u32>(CPU_DELIVERING, 0);
  if (vector >= (FAULT_EPT_VIOLATION as u32)) return eptExit(vector);
  if (leavesGuest(vector, error)) return leaveWithException(vector, error);
  if (vector === VECTOR_PF) store<u64>(CPU_CR2, load<u64>(CPU_FAULT_ADDRESS));
  return deliverEvent(vector, EVENT_EXCEPTION, error, 0);
}

/** Delivers an event to the current context. 0: done, RIP is the handler's; else an EXIT_* code, with DELIVERING_* still set. */
export function deliverEvent(firstVector: u32, firstType: u32, firstError: u32, length: u32): i32 {
  let vector = firstVector;
  let type = firstType;
  let error = firstError;
  while (true) {
    const withError = type === EVENT_EXCEPTION && hasErrorCode(vector);
    store<u32>(CPU_DELIVERING, 1);
    store<u32>(CPU_DELIVERING_VECTOR, vector);
    store<u32>(CPU_DELIVERING_TYPE, type);
    store<u32>(CPU_DELIVERING_ERROR, error);
    store<u32>(CPU_DELIVERING_HAS_ERROR, withError as u32);
    store<u32>(CPU_DELIVERING_LENGTH, length);
    if (deliverOnce(vector, type, error, withError, length)) {
      store<u32>(CPU_DELIVERING, 0);
      portDelivered(vector);
      store<u32>(CPU_HALTED, 0);
      store<u32>(CPU_SHADOW, 0);
      return 0;
    }
    const nested = load<u32>(CPU_FAULT_VECTOR);
    if (nested >= (FAULT_EPT_VIOLATION as u32)) return eptExit(nested);
    const nestedError = load<u32>(CPU_FAULT_ERROR);
    if (leavesGuest(nested, nestedError)) return leaveWithException(nested, nestedError);
    if (nested === VECTOR_PF) store<u64>(CPU_CR2, load<u64>(CPU_FAULT_ADDRESS));
    if (vector === VECTOR_DF && type === EVENT_EXCEPTION) return EXIT_TRIPLE_FAULT;
    if (type === EVENT_EXCEPTION && makesDoubleFault(vector, nested)) {
      vector = VECTOR_DF;
      error = 0;
      if (leavesGuest(VECTOR_DF, 0)) return leaveWithException(VECTOR_DF, 0);
    } else {
      vector = nested;
      error = nestedError;
    }
    type = EVENT_EXCEPTION;
  }
}

function isContributory(vector: u32): bool {
  return vector < 32 && ((CONTRIBUTORY >> vector) & 1) !== 0;
}

function makesDoubleFault(first: u32, second: u32): bool {
  if (first === VECTOR_PF) return second === VECTOR_PF || isContributory(second);
  return isContributory(first) && isContributory(second);
}

function isSoftware(type: u32): bool {
  return type === EVENT_SOFTWARE_INTERRUPT || type === EVENT_SOFTWARE_EXCEPTION || type === EVENT_PRIVILEGED_SOFTWARE;
}

/** False with a fault recorded; then nothing architectural has changed but memory below the new stack pointer. */
function deliverOnce(vector: u32, type: u32, error: u32, withError: bool, length: u32): bool {
  const external: u32 = isSoftware(type) ? 0 : ERROR_EXTERNAL;
  const gateError = (vector << 3) | ERROR_IDT | external;
  if (vector * 16 + 15 > load<u32>(CPU_IDTR_LIMIT)) return refuse(VECTOR_GP, gateError);
  const host = hostForRead((load<u64>(CPU_IDTR_BASE) + ((vector * 16) as u64)) as i64, 16, supervisorGeneration());
  if (host === 0) return false;
  const low = load<u64>(host);
  const offset = (low & 0xffff) | ((low >> 32) & 0xffff0000) | (load<u64>(host, 8) << 32);
  const gateType = (low >> 40) & 0x1f;
  if (gateType !== GATE_INTERRUPT && gateType !== GATE_TRAP) return refuse(VECTOR_GP, gateError);
  const isPrivileged = type === EVENT_SOFTWARE_INTERRUPT || type === EVENT_SOFTWARE_EXCEPTION;
  if (isPrivileged && ((low >> 45) & 3) < load<u32>(CPU_CPL)) return refuse(VECTOR_GP, gateError);
  if (!(low & 0x800000000000)) return refuse(VECTOR_NP, gateError);

  const selector = ((low >> 16) & 0xffff) as u32;
  if (checkCodeSegment(selector, VECTOR_GP) !== 0) {
    store<u32>(CPU_FAULT_ERROR, load<u32>(CPU_FAULT_ERROR) | external);
    return false;
  }
  const descriptor = load<u64>(SHARED_SCRATCH);
  const cpl = load<u32>(CPU_CPL);
  const newCpl = isConforming(descriptor) ? cpl : descriptorDpl(descriptor);
  if (newCpl > cpl) return refuse(VECTOR_GP, (selector & 0xfffc) | external);
  if (!isCanonical(offset as i64)) return refuse(VECTOR_GP, external);

  const ist = ((low >> 32) & 7) as u32;
  let stack = load<i64>(RSP);
  if (ist !== 0 || newCpl !== cpl) {
    const at: u32 = ist !== 0 ? 28 + ist * 8 : 4 + newCpl * 8;
    if (at + 7 > load<u32>(CPU_SEG_LIMIT + SEG_TR * 4))
      return refuse(VECTOR_TS, (load<u32>(CPU_SEG_SELECTOR + SEG_TR * 4) & 0xfffc) | external);
    const slot = hostForRead((load<u64>(CPU_SEG_BASE + SEG_TR * 8) + (at as u64)) as i64, 8, supervisorGeneration());
    if (slot === 0) return false;
    stack = load<i64>(slot);
    if (!isCanonical(stack)) return refuse(VECTOR_SS, external);
  }
  return pushFrame(stack & ~0xf, offset, selector, descriptor, newCpl, gateType === GATE_INTERRUPT, type, error, withError, length, vector);
}

function pushFrame(
  top: i64,
  handler: u64,
  selector: u32,
  descriptor: u64,
  newCpl: u32,
  clearsIf: bool,
  type: u32,
  error: u32,
  withError: bool,
  length: u32,
  vector: u32,
): bool {
  const flags = readFlags();
  const rip = load<u64>(CPU_RIP) + (isSoftware(type) ? (length as u64) : 0);
  // A fault's frame has RF set, so that the instruction is not stopped again by the same breakpoint (SDM vol. 3, 19.3.1.1).
  const isFault = type === EVENT_EXCEPTION && vector !== VECTOR_DB && vector !== VECTOR_DF;
  let sp = top;
  const oldCpl = load<u32>(CPU_CPL);
  const generation = newCpl === 3 ? load<u64>(CPU_GENERATION) : supervisorGeneration();
  if (!push(sp - 8, load<u32>(CPU_SEG_SELECTOR + SEG_SS * 4) as u64, generation)) return false;
  if (!push(sp - 16, load<u64>(RSP), generation)) return false;
  if (!push(sp - 24, isFault ? flags | RF : flags, generation)) return false;
  if (!push(sp - 32, load<u32>(CPU_SEG_SELECTOR + SEG_CS * 4) as u64, generation)) return false;
  if (!push(sp - 40, rip, generation)) return false;
  sp -= 40;
  if (withError) {
    if (!push(sp - 8, error as u64, generation)) return false;
    sp -= 8;
  }
  // From here nothing can fail.
  if (newCpl !== oldCpl) setNullSegment(SEG_SS, newCpl);
  writeFlags(flags & ~((TF | NT | RF | VM) as u64) & (clearsIf ? ~(IF as u64) : u64.MAX_VALUE));
  enterCodeSegment(selector, descriptor, newCpl);
  store<i64>(RSP, sp);
  store<u64>(CPU_RIP, handler);
  if (type === EVENT_NMI) store<u32>(CPU_NMI_BLOCKED, 1);
  return true;
}

function push(va: i64, value: u64, generation: u64): bool {
  if (storeAs(va, 8, value as i64, generation)) return true;
  // A non-canonical stack is a stack fault, not a general protection fault.
  if (load<u32>(CPU_FAULT_VECTOR) === VECTOR_GP) store<u32>(CPU_FAULT_VECTOR, VECTOR_SS);
  return false;
}

function refuse(vector: u32, error: u32): bool {
  fault(vector, error);
  return false;
}

// Instructions -----------------------------------------------------------------------------------------------------------------

/** Software events are delivered by the instruction itself; what goes wrong is the dispatcher's. */
function softwareEvent(pc: usize, vector: u32, type: u32): i32 {
  store<u64>(CPU_RIP, ripOf(pc));
  store<u32>(CPU_EXIT_LENGTH, load<u8>(siteOf(pc as u32), SITE_LENGTH));
  if (type !== EVENT_SOFTWARE_INTERRUPT && leavesGuest(vector, 0)) return fault(vector, 0);
  const code = deliverEvent(vector, type, 0, load<u8>(siteOf(pc as u32), SITE_LENGTH));
  return code === 0 ? LEAVE_STEPPED : code;
}

export function softwareInterrupt(pc: usize, vector: i64): i32 {
  return softwareEvent(pc, (vector as u32) & 0xff, EVENT_SOFTWARE_INTERRUPT);
}

export function breakpoint(pc: usize): i32 {
  return softwareEvent(pc, VECTOR_BP, EVENT_SOFTWARE_EXCEPTION);
}

export function debugTrap(pc: usize): i32 {
  return softwareEvent(pc, VECTOR_DB, EVENT_PRIVILEGED_SOFTWARE);
}

/** IRETQ. SDM vol. 2, IRET/IRETD/IRETQ; only returns to 64-bit code. */
export function interruptReturn(_pc: usize): i32 {
  const flags = readFlags();
  if (flags & NT) return fault(VECTOR_GP, 0);
  const sp = load<i64>(RSP);
  const host = hostForRead(sp, 16, load<u64>(CPU_GENERATION));
  if (host === 0) return LEAVE_FAULT;
  const rip = load<u64>(host);
  const cs = load<u64>(host, 8) as u32;
  const second = hostForRead(sp + 16, 16, load<u64>(CPU_GENERATION));
  if (second === 0) return LEAVE_FAULT;
  const newFlags = load<u64>(second);
  const newRsp = load<u64>(second, 8);
  const third = hostForRead(sp + 32, 8, load<u64>(CPU_GENERATION));
  if (third === 0) return LEAVE_FAULT;
  const ss = load<u64>(third) as u32 & 0xffff;
  const cpl = load<u32>(CPU_CPL);
  const newCpl = cs & 3;
  if (newCpl < cpl) return fault(VECTOR_GP, cs & 0xfffc);
  const code = checkCodeSegment(cs & 0xffff, VECTOR_GP);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  if (!isConforming(descriptor) && descriptorDpl(descriptor) !== newCpl) return fault(VECTOR_GP, cs & 0xfffc);
  if (!isCanonical(rip as i64)) return fault(VECTOR_GP, 0);
  let stackDescriptor: u64 = 0;
  if ((ss & 0xfffc) === 0) {
    if (newCpl === 3 || (ss & 3) !== newCpl) return fault(VECTOR_GP, 0);
  } else {
    const stackCode = readDescriptor(ss, VECTOR_GP, 8);
    if (stackCode !== 0) return stackCode;
    stackDescriptor = load<u64>(SHARED_SCRATCH);
    const access = descriptorAccess(stackDescriptor);
    // A writable data segment of the new privilege level.
    if ((access & 0x1a) !== 0x12 || descriptorDpl(stackDescriptor) !== newCpl || (ss & 3) !== newCpl) return fault(VECTOR_GP, ss & 0xfffc);
    if (!(access & 0x80)) return fault(VECTOR_SS, ss & 0xfffc);
  }
  // From here nothing can fail.
  let changeable: u64 = ~((IOPL | IF | VIF | VIP | VM | RF) as u64);
  if (cpl === 0) changeable |= (IOPL | IF | VIF | VIP) as u64;
  else if (((flags >> 12) & 3) >= (cpl as u64)) changeable |= IF as u64;
  writeFlags((newFlags & changeable) | (flags & ~changeable & ~(RF as u64)));
  enterCodeSegment(cs & 0xffff, descriptor, newCpl);
  if ((ss & 0xfffc) === 0) setNullSegment(SEG_SS, ss);
  else setSegment(SEG_SS, ss, stackDescriptor);
  store<u64>(RSP, newRsp);
  store<u64>(CPU_RIP, rip);
  store<u32>(CPU_NMI_BLOCKED, 0);
  portSerialize();
  return LEAVE_STEPPED;
}

/** RETFQ to the same or an outer privilege level; imm: bytes to drop, plus 0x10000 for the form without an operand size of 64 bits. */
export function farReturn(_pc: usize, drop: i64): i32 {
  const sp = load<i64>(RSP);
  const host = hostForRead(sp, 16, load<u64>(CPU_GENERATION));
  if (host === 0) return LEAVE_FAULT;
  const rip = load<u64>(host);
  const cs = (load<u64>(host, 8) as u32) & 0xffff;
  if ((cs & 3) !== load<u32>(CPU_CPL)) return fault(VECTOR_GP, cs & 0xfffc);
  const code = checkCodeSegment(cs, VECTOR_GP);
  if (code !== 0) return code;
  if (!isCanonical(rip as i64)) return fault(VECTOR_GP, 0);
  enterCodeSegment(cs, load<u64>(SHARED_SCRATCH), cs & 3);
  store<i64>(RSP, sp + 16 + drop);
  store<u64>(CPU_RIP, rip);
  return LEAVE_STEPPED;
}

export function systemCall(pc: usize): i32 {
  if (!(load<u64>(CPU_EFER) & EFER_SCE)) return fault(VECTOR_UD, 0);
  const flags = readFlags();
  store<u64>(RCX, nextRipOf(pc));
  store<u64>(R11, flags & ~(RF as u64));
  store<u64>(CPU_RIP, load<u64>(CPU_MSR_LSTAR));
  writeFlags(flags & ~load<u64>(CPU_MSR_FMASK) & ~(RF as u64));
  const selector = ((load<u64>(CPU_MSR_STAR) >> 32) as u32) & 0xfffc;
  setFlatSegment(SEG_CS, selector, CODE64_KERNEL);
  setFlatSegment(SEG_SS, selector + 8, DATA_KERNEL);
  store<u32>(CPU_CPL, 0);
  refreshMode();
  return LEAVE_STEPPED;
}

/** SYSRETQ. A non-canonical RCX faults in the kernel, on the user's stack: Intel's behaviour. */
export function systemReturn(_pc: usize): i32 {
  if (!(load<u64>(CPU_EFER) & EFER_SCE)) return fault(VECTOR_UD, 0);
  if (load<u32>(CPU_CPL) !== 0 || !isCanonical(load<i64>(RCX))) return fault(VECTOR_GP, 0);
  store<u64>(CPU_RIP, load<u64>(RCX));
  writeFlags((load<u64>(R11) & 0x3c7fd7) | 2);
  const selector = ((load<u64>(CPU_MSR_STAR) >> 48) as u32) & 0xffff;
  setFlatSegment(SEG_CS, (selector + 16) | 3, CODE64_USER);
  setFlatSegment(SEG_SS, (selector + 8) | 3, DATA_USER);
  store<u32>(CPU_CPL, 3);
  refreshMode();
  return LEAVE_STEPPED;
}

export function swapGs(_pc: usize): i32 {
  if (load<u32>(CPU_CPL) !== 0) return fault(VECTOR_GP, 0);
  const base = load<u64>(CPU_GS_BASE);
  store<u64>(CPU_GS_BASE, load<u64>(CPU_MSR_KERNEL_GS_BASE));
  store<u64>(CPU_MSR_KERNEL_GS_BASE, base);
  return 0;
}
