// The returns of FRED (specification, 6): ERETU to ring 3, ERETS within ring 0, and LKGS. The frame is that of the delivery; both skip the
// word of the error code, to which RSP points.
import { refreshMode } from "./context.ts";
import { checkReturnCode, checkReturnStack, dropInnerSegments, enter } from "./far-transfers.ts";
import { fault } from "./faults.ts";
import { VM, writeFlags } from "./flags.ts";
import { fredCs, isFred, swapGsBase } from "./fred-delivery.ts";
import {
  CPU_CPL,
  CPU_FEATURES,
  CPU_GS_BASE,
  CPU_MSR_FRED_CONFIG,
  CPU_MSR_KERNEL_GS_BASE,
  CPU_NMI_BLOCKED,
  CPU_REGS,
  CPU_RIP,
  CPU_SHADOW,
  FEATURE_FRED,
  LEAVE_FAULT,
  LEAVE_NEXT,
  LEAVE_STEPPED,
  SEG_GS,
  SEG_SS,
  SHARED_SCRATCH,
} from "./layout.gen.ts";
import { slowRead } from "./memory.ts";
import { isCanonical, VECTOR_GP, VECTOR_UD } from "./mmu.ts";
import { portSerialize } from "./port.gen.ts";
import { isLong, loadSegment, setNullSegment, setSegment } from "./segments.ts";
import { isCompat, stackRead } from "./stack.ts";

const RSP = CPU_REGS + 32;
const LEVEL: u64 = 3;
const INFO_STI: u64 = 1 << 16;
const INFO_NMI: u64 = 1 << 18;

/** Reads the frame's RIP, CS, RFLAGS, RSP, SS to SHARED_SCRATCH + 24 and on (the words before it are others'). */
function readFrame(): bool {
  for (let n: u32 = 0; n < 5; n++) {
    const host = stackRead((8 + n * 8) as i64, 8);
    if (host === 0) return false;
    store<u64>(SHARED_SCRATCH + 24 + n * 8, load<u64>(host));
  }
  return true;
}

function frameWord(n: u32): u64 {
  return load<u64>(SHARED_SCRATCH + 24 + n * 8);
}

function isRefused(): i32 {
  if (!isFred() || isCompat()) return fault(VECTOR_UD, 0);
  return load<u32>(CPU_CPL) !== 0 ? fault(VECTOR_GP, 0) : 0;
}

/** ERETU: only from stack level 0. ESP is restored as a whole, whatever the stack. */
export function eventReturnUser(_pc: usize): i32 {
  const refused = isRefused();
  if (refused !== 0) return refused;
  if (load<u64>(CPU_MSR_FRED_CONFIG) & LEVEL) return fault(VECTOR_GP, 0);
  if (!readFrame()) return LEAVE_FAULT;
  const rip = frameWord(0);
  const cs = (frameWord(1) as u32) & 0xffff;
  const flags = frameWord(2);
  const rsp = frameWord(3);
  const info = frameWord(4);
  const ss = (info as u32) & 0xffff;
  if ((cs & 3) !== 3 || frameWord(1) >> 16 || flags & (VM as u64)) return fault(VECTOR_GP, 0);
  const code = checkReturnCode(cs, rip);
  if (code !== 0) return code;
  const descriptor = load<u64>(SHARED_SCRATCH);
  const stackCode = checkReturnStack(ss, 3, isLong(descriptor));
  if (stackCode !== 0) return stackCode;
  const stackDescriptor = load<u64>(SHARED_SCRATCH);
  // From here nothing can fail.
  writeFlags(flags);
  dropInnerSegments(3);
  enter(cs, descriptor, 3, rip);
  if ((ss & 0xfffc) === 0) setNullSegment(SEG_SS, ss);
  else setSegment(SEG_SS, ss, stackDescriptor);
  refreshMode();
  store<u64>(RSP, rsp);
  swapGsBase();
  if (info & INFO_NMI) store<u32>(CPU_NMI_BLOCKED, 0);
  portSerialize();
  return LEAVE_STEPPED;
}

/** ERETS: to the stack level that the frame names, not above the current one. */
export function eventReturnSupervisor(_pc: usize): i32 {
  const refused = isRefused();
  if (refused !== 0) return refused;
  if (!readFrame()) return LEAVE_FAULT;
  const rip = frameWord(0);
  const flags = frameWord(2);
  const info = frameWord(4);
  const level = (frameWord(1) >> 16) & LEVEL;
  const config = load<u64>(CPU_MSR_FRED_CONFIG);
  const isSame = ((frameWord(1) as u32) & 0xffff) === fredCs() && ((info as u32) & 0xffff) === fredCs() + 8;
  if (!isSame || level > (config & LEVEL) || !isCanonical(rip as i64) || flags & (VM as u64)) return fault(VECTOR_GP, 0);
  store<u64>(CPU_MSR_FRED_CONFIG, (config & ~LEVEL) | level);
  writeFlags(flags);
  store<u64>(RSP, frameWord(3));
  store<u64>(CPU_RIP, rip);
  refreshMode();
  if (info & INFO_STI) store<u32>(CPU_SHADOW, 1);
  if (info & INFO_NMI) store<u32>(CPU_NMI_BLOCKED, 0);
  portSerialize();
  return LEAVE_STEPPED;
}

/** LKGS: as MOV to GS, but the base goes to IA32_KERNEL_GS_BASE (specification, 7). */
export function loadKernelGs(pc: usize, selector: i64): i32 {
  if (!(load<u32>(CPU_FEATURES) & FEATURE_FRED) || isCompat()) return fault(VECTOR_UD, 0);
  if (load<u32>(CPU_CPL) !== 0) return fault(VECTOR_GP, 0);
  const base = load<u64>(CPU_GS_BASE);
  const code = loadSegment(pc, SEG_GS as i64, selector & 0xffff);
  if (code !== 0 && code !== LEAVE_NEXT) return code;
  store<u64>(CPU_MSR_KERNEL_GS_BASE, load<u64>(CPU_GS_BASE));
  store<u64>(CPU_GS_BASE, base);
  return code;
}

export function loadKernelGsMemory(pc: usize, va: i64): i32 {
  const host = slowRead(va, 2);
  return host === 0 ? LEAVE_FAULT : loadKernelGs(pc, load<u16>(host) as i64);
}
