// Interrupts, exceptions, and the instructions that raise them or return from them (SDM vol. 3, chapter 7). Delivery goes through the
// IDT in 64-bit mode: gate, stack (IST, TSS, or the current one), frame, flags. A fault met on the way becomes a double or triple fault.

import { siteOf } from "./blocks.ts";
import { fault } from "./faults.ts";
import { IF, NT, OF, RF, readFlags, TF, VM, writeFlags } from "./flags.ts";
import { fredDeliver, isFred } from "./fred-delivery.ts";
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
  CPU_GUEST_MODE,
  CPU_HALTED,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_NMI_BLOCKED,
  CPU_PAGE_BASE,
  CPU_PF_ERROR_MASK,
  CPU_PF_ERROR_MATCH,
  CPU_REGS,
  CPU_RIP,
  CPU_RIP_ABSENT,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  CPU_SHADOW,
  EVENT_EXCEPTION,
  EVENT_NMI,
  EVENT_OTHER,
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
import { isCanonical, VECTOR_BP, VECTOR_DB, VECTOR_DF, VECTOR_GP, VECTOR_NP, VECTOR_OF, VECTOR_PF, VECTOR_SS, VECTOR_TS } from "./mmu.ts";
import { portDelivered } from "./port.gen.ts";
import { checkLongCodeSegment, descriptorDpl, enterCodeSegment, isConforming, setNullSegment } from "./segments.ts";
import { codeBase } from "./stack.ts";

const RSP = CPU_REGS + 32;
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
  let isNested = false;
  while (true) {
    const withError = type === EVENT_EXCEPTION && hasErrorCode(vector);
    store<u32>(CPU_DELIVERING, 1);
    store<u32>(CPU_DELIVERING_VECTOR, vector);
    store<u32>(CPU_DELIVERING_TYPE, type);
    store<u32>(CPU_DELIVERING_ERROR, error);
    store<u32>(CPU_DELIVERING_HAS_ERROR, withError as u32);
    store<u32>(CPU_DELIVERING_LENGTH, length);
    const done = isFred()
      ? fredDeliver(vector, type, error, isSoftware(type) ? length : 0, isSoftware(type), isNested)
      : deliverOnce(vector, type, error, withError, length);
    if (done) {
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
    isNested = true;
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
  return (
    type === EVENT_SOFTWARE_INTERRUPT || type === EVENT_SOFTWARE_EXCEPTION || type === EVENT_PRIVILEGED_SOFTWARE || type === EVENT_OTHER
  );
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
  if (checkLongCodeSegment(selector, VECTOR_GP) !== 0) {
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
  const rip = load<u64>(CPU_RIP) + (isSoftware(type) ? (length as u64) : 0) - codeBase();
  // A fault's frame has RF set, so that the instruction is not stopped again by the same breakpoint (SDM vol. 3, 19.3.1.1).
  const isFault = type === EVENT_EXCEPTION && vector !== VECTOR_DB && vector !== VECTOR_DF;
  let sp = top;
  const oldCpl = load<u32>(CPU_CPL);
  const generation = newCpl === 3 ? load<u64>(CPU_GENERATION) : supervisorGeneration();
  if (!push(sp - 8, load<u32>(CPU_SEG_SELECTOR + SEG_SS * 4) as u64, generation)) return false;
  if (!push(sp - 16, load<u64>(RSP), generation)) return false;
  if (!push(sp - 24, isFault ? flags | RF : flags, generation)) return false;
  if (!push(sp - 32, load<u32>(CPU_SEG_SELECTOR + SEG_CS * 4) as u64, generation)) return false;
  if (!push(sp - 40, rip & ~load<u64>(CPU_RIP_ABSENT), generation)) return false;
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
export function softwareEvent(pc: usize, vector: u32, type: u32): i32 {
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

/** INTO. */
export function overflowTrap(pc: usize): i32 {
  return readFlags() & (OF as u64) ? softwareEvent(pc, VECTOR_OF, EVENT_SOFTWARE_EXCEPTION) : 0;
}
