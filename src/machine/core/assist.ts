// Instructions that need the host, and instructions that a guest may not perform by itself: the core records what they are and
// leaves with RIP at the instruction. The host acts, moves RIP past it, and runs on.

import { siteOf } from "./blocks.ts";
import { fault } from "./faults.ts";
import { IOPL } from "./flags.ts";
import {
  ASSIST_CPUID,
  ASSIST_IN,
  ASSIST_INVD,
  ASSIST_MONITOR,
  ASSIST_MWAIT,
  ASSIST_OUT,
  ASSIST_RDMSR,
  ASSIST_RDPMC,
  ASSIST_VMCALL,
  ASSIST_VMMCALL,
  ASSIST_WBINVD,
  ASSIST_WRMSR,
  ASSIST_XGETBV,
  ASSIST_XSETBV,
  CPU_CPL,
  CPU_EXIT,
  CPU_EXIT_ADDRESS,
  CPU_EXIT_KIND,
  CPU_EXIT_LENGTH,
  CPU_EXIT_PORT,
  CPU_EXIT_REGISTER,
  CPU_EXIT_REGISTER2,
  CPU_EXIT_SIZE,
  CPU_EXIT_STRING,
  CPU_GUEST_MODE,
  CPU_INTERCEPTS,
  CPU_REGS,
  CPU_RFLAGS,
  EXIT_ASSIST,
  EXIT_INTERCEPT,
  INTERCEPT_CPUID,
  INTERCEPT_INVD,
  INTERCEPT_IO,
  INTERCEPT_MONITOR,
  INTERCEPT_MWAIT,
  INTERCEPT_PAUSE,
  INTERCEPT_RDMSR,
  INTERCEPT_RDPMC,
  INTERCEPT_VMCALL,
  INTERCEPT_VMX,
  INTERCEPT_WBINVD,
  INTERCEPT_WRMSR,
  INTERCEPT_XSETBV,
  IO_IN,
  IO_REP,
  IO_STRING,
  LEAVE_EXIT,
  SITE_LENGTH,
  UOP_DST,
  UOP_SRC,
} from "./layout.gen.ts";
import { VECTOR_GP, VECTOR_UD } from "./mmu.ts";

const NEVER: i32 = -1;
const RDX = CPU_REGS + 16;

/** True when a guest must leave for this class. */
export function isIntercepted(bit: u32): bool {
  return load<u32>(CPU_GUEST_MODE) !== 0 && ((load<u32>(CPU_INTERCEPTS) >> bit) & 1) !== 0;
}

/** Ends the run at this instruction. */
export function leaveFor(pc: usize, exit: i32, kind: u32): i32 {
  store<i32>(CPU_EXIT, exit);
  store<u32>(CPU_EXIT_KIND, kind);
  store<u32>(CPU_EXIT_LENGTH, load<u8>(siteOf(pc as u32), SITE_LENGTH));
  store<u32>(CPU_EXIT_REGISTER, load<u8>(pc, UOP_DST) >> 3);
  store<u32>(CPU_EXIT_REGISTER2, load<u8>(pc, UOP_SRC) >> 3);
  return LEAVE_EXIT;
}

export function intercept(pc: usize, bit: u32): i32 {
  return leaveFor(pc, EXIT_INTERCEPT, bit);
}

/** The intercept class of an assist, or NEVER. */
function classOf(kind: u32): i32 {
  switch (kind) {
    case ASSIST_CPUID:
      return INTERCEPT_CPUID;
    case ASSIST_RDMSR:
      return INTERCEPT_RDMSR;
    case ASSIST_WRMSR:
      return INTERCEPT_WRMSR;
    case ASSIST_VMCALL:
      return INTERCEPT_VMCALL;
    case ASSIST_WBINVD:
      return INTERCEPT_WBINVD;
    case ASSIST_MONITOR:
      return INTERCEPT_MONITOR;
    case ASSIST_MWAIT:
      return INTERCEPT_MWAIT;
    case ASSIST_XSETBV:
      return INTERCEPT_XSETBV;
    case ASSIST_RDPMC:
      return INTERCEPT_RDPMC;
    case ASSIST_INVD:
      return INTERCEPT_INVD;
    case ASSIST_VMMCALL:
    case ASSIST_XGETBV:
      return NEVER;
    default:
      return INTERCEPT_VMX;
  }
}

function needsPrivilege(kind: u32): bool {
  return kind !== ASSIST_CPUID && kind !== ASSIST_VMCALL && kind !== ASSIST_VMMCALL && kind !== ASSIST_XGETBV && kind !== ASSIST_RDPMC;
}

export function assist(pc: usize, kind: i64): i32 {
  const number = kind as u32;
  const bit = classOf(number);
  // VMCALL and the other VMX instructions leave a guest before the privilege check (SDM vol. 3, 26.1.1).
  const isVmx = bit === INTERCEPT_VMX || bit === INTERCEPT_VMCALL;
  const leaves = bit !== NEVER && isIntercepted(bit as u32);
  if (isVmx && leaves) return leaveVmx(pc, number, bit as u32);
  if (load<u32>(CPU_CPL) !== 0 && needsPrivilege(number)) return fault(VECTOR_GP, 0);
  if (leaves) return intercept(pc, bit as u32);
  store<u32>(CPU_EXIT_SIZE, 0);
  return leaveFor(pc, EXIT_ASSIST, number);
}

/** The host must know which instruction it was: EXIT_PORT carries the ASSIST_* number. */
function leaveVmx(pc: usize, kind: u32, bit: u32): i32 {
  store<u32>(CPU_EXIT_PORT, kind);
  return intercept(pc, bit);
}

/** An assist with a memory operand: EXIT_ADDRESS is its linear address, EXIT_SIZE is 8. */
export function assistMemory(pc: usize, kind: i64, va: i64): i32 {
  const code = assist(pc, kind);
  if (code === LEAVE_EXIT) {
    store<i64>(CPU_EXIT_ADDRESS, va);
    store<u32>(CPU_EXIT_SIZE, 8);
  }
  return code;
}

/** UD2, encodings that are not valid, and instructions that are not implemented (imm: their number, else 0). */
export function undefinedInstruction(_pc: usize, number: i64): i32 {
  store<u32>(CPU_EXIT_REGISTER2, number as u32);
  noteUnimplemented(number as u32);
  return fault(VECTOR_UD, 0);
}

/** Tells the host which instruction it was, so that a run can name what it lacks. */
declare function noteUnimplemented(number: u32): void;

/** PAUSE: a hint, unless a guest's leaves. */
export function pause(pc: usize): i32 {
  return isIntercepted(INTERCEPT_PAUSE) ? intercept(pc, INTERCEPT_PAUSE) : 0;
}

// Ports. imm: bytes in the low 3 bits; for the immediate forms the port in bits 8 to 15; IO_* << 3 for string forms. -------------

function port(pc: usize, direction: u32, number: u32, bytes: u32, string: u32): i32 {
  const iopl = (load<u64>(CPU_RFLAGS) & (IOPL as u64)) >> 12;
  // The I/O permission bitmap of the TSS is not consulted: above IOPL all ports are denied.
  if ((load<u32>(CPU_CPL) as u64) > iopl) return fault(VECTOR_GP, 0);
  store<u32>(CPU_EXIT_PORT, number & 0xffff);
  const kind = direction === IO_IN ? ASSIST_IN : ASSIST_OUT;
  const code = isIntercepted(INTERCEPT_IO) ? intercept(pc, INTERCEPT_IO) : leaveFor(pc, EXIT_ASSIST, kind);
  store<u32>(CPU_EXIT_SIZE, bytes);
  store<u32>(CPU_EXIT_STRING, direction | string);
  return code;
}

export function portIn(pc: usize, operand: i64): i32 {
  return port(pc, IO_IN, ((operand as u32) >> 8) & 0xff, (operand as u32) & 7, 0);
}

export function portInDx(pc: usize, operand: i64): i32 {
  return port(pc, IO_IN, load<u16>(RDX), (operand as u32) & 7, 0);
}

export function portOut(pc: usize, operand: i64): i32 {
  return port(pc, 0, ((operand as u32) >> 8) & 0xff, (operand as u32) & 7, 0);
}

export function portOutDx(pc: usize, operand: i64): i32 {
  return port(pc, 0, load<u16>(RDX), (operand as u32) & 7, 0);
}

/** INS: bit 8 of imm is the REP prefix. EXIT_ADDRESS: the destination. */
export function portInString(pc: usize, operand: i64): i32 {
  const code = port(pc, IO_IN, load<u16>(RDX), (operand as u32) & 7, IO_STRING | (operand & 0x100 ? IO_REP : 0));
  store<u64>(CPU_EXIT_ADDRESS, load<u64>(CPU_REGS + 56));
  return code;
}

/** OUTS: `base` is the base of the source segment. EXIT_ADDRESS: the source. */
export function portOutString(pc: usize, operand: i64, base: i64): i32 {
  const code = port(pc, 0, load<u16>(RDX), (operand as u32) & 7, IO_STRING | (operand & 0x100 ? IO_REP : 0));
  store<i64>(CPU_EXIT_ADDRESS, load<i64>(CPU_REGS + 48) + base);
  return code;
}
