// Questions about descriptors that fault only for pages: LAR, LSL, VERR, VERW (SDM vol. 2). ZF says whether the answer is valid.
import { readFlags, ZF } from "./flags.ts";
import {
  CPU_CPL,
  CPU_FAULT_VECTOR,
  CPU_FLAG_A,
  CPU_FLAG_KIND,
  CPU_REGS,
  FLAGS_RAW,
  LEAVE_FAULT,
  SHARED_SCRATCH,
  UOP_DST,
} from "./layout.gen.ts";
import { slowRead } from "./memory.ts";
import { VECTOR_GP } from "./mmu.ts";
import { portClearBuffers } from "./port.gen.ts";
import { DESCRIPTOR_CODE, DESCRIPTOR_CODE_OR_DATA, descriptorDpl, descriptorLimit, isConforming, readDescriptor } from "./segments.ts";
import { setSized, sizeOf } from "./stack.ts";

const FOUND: i32 = 0;
const NONE: i32 = 1;
/** System descriptors that long mode has: LDT, available and busy TSS; LAR knows call gates too. */
const TYPE_LDT: u32 = 2;
const TYPE_TSS: u32 = 9;
const TYPE_BUSY_TSS: u32 = 11;
const TYPE_CALL_GATE: u32 = 12;
const TYPE_READABLE_OR_WRITABLE: u64 = 0x20000000000;

/** FOUND with the descriptor in SHARED_SCRATCH, NONE, or LEAVE_FAULT: a page of the table is not there. */
function find(selector: u32): i32 {
  if ((selector & 0xfffc) === 0) return NONE;
  if (readDescriptor(selector, VECTOR_GP, 8) === 0) return FOUND;
  return load<u32>(CPU_FAULT_VECTOR) === VECTOR_GP ? NONE : LEAVE_FAULT;
}

function setZero(value: bool): i32 {
  store<i64>(CPU_FLAG_A, ((readFlags() & ~(ZF as u64)) | (value ? ZF : 0)) as i64);
  store<i32>(CPU_FLAG_KIND, FLAGS_RAW);
  return 0;
}

function isPrivileged(selector: u32, descriptor: u64): bool {
  const dpl = descriptorDpl(descriptor);
  return dpl >= load<u32>(CPU_CPL) && dpl >= (selector & 3);
}

function isVisible(selector: u32, descriptor: u64, withGates: bool): bool {
  if (descriptor & DESCRIPTOR_CODE_OR_DATA) {
    if (descriptor & DESCRIPTOR_CODE && isConforming(descriptor)) return true;
    return isPrivileged(selector, descriptor);
  }
  const type = ((descriptor >> 40) & 0xf) as u32;
  const isKnown = type === TYPE_LDT || type === TYPE_TSS || type === TYPE_BUSY_TSS || (withGates && type === TYPE_CALL_GATE);
  return isKnown && isPrivileged(selector, descriptor);
}

function query(pc: usize, selector: u32, withGates: bool): i32 {
  const found = find(selector & 0xffff);
  if (found === LEAVE_FAULT) return LEAVE_FAULT;
  const descriptor = load<u64>(SHARED_SCRATCH);
  if (found === NONE || !isVisible(selector & 0xffff, descriptor, withGates)) return setZero(false);
  const answer = withGates ? (descriptor >> 32) & 0xffff00 : (descriptorLimit(descriptor) as u64);
  setSized(CPU_REGS + (load<u8>(pc, UOP_DST) as u32), sizeOf(pc), answer);
  return setZero(true);
}

export function loadAccessRights(pc: usize, selector: i64): i32 {
  return query(pc, selector as u32, true);
}

export function loadSegmentLimit(pc: usize, selector: i64): i32 {
  return query(pc, selector as u32, false);
}

/** VERR and VERW: only code and data segments, which must be readable or writable. */
function verify(selector: u32, write: bool): i32 {
  const found = find(selector);
  if (found === LEAVE_FAULT) return LEAVE_FAULT;
  const descriptor = load<u64>(SHARED_SCRATCH);
  if (found === NONE || !(descriptor & DESCRIPTOR_CODE_OR_DATA) || !isVisible(selector, descriptor, false)) return setZero(false);
  const isCode = (descriptor & DESCRIPTOR_CODE) !== 0;
  const bit = (descriptor & TYPE_READABLE_OR_WRITABLE) !== 0;
  return setZero(write ? !isCode && bit : !isCode || bit);
}

export function verifyWrite(_pc: usize, selector: i64): i32 {
  return verify((selector as u32) & 0xffff, true);
}

/** VERW from memory also clears buffers on CPUs with MD_CLEAR. */
export function verifyWriteMemory(_pc: usize, va: i64): i32 {
  const host = slowRead(va, 2);
  if (host === 0) return LEAVE_FAULT;
  const selector = load<u16>(host) as u32;
  portClearBuffers();
  return verify(selector, true);
}

export function verifyRead(_pc: usize, selector: i64): i32 {
  return verify((selector as u32) & 0xffff, false);
}

export function verifyReadMemory(_pc: usize, va: i64): i32 {
  const host = slowRead(va, 2);
  return host === 0 ? LEAVE_FAULT : verify(load<u16>(host) as u32, false);
}
