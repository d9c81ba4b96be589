// The remaining system instructions: interrupt flag, flags on the stack, halting, time stamps, fences and cache lines, traps to the
// host, CMPXCHG8B and CMPXCHG16B.
import { intercept, isIntercepted } from "./assist.ts";
import { siteOf } from "./blocks.ts";
import { CR4_SMAP, CR4_TSD, refreshMode } from "./context.ts";
import { ripOf } from "./events.ts";
import { fault } from "./faults.ts";
import { AC, DF, IF, IOPL, RF, readFlags, VIF, VIP, VM, writeFlags, ZF } from "./flags.ts";
import {
  ACCESS_EXECUTE,
  ACCESS_READ,
  BOUNCE_REGION,
  CPU_CPL,
  CPU_CR4,
  CPU_EXIT,
  CPU_EXIT_LENGTH,
  CPU_EXIT_PHYSICAL,
  CPU_FLAG_A,
  CPU_FLAG_KIND,
  CPU_GENERATION,
  CPU_HALTED,
  CPU_MSR_TSC_AUX,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_SHADOW,
  CPU_TSC_OFFSET,
  EXIT_HALT,
  EXIT_TRAP,
  FLAGS_RAW,
  INTERCEPT_HLT,
  INTERCEPT_RDTSC,
  LEAVE_EXIT_AFTER,
  LEAVE_FAULT,
  LEAVE_NEXT,
  SITE_LENGTH,
  SOFT_ADDEND,
  SOFT_EXECUTE,
  TRAPS_REGION,
  TRAPS_REGION_BYTES,
  UOP_DST,
} from "./layout.gen.ts";
import { commitBounce, findForRead, slowReadForWrite, softEntry } from "./memory.ts";
import { translate, VECTOR_GP, VECTOR_UD } from "./mmu.ts";
import { hostOf, isBounce, physicalOf } from "./physical.ts";
import { portFlushLine, portHostAccess, portPrefetchLine, portTime } from "./port.gen.ts";
import { moveStack, stackRead, stackWrite, valueAt } from "./stack.ts";

const RAX = CPU_REGS;
const RCX = CPU_REGS + 8;
const RDX = CPU_REGS + 16;
const RBX = CPU_REGS + 24;

function ioPrivileged(): bool {
  return (load<u32>(CPU_CPL) as u64) <= (load<u64>(CPU_RFLAGS) & (IOPL as u64)) >> 12;
}

export function clearInterruptFlag(_pc: usize): i32 {
  if (!ioPrivileged()) return fault(VECTOR_GP, 0);
  store<u64>(CPU_RFLAGS, load<u64>(CPU_RFLAGS) & ~(IF as u64));
  return 0;
}

/** STI holds interrupts back for one instruction when it changes IF from 0 to 1. */
export function setInterruptFlag(_pc: usize): i32 {
  if (!ioPrivileged()) return fault(VECTOR_GP, 0);
  const flags = load<u64>(CPU_RFLAGS);
  if (!(flags & (IF as u64))) {
    store<u64>(CPU_RFLAGS, flags | (IF as u64));
    store<u32>(CPU_SHADOW, 1);
  }
  return LEAVE_NEXT;
}

/** PUSHF, PUSHFD, PUSHFQ; imm: operand size. RF and VM read as 0. */
export function pushFlags(_pc: usize, bytes: i64): i32 {
  if (!stackWrite(-bytes, bytes as u32, readFlags() & ~((RF | VM) as u64))) return LEAVE_FAULT;
  moveStack(-bytes);
  return 0;
}

export function popFlags(_pc: usize, bytes: i64): i32 {
  const host = stackRead(0, bytes as u32);
  if (host === 0) return LEAVE_FAULT;
  const flags = readFlags();
  let changeable: u64 = ~((IOPL | IF | VIF | VIP | VM | RF) as u64);
  if (load<u32>(CPU_CPL) === 0) changeable |= (IOPL | IF) as u64;
  else if (ioPrivileged()) changeable |= IF as u64;
  if (bytes === 2) changeable &= 0xffff;
  const image = valueAt(host, bytes as u32);
  writeFlags((image & changeable) | (flags & ~changeable & ~(RF as u64)));
  moveStack(bytes);
  refreshMode();
  return LEAVE_NEXT;
}

/** CLD and STD: imm is the new DF. */
export function setDirection(_pc: usize, value: i64): i32 {
  const rest = load<u64>(CPU_RFLAGS) & ~(DF as u64);
  store<u64>(CPU_RFLAGS, value !== 0 ? rest | (DF as u64) : rest);
  return 0;
}

/** CLAC and STAC: imm is the new AC. */
export function setAlignmentCheck(_pc: usize, value: i64): i32 {
  if (load<u32>(CPU_CPL) !== 0 || !(load<u64>(CPU_CR4) & CR4_SMAP)) return fault(VECTOR_UD, 0);
  const rest = load<u64>(CPU_RFLAGS) & ~(AC as u64);
  store<u64>(CPU_RFLAGS, value !== 0 ? rest | (AC as u64) : rest);
  refreshMode();
  return 0;
}

export function halt(pc: usize): i32 {
  if (load<u32>(CPU_CPL) !== 0) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_HLT)) return intercept(pc, INTERCEPT_HLT);
  store<u32>(CPU_HALTED, 1);
  store<i32>(CPU_EXIT, EXIT_HALT);
  return LEAVE_EXIT_AFTER;
}

// Traps: UD0 EAX, EAX at a registered physical address. ------------------------------------------------------------------------

const TRAP_SLOTS: u32 = TRAPS_REGION_BYTES / 8;

function trapSlot(pa: u64): u32 {
  return ((pa >> 1) as u32) & (TRAP_SLOTS - 1);
}

/** Makes the trap instruction valid at `pa`. False: the table is full. */
export function addTrap(pa: u64): bool {
  let slot = trapSlot(pa);
  for (let n: u32 = 0; n < TRAP_SLOTS; n++, slot = (slot + 1) & (TRAP_SLOTS - 1)) {
    const held = load<u64>(TRAPS_REGION + slot * 8);
    if (held === pa + 1) return true;
    if (held !== 0) continue;
    // Addresses are kept plus one, so that 0 means empty.
    store<u64>(TRAPS_REGION + slot * 8, pa + 1);
    return true;
  }
  return false;
}

function isTrap(pa: u64): bool {
  let slot = trapSlot(pa);
  for (let n: u32 = 0; n < TRAP_SLOTS; n++, slot = (slot + 1) & (TRAP_SLOTS - 1)) {
    const held = load<u64>(TRAPS_REGION + slot * 8);
    if (held === pa + 1) return true;
    if (held === 0) return false;
  }
  return false;
}

export function trap(pc: usize): i32 {
  const rip = ripOf(pc) as i64;
  const entry = softEntry(rip);
  let pa: u64 = 0;
  if (load<u64>(entry, SOFT_EXECUTE) === (((rip & ~0xfff) as u64) | load<u64>(CPU_GENERATION))) {
    pa = physicalOf((rip as u32) + load<u32>(entry, SOFT_ADDEND));
  } else {
    const walked = translate(rip, ACCESS_EXECUTE, load<u32>(CPU_CPL) === 3 ? 3 : 0);
    if (walked < 0) return LEAVE_FAULT;
    pa = walked as u64;
  }
  if (!isTrap(pa)) return fault(VECTOR_UD, 0);
  store<u64>(CPU_EXIT_PHYSICAL, pa);
  store<i32>(CPU_EXIT, EXIT_TRAP);
  store<u32>(CPU_EXIT_LENGTH, load<u8>(siteOf(pc as u32), SITE_LENGTH));
  return LEAVE_EXIT_AFTER;
}

// Time ---------------------------------------------------------------------------------------------------------------------------

export function readTimeStamp(pc: usize): i32 {
  if (load<u64>(CPU_CR4) & CR4_TSD && load<u32>(CPU_CPL) !== 0) return fault(VECTOR_GP, 0);
  if (isIntercepted(INTERCEPT_RDTSC)) return intercept(pc, INTERCEPT_RDTSC);
  const time = portTime() + (load<i64>(CPU_TSC_OFFSET) as u64);
  store<u64>(RAX, time & 0xffffffff);
  store<u64>(RDX, time >> 32);
  return 0;
}

export function readTimeStampAndAux(pc: usize): i32 {
  const code = readTimeStamp(pc);
  if (code === 0) store<u64>(RCX, load<u64>(CPU_MSR_TSC_AUX) & 0xffffffff);
  return code;
}

export function readProcessorId(pc: usize): i32 {
  store<u64>(load<u8>(pc, UOP_DST), load<u64>(CPU_MSR_TSC_AUX), CPU_REGS);
  return 0;
}

// Fences and cache lines. Order is what the detailed gear gives them by their latency class; here they only mark the place. --------

export function loadFence(_pc: usize): i32 {
  return 0;
}

export function memoryFence(_pc: usize): i32 {
  return 0;
}

export function storeFence(_pc: usize): i32 {
  return 0;
}

/** CLFLUSH and CLFLUSHOPT: checked as a byte load. */
export function flushLine(_pc: usize, va: i64): i32 {
  const host = findForRead(va, 1, load<u64>(CPU_GENERATION));
  if (host === 0) return LEAVE_FAULT;
  if (!isBounce(host)) portFlushLine(physicalOf(host));
  return 0;
}

/** PREFETCHh never faults; where the translation fails it does nothing. */
export function prefetchLine(_pc: usize, va: i64): i32 {
  const pa = translate(va, ACCESS_READ, (load<u64>(CPU_GENERATION) as u32) & 3);
  if (pa >= 0) portPrefetchLine(physicalOf(hostOf(pa as u64)));
  return 0;
}

// Pairs --------------------------------------------------------------------------------------------------------------------------

/** CMPXCHG8B (imm 8) and CMPXCHG16B (imm 16, aligned). */
export function compareExchangePair(_pc: usize, bytes: i64, va: i64): i32 {
  const isWide = bytes === 16;
  if (isWide && (va & 15) !== 0) return fault(VECTOR_GP, 0);
  const host = slowReadForWrite(va, bytes as u32);
  if (host === 0) return LEAVE_FAULT;
  portHostAccess(host, bytes as u32, true);
  const low = isWide ? load<u64>(host) : (load<u32>(host) as u64);
  const high = isWide ? load<u64>(host, 8) : (load<u32>(host, 4) as u64);
  const mask: u64 = isWide ? u64.MAX_VALUE : 0xffffffff;
  const equal = low === (load<u64>(RAX) & mask) && high === (load<u64>(RDX) & mask);
  if (equal) {
    if (isWide) {
      store<u64>(host, load<u64>(RBX));
      store<u64>(host, load<u64>(RCX), 8);
    } else {
      store<u32>(host, load<u32>(RBX));
      store<u32>(host, load<u32>(RCX), 4);
    }
    if (host === BOUNCE_REGION) commitBounce(va, bytes as u32);
  } else {
    store<u64>(RAX, low);
    store<u64>(RDX, high);
  }
  store<i64>(CPU_FLAG_A, ((readFlags() & ~(ZF as u64)) | (equal ? (ZF as u64) : 0)) as i64);
  store<i32>(CPU_FLAG_KIND, FLAGS_RAW);
  return 0;
}
