// The fast ways into the kernel and back: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS (SDM vol. 2; APM vol. 3 where processors of AMD
// differ: SYSCALL from compatibility mode goes to CSTAR there, and SYSENTER is undefined in long mode; with Intel it is the other way round).
import { EFER_SCE, refreshMode } from "./context.ts";
import { nextRipOf, softwareEvent } from "./events.ts";
import { fault } from "./faults.ts";
import { IF, RF, readFlags, VM, writeFlags } from "./flags.ts";
import { isFred, swapGsBase } from "./fred-delivery.ts";
import {
  CPU_CPL,
  CPU_EFER,
  CPU_FEATURES,
  CPU_MSR_CSTAR,
  CPU_MSR_FMASK,
  CPU_MSR_LSTAR,
  CPU_MSR_STAR,
  CPU_MSR_SYSENTER_CS,
  CPU_MSR_SYSENTER_EIP,
  CPU_MSR_SYSENTER_ESP,
  CPU_REGS,
  CPU_RIP,
  EVENT_OTHER,
  FEATURE_AMD,
  LEAVE_STEPPED,
  SEG_CS,
  SEG_SS,
} from "./layout.gen.ts";
import { isCanonical, VECTOR_GP, VECTOR_UD } from "./mmu.ts";
import { setFlatSegment } from "./segments.ts";
import { codeBase, isCompat, sizeOf } from "./stack.ts";

const RCX = CPU_REGS + 8;
const RDX = CPU_REGS + 16;
const RSP = CPU_REGS + 32;
const R11 = CPU_REGS + 88;
const CODE64_KERNEL: u32 = 0xa09b;
const CODE64_USER: u32 = 0xa0fb;
const CODE32_USER: u32 = 0xc0fb;
const DATA_KERNEL: u32 = 0xc093;
const DATA_USER: u32 = 0xc0f3;
/** Vectors of the other events of FRED. */
const FRED_SYSCALL: u32 = 1;
const FRED_SYSENTER: u32 = 2;
/** RFLAGS that SYSRET loads. */
const RETURNED_FLAGS: u64 = 0x3c7fd7;

function isAmd(): bool {
  return (load<u32>(CPU_FEATURES) & FEATURE_AMD) !== 0;
}

function enterKernel(selector: u32): void {
  setFlatSegment(SEG_CS, selector, CODE64_KERNEL);
  setFlatSegment(SEG_SS, selector + 8, DATA_KERNEL);
  store<u32>(CPU_CPL, 0);
  refreshMode();
}

function returnToUser(cs: u32, ss: u32, access: u32): void {
  setFlatSegment(SEG_CS, cs | 3, access);
  setFlatSegment(SEG_SS, ss | 3, DATA_USER);
  store<u32>(CPU_CPL, 3);
  refreshMode();
}

export function systemCall(pc: usize): i32 {
  if (isFred()) return load<u64>(CPU_EFER) & EFER_SCE ? softwareEvent(pc, FRED_SYSCALL, EVENT_OTHER) : fault(VECTOR_UD, 0);
  if (!(load<u64>(CPU_EFER) & EFER_SCE) || (isCompat() && !isAmd())) return fault(VECTOR_UD, 0);
  const flags = readFlags();
  store<u64>(RCX, nextRipOf(pc) - codeBase());
  store<u64>(R11, flags & ~(RF as u64));
  store<u64>(CPU_RIP, load<u64>(isCompat() ? CPU_MSR_CSTAR : CPU_MSR_LSTAR));
  writeFlags(flags & ~load<u64>(CPU_MSR_FMASK) & ~(RF as u64));
  enterKernel(((load<u64>(CPU_MSR_STAR) >> 32) as u32) & 0xfffc);
  return LEAVE_STEPPED;
}

function systemReturnTo(rip: u64, csOffset: u32, access: u32): i32 {
  if (!(load<u64>(CPU_EFER) & EFER_SCE) || isFred()) return fault(VECTOR_UD, 0);
  if (load<u32>(CPU_CPL) !== 0 || !isCanonical(rip as i64)) return fault(VECTOR_GP, 0);
  store<u64>(CPU_RIP, rip);
  writeFlags((load<u64>(R11) & RETURNED_FLAGS) | 2);
  const selector = ((load<u64>(CPU_MSR_STAR) >> 48) as u32) & 0xffff;
  returnToUser(selector + csOffset, selector + 8, access);
  return LEAVE_STEPPED;
}

/** SYSRETQ. A non-canonical RCX faults in the kernel, on the user's stack: Intel's behaviour. */
export function systemReturn(_pc: usize): i32 {
  return systemReturnTo(load<u64>(RCX), 16, CODE64_USER);
}

/** SYSRET with an operand size of 32 bits: to compatibility mode. */
export function systemReturnCompat(_pc: usize): i32 {
  return systemReturnTo(load<u64>(RCX) & 0xffffffff, 0, CODE32_USER);
}

/** SYSENTER: the user's instruction and stack pointers are lost, and TF stays (SDM vol. 2, SYSENTER). */
export function systemEnter(pc: usize): i32 {
  if (isFred()) return softwareEvent(pc, FRED_SYSENTER, EVENT_OTHER);
  if (isAmd()) return fault(VECTOR_UD, 0);
  const selector = (load<u64>(CPU_MSR_SYSENTER_CS) as u32) & 0xfffc;
  if (selector === 0) return fault(VECTOR_GP, 0);
  writeFlags(readFlags() & ~((IF | VM | RF) as u64));
  store<u64>(RSP, load<u64>(CPU_MSR_SYSENTER_ESP));
  store<u64>(CPU_RIP, load<u64>(CPU_MSR_SYSENTER_EIP));
  enterKernel(selector);
  return LEAVE_STEPPED;
}

/** SYSEXIT: RIP from RDX, RSP from RCX; with 32 bits to compatibility mode. */
export function systemExit(pc: usize): i32 {
  if (isAmd() || isFred()) return fault(VECTOR_UD, 0);
  const selector = (load<u64>(CPU_MSR_SYSENTER_CS) as u32) & 0xfffc;
  if (selector === 0 || load<u32>(CPU_CPL) !== 0) return fault(VECTOR_GP, 0);
  const isWide = sizeOf(pc) === 8;
  const rip = load<i64>(RDX);
  const rsp = load<i64>(RCX);
  if (isWide && (!isCanonical(rip) || !isCanonical(rsp))) return fault(VECTOR_GP, 0);
  store<u64>(CPU_RIP, isWide ? (rip as u64) : (rip as u64) & 0xffffffff);
  store<u64>(RSP, isWide ? (rsp as u64) : (rsp as u64) & 0xffffffff);
  if (isWide) returnToUser(selector + 32, selector + 40, CODE64_USER);
  else returnToUser(selector + 16, selector + 24, CODE32_USER);
  return LEAVE_STEPPED;
}

export function swapGs(_pc: usize): i32 {
  if (isFred()) return fault(VECTOR_UD, 0);
  if (load<u32>(CPU_CPL) !== 0) return fault(VECTOR_GP, 0);
  swapGsBase();
  return 0;
}
