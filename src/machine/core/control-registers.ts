// Control and debug registers, descriptor-table registers, TLB instructions (SDM vol. 3, 2.5; vol. 2: MOV CRn, INVLPG, INVPCID).
import { intercept, isIntercepted } from "./assist.ts";
import { CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_FRED, CR4_PCIDE, refreshContext } from "./context.ts";
import { fault } from "./faults.ts";
import {
  CPU_CPL,
  CPU_CR0,
  CPU_CR0_MASK,
  CPU_CR0_SHADOW,
  CPU_CR2,
  CPU_CR3,
  CPU_CR4,
  CPU_CR4_MASK,
  CPU_CR4_SHADOW,
  CPU_CR8,
  CPU_DR,
  CPU_EXIT_ADDRESS,
  CPU_EXIT_PORT,
  CPU_EXIT_REGISTER,
  CPU_EXIT_REGISTER2,
  CPU_FEATURES,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_GENERATION,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_REGS,
  FEATURE_FRED,
  INTERCEPT_CLTS_LMSW,
  INTERCEPT_CR0_WRITE,
  INTERCEPT_CR3_READ,
  INTERCEPT_CR3_WRITE,
  INTERCEPT_CR4_WRITE,
  INTERCEPT_CR8_READ,
  INTERCEPT_CR8_WRITE,
  INTERCEPT_DESCTABLE,
  INTERCEPT_DR,
  INTERCEPT_INVLPG,
  LEAVE_FAULT,
  LEAVE_NEXT,
  UOP_DST,
  UOP_SRC,
} from "./layout.gen.ts";
import { slowRead, storeAs } from "./memory.ts";
import { isCanonical, VECTOR_GP, VECTOR_UD } from "./mmu.ts";
import { portSerialize } from "./port.gen.ts";
import { isUserPrevented } from "./segments.ts";
import { isCompat } from "./stack.ts";
import { currentPcid, currentVpid, flushTlb, invalidateAddress, invalidateAddressIn } from "./tlb.ts";

const CR3_NOFLUSH: u64 = 0x8000000000000000;
const CR3_BITS: u64 = 0x000fffffffffffff;
/** Bits of CR4 that exist here; others are reserved. SMXE, LA57, PKE, CET and the like are not simulated. */
const CR4_ALLOWED: u64 = 0x3727ff;
/** Changes of these CR4 bits flush all translations (SDM vol. 3, 5.10.4.1). */
const CR4_FLUSHING: u64 = 0x3200b0;
const CR0_ALLOWED: u64 = 0xe005003f;

function privileged(): bool {
  return load<u32>(CPU_CPL) === 0;
}

/** What a read gives: the host's bits come from the read shadow (SDM vol. 3, 26.6.6). */
function masked(value: u64, mask: usize, shadow: usize): u64 {
  return (value & ~load<u64>(mask)) | (load<u64>(shadow) & load<u64>(mask));
}

function visibleCr0(): u64 {
  return masked(load<u64>(CPU_CR0), CPU_CR0_MASK, CPU_CR0_SHADOW);
}

/** MOV r, CRn. `dst`: the register. */
export function readControlRegister(pc: usize, number: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  let value: u64 = 0;
  switch (number as i32) {
    case 0:
      value = visibleCr0();
      break;
    case 2:
      value = load<u64>(CPU_CR2);
      break;
    case 3:
      if (isIntercepted(INTERCEPT_CR3_READ)) return leaveCr(pc, INTERCEPT_CR3_READ, 3, UOP_DST);
      value = load<u64>(CPU_CR3);
      break;
    case 4:
      value = masked(load<u64>(CPU_CR4), CPU_CR4_MASK, CPU_CR4_SHADOW);
      break;
    case 8:
      if (isIntercepted(INTERCEPT_CR8_READ)) return leaveCr(pc, INTERCEPT_CR8_READ, 8, UOP_DST);
      value = load<u64>(CPU_CR8);
      break;
    default:
      return fault(VECTOR_UD, 0);
  }
  store<u64>(load<u8>(pc, UOP_DST), value, CPU_REGS);
  return 0;
}

/** EXIT_REGISTER: the general register; EXIT_PORT: the control register. */
function leaveCr(pc: usize, bit: u32, cr: u32, field: usize): i32 {
  const code = intercept(pc, bit);
  store<u32>(CPU_EXIT_REGISTER, load<u8>(pc + field) >> 3);
  store<u32>(CPU_EXIT_PORT, cr);
  return code;
}

export function writeControlRegister(pc: usize, number: i64, value: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  let code: i32 = 0;
  switch (number as i32) {
    case 0:
      if (isIntercepted(INTERCEPT_CR0_WRITE)) return leaveCr(pc, INTERCEPT_CR0_WRITE, 0, UOP_SRC);
      code = writeCr0(value as u64);
      break;
    case 2:
      store<i64>(CPU_CR2, value);
      break;
    case 3:
      if (isIntercepted(INTERCEPT_CR3_WRITE)) return leaveCr(pc, INTERCEPT_CR3_WRITE, 3, UOP_SRC);
      code = writeCr3(value as u64);
      break;
    case 4:
      if (isIntercepted(INTERCEPT_CR4_WRITE)) return leaveCr(pc, INTERCEPT_CR4_WRITE, 4, UOP_SRC);
      code = writeCr4(value as u64);
      break;
    case 8:
      if (isIntercepted(INTERCEPT_CR8_WRITE)) return leaveCr(pc, INTERCEPT_CR8_WRITE, 8, UOP_SRC);
      if ((value as u64) > 15) return fault(VECTOR_GP, 0);
      store<i64>(CPU_CR8, value);
      break;
    default:
      return fault(VECTOR_UD, 0);
  }
  // The next instruction is fetched anew, by the new rules.
  return code === 0 ? LEAVE_NEXT : code;
}

function writeCr0(value: u64): i32 {
  if (value & ~CR0_ALLOWED & 0xffffffff00000000) return fault(VECTOR_GP, 0);
  const next = (value & CR0_ALLOWED) | 0x10;
  // Leaving 64-bit mode is not implemented: paging and protection stay on.
  if (!(next & CR0_PG) || !(next & CR0_PE)) return fault(VECTOR_GP, 0);
  if (next & 0x20000000 && !(next & 0x40000000)) return fault(VECTOR_GP, 0);
  const changed = next ^ load<u64>(CPU_CR0);
  store<u64>(CPU_CR0, next);
  if (changed & (CR0_PG | CR0_WP)) refreshContext();
  return 0;
}

/** CR3: without PCIDE or with bit 63 clear, the non-global translations of the new PCID go (SDM vol. 3, 5.10.4.1). */
export function writeCr3(value: u64): i32 {
  const pcids = (load<u64>(CPU_CR4) & CR4_PCIDE) !== 0;
  if (value & ~(CR3_BITS | (pcids ? CR3_NOFLUSH : 0))) return fault(VECTOR_GP, 0);
  store<u64>(CPU_CR3, value & CR3_BITS);
  if (pcids && value & CR3_NOFLUSH) refreshContext();
  else flushTlb(currentPcid() as i32, currentVpid() as i32, -1, true);
  portSerialize();
  return 0;
}

function writeCr4(value: u64): i32 {
  const allowed = load<u32>(CPU_FEATURES) & FEATURE_FRED ? CR4_ALLOWED | CR4_FRED : CR4_ALLOWED;
  if (value & ~allowed || !(value & 0x20)) return fault(VECTOR_GP, 0);
  const old = load<u64>(CPU_CR4);
  if (value & CR4_PCIDE && !(old & CR4_PCIDE) && load<u64>(CPU_CR3) & 0xfff) return fault(VECTOR_GP, 0);
  store<u64>(CPU_CR4, value);
  if ((value ^ old) & CR4_FLUSHING) flushTlb(-1, currentVpid() as i32, -1, false);
  else refreshContext();
  return 0;
}

export function clearTaskSwitched(pc: usize): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_CLTS_LMSW)) return leaveMachineStatus(pc, 0);
  store<u64>(CPU_CR0, load<u64>(CPU_CR0) & ~CR0_TS);
  return 0;
}

/** EXIT_PORT: 0 CLTS, 1 LMSW; EXIT_ADDRESS: the source value of LMSW. */
function leaveMachineStatus(pc: usize, which: u32): i32 {
  const code = intercept(pc, INTERCEPT_CLTS_LMSW);
  store<u32>(CPU_EXIT_PORT, which);
  return code;
}

/** LMSW can set PE, and change MP, EM, TS. */
export function loadMachineStatus(pc: usize, value: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_CLTS_LMSW)) {
    store<i64>(CPU_EXIT_ADDRESS, value & 0xffff);
    return leaveMachineStatus(pc, 1);
  }
  const old = load<u64>(CPU_CR0);
  store<u64>(CPU_CR0, (old & ~(0xe as u64)) | ((value as u64) & 0xf));
  return 0;
}

export function loadMachineStatusMemory(pc: usize, va: i64): i32 {
  const host = slowRead(va, 2);
  return host === 0 ? LEAVE_FAULT : loadMachineStatus(pc, load<u16>(host) as i64);
}

/** SMSW to a register; imm is the operand width in bytes. */
export function storeMachineStatus(pc: usize, bytes: i64): i32 {
  if (isUserPrevented()) return fault(VECTOR_GP, 0);
  const value = visibleCr0();
  const register = load<u8>(pc, UOP_DST);
  if (bytes === 2) store<u16>(register, value as u16, CPU_REGS);
  else store<u64>(register, bytes === 4 ? value & 0xffffffff : value, CPU_REGS);
  return 0;
}

export function storeMachineStatusMemory(_pc: usize, va: i64): i32 {
  if (isUserPrevented()) return fault(VECTOR_GP, 0);
  return storeAs(va, 2, visibleCr0() as i64, load<u64>(CPU_GENERATION)) ? 0 : LEAVE_FAULT;
}

export function readDebugRegister(pc: usize, number: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_DR)) return leaveCr(pc, INTERCEPT_DR, number as u32, UOP_DST);
  store<u64>(load<u8>(pc, UOP_DST), load<u64>(CPU_DR + ((number as u32) << 3)), CPU_REGS);
  return 0;
}

/** Breakpoints are stored and do not trigger. */
export function writeDebugRegister(pc: usize, number: i64, value: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_DR)) return leaveCr(pc, INTERCEPT_DR, (number as u32) | 16, UOP_SRC);
  store<i64>(CPU_DR + ((number as u32) << 3), value);
  return 0;
}

/** LGDT (imm 0) and LIDT (imm 1). */
export function loadDescriptorTable(pc: usize, which: i64, va: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_DESCTABLE)) return leaveTable(pc, which as u32, va);
  const host = slowRead(va, 10);
  if (host === 0) return LEAVE_FAULT;
  const limit = load<u16>(host) as u32;
  const base = load<u64>(host, 2);
  if (!isCanonical(base as i64)) return fault(VECTOR_GP, 0);
  store<u64>(which === 0 ? CPU_GDTR_BASE : CPU_IDTR_BASE, base);
  store<u32>(which === 0 ? CPU_GDTR_LIMIT : CPU_IDTR_LIMIT, limit);
  return 0;
}

/** EXIT_PORT: 0 LGDT, 1 LIDT, 2 SGDT, 3 SIDT. */
function leaveTable(pc: usize, which: u32, va: i64): i32 {
  const code = intercept(pc, INTERCEPT_DESCTABLE);
  store<u32>(CPU_EXIT_PORT, which);
  store<i64>(CPU_EXIT_ADDRESS, va);
  return code;
}

export function storeDescriptorTable(pc: usize, which: i64, va: i64): i32 {
  if (isUserPrevented()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_DESCTABLE)) return leaveTable(pc, (which as u32) + 2, va);
  const base = load<i64>(which === 0 ? CPU_GDTR_BASE : CPU_IDTR_BASE);
  const limit = load<u32>(which === 0 ? CPU_GDTR_LIMIT : CPU_IDTR_LIMIT);
  const generation = load<u64>(CPU_GENERATION);
  // The second part first: if it faults, nothing of the first is written.
  if (!storeAs(va + 2, isCompat() ? 4 : 8, base, generation)) return LEAVE_FAULT;
  return storeAs(va, 2, limit as i64, generation) ? 0 : LEAVE_FAULT;
}

export function invalidatePage(pc: usize, va: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_INVLPG)) {
    const code = intercept(pc, INTERCEPT_INVLPG);
    store<i64>(CPU_EXIT_ADDRESS, va);
    return code;
  }
  if (isCanonical(va)) invalidateAddress(va as u64);
  return LEAVE_NEXT;
}

/** INVPCID: type in `dst`, descriptor {pcid, address} in memory. */
export function invalidatePcid(pc: usize, type: i64, va: i64): i32 {
  if (!privileged()) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_INVLPG)) {
    const code = intercept(pc, INTERCEPT_INVLPG);
    store<i64>(CPU_EXIT_ADDRESS, va);
    store<u32>(CPU_EXIT_REGISTER2, 1);
    return code;
  }
  const host = slowRead(va, 16);
  if (host === 0) return LEAVE_FAULT;
  const pcid = load<u64>(host);
  const address = load<i64>(host, 8);
  return invalidateByType(type, pcid, address) ? LEAVE_NEXT : fault(VECTOR_GP, 0);
}

/** The four INVPCID types. False: the operands are invalid. */
export function invalidateByType(type: i64, pcid: u64, address: i64): bool {
  if ((type as u64) > 3 || pcid > 4095) return false;
  if (pcid !== 0 && !(load<u64>(CPU_CR4) & CR4_PCIDE) && type < 2) return false;
  const vpid = currentVpid();
  switch (type as i32) {
    case 0:
      if (!isCanonical(address)) return false;
      invalidateAddressIn(address as u64, pcid as u32, vpid, false);
      break;
    case 1:
      flushTlb(pcid as i32, vpid as i32, -1, true);
      break;
    case 2:
      flushTlb(-1, vpid as i32, -1, false);
      break;
    default:
      flushTlb(-1, vpid as i32, -1, true);
      break;
  }
  return true;
}
