// What a guest may not do by itself: turns an exit of the core into a VM exit with its information fields, or, where bitmaps and
// masks allow the operation, performs it for the guest. SDM vol. 3, 27.1 (instructions), 29.2 (information fields), table 29-1 on.
import {
  CPU_BASED_UNCOND_IO_EXITING,
  CPU_BASED_USE_IO_BITMAPS,
  CPU_BASED_USE_MSR_BITMAPS,
  CR0_TS,
  EXIT_REASON,
  INTR_TYPE_HARD_EXCEPTION,
  INTR_TYPE_SOFT_EXCEPTION,
  type PhysicalMemory,
  physAddr,
  VECTOR_BP,
  VECTOR_GP,
  VECTOR_OF,
  VMCS,
} from "../hardware/index.ts";
import { CR0_FIXED0, CR4_FIXED1, type VmcsRegion } from "../platform/index.ts";
import { type AssistHost, accessPort, readMsr, writeMsr } from "./assists.ts";
import {
  ASSIST_INVEPT,
  ASSIST_INVVPID,
  ASSIST_VMCLEAR,
  ASSIST_VMLAUNCH,
  ASSIST_VMPTRLD,
  ASSIST_VMPTRST,
  ASSIST_VMREAD,
  ASSIST_VMRESUME,
  ASSIST_VMWRITE,
  ASSIST_VMXOFF,
  ASSIST_VMXON,
  CPU_CR0,
  CPU_CR4,
  CPU_EXIT_ADDRESS,
  CPU_EXIT_ERROR,
  CPU_EXIT_HAS_ERROR,
  CPU_EXIT_KIND,
  CPU_EXIT_LENGTH,
  CPU_EXIT_PHYSICAL,
  CPU_EXIT_PORT,
  CPU_EXIT_QUALIFICATION,
  CPU_EXIT_REGISTER,
  CPU_EXIT_REGISTER2,
  CPU_EXIT_SIZE,
  CPU_EXIT_STRING,
  CPU_EXIT_VECTOR,
  CPU_REGS,
  EXIT_EPT_MISCONFIG,
  EXIT_EPT_VIOLATION,
  EXIT_TRIPLE_FAULT,
  INTERCEPT_CLTS_LMSW,
  INTERCEPT_CPUID,
  INTERCEPT_CR0_WRITE,
  INTERCEPT_CR3_READ,
  INTERCEPT_CR3_WRITE,
  INTERCEPT_CR4_WRITE,
  INTERCEPT_CR8_READ,
  INTERCEPT_CR8_WRITE,
  INTERCEPT_DESCTABLE,
  INTERCEPT_DR,
  INTERCEPT_EXCEPTION,
  INTERCEPT_HLT,
  INTERCEPT_INVD,
  INTERCEPT_INVLPG,
  INTERCEPT_IO,
  INTERCEPT_MONITOR,
  INTERCEPT_MWAIT,
  INTERCEPT_PAUSE,
  INTERCEPT_RDMSR,
  INTERCEPT_RDPMC,
  INTERCEPT_RDTSC,
  INTERCEPT_VMCALL,
  INTERCEPT_VMX,
  INTERCEPT_WBINVD,
  INTERCEPT_WRMSR,
  INTERCEPT_XSETBV,
  IO_IN,
  IO_REP,
  IO_STRING,
} from "./core/layout.gen.ts";

export interface GuestExitHost extends AssistHost {
  readonly memory: PhysicalMemory;
  /** MOV to CR0 or CR4 with its effects on translation. */
  writeControlRegister(register: 0 | 4, low: number): void;
}

const RCX = CPU_REGS + 8;
const RDTSC_BYTES = 2;
/** Access type in the qualification of a control-register access. Table 29-3. */
const CR_MOV_FROM = 1 << 4;
const CR_CLTS = 2 << 4;
const CR_LMSW = 3 << 4;
const DR_MOV_FROM = 1 << 4;
/** Offsets in the MSR bitmap. SDM vol. 3, 26.6.9. */
const BITMAP_READ_HIGH = 1024;
const BITMAP_WRITE_LOW = 2048;
const FIRST_HIGH_MSR = 0xc0000000;
const BITMAP_MSRS = 0x2000;

/** Intercepts whose exit has neither qualification nor condition. */
const PLAIN: ReadonlyMap<number, number> = new Map([
  [INTERCEPT_HLT, EXIT_REASON.HLT],
  [INTERCEPT_CPUID, EXIT_REASON.CPUID],
  [INTERCEPT_PAUSE, EXIT_REASON.PAUSE_INSTRUCTION],
  [INTERCEPT_MWAIT, EXIT_REASON.MWAIT_INSTRUCTION],
  [INTERCEPT_MONITOR, EXIT_REASON.MONITOR_INSTRUCTION],
  [INTERCEPT_WBINVD, EXIT_REASON.WBINVD],
  [INTERCEPT_VMCALL, EXIT_REASON.VMCALL],
  [INTERCEPT_XSETBV, EXIT_REASON.XSETBV],
  [INTERCEPT_RDPMC, EXIT_REASON.RDPMC],
  [INTERCEPT_INVD, EXIT_REASON.INVD],
]);

/** Exit reasons of the VMX instructions. */
const VMX_REASONS: ReadonlyMap<number, number> = new Map([
  [ASSIST_VMLAUNCH, EXIT_REASON.VMLAUNCH],
  [ASSIST_VMRESUME, EXIT_REASON.VMRESUME],
  [ASSIST_VMXOFF, EXIT_REASON.VMOFF],
  [ASSIST_VMXON, EXIT_REASON.VMON],
  [ASSIST_VMCLEAR, EXIT_REASON.VMCLEAR],
  [ASSIST_VMPTRLD, EXIT_REASON.VMPTRLD],
  [ASSIST_VMPTRST, EXIT_REASON.VMPTRST],
  [ASSIST_VMREAD, EXIT_REASON.VMREAD],
  [ASSIST_VMWRITE, EXIT_REASON.VMWRITE],
  [ASSIST_INVEPT, EXIT_REASON.INVEPT],
  [ASSIST_INVVPID, EXIT_REASON.INVVPID],
]);

/** The core left a guest with `exit` (EXIT_*): a VM exit, or the operation itself where the VMCS allows it. hot: bench/exits */
export function leaveGuest(cpu: GuestExitHost, exit: number): void {
  const { vmxUnit: vmx } = cpu;
  const vmcs = vmx.vmcs;
  if (vmcs === null) return;
  vmx.clearInterruption();
  switch (exit) {
    case EXIT_EPT_VIOLATION:
    case EXIT_EPT_MISCONFIG:
      leaveWithAddress(cpu, vmcs, exit === EXIT_EPT_VIOLATION ? EXIT_REASON.EPT_VIOLATION : EXIT_REASON.EPT_MISCONFIG);
      return;
    case EXIT_TRIPLE_FAULT:
      vmx.exit(EXIT_REASON.TRIPLE_FAULT, 0, 0, 0);
      return;
    default:
      leaveForIntercept(cpu, vmcs, cpu.fields.low(CPU_EXIT_KIND));
  }
}

function leaveWithAddress(cpu: GuestExitHost, vmcs: VmcsRegion, reason: number): void {
  const { fields } = cpu;
  vmcs.set(VMCS.GUEST_PHYSICAL_ADDRESS, fields.low(CPU_EXIT_PHYSICAL), fields.high(CPU_EXIT_PHYSICAL));
  vmcs.set(VMCS.GUEST_LINEAR_ADDRESS, fields.low(CPU_EXIT_ADDRESS), fields.high(CPU_EXIT_ADDRESS));
  const qualification = reason === EXIT_REASON.EPT_VIOLATION ? fields.low(CPU_EXIT_QUALIFICATION) : 0;
  cpu.vmxUnit.exit(reason, qualification, 0, 0);
}

function leaveForIntercept(cpu: GuestExitHost, vmcs: VmcsRegion, kind: number): void {
  const { fields, vmxUnit: vmx } = cpu;
  const length = fields.low(CPU_EXIT_LENGTH);
  const plain = PLAIN.get(kind);
  if (plain !== undefined) {
    vmx.exit(plain, 0, 0, length);
    return;
  }
  switch (kind) {
    case INTERCEPT_EXCEPTION:
      leaveWithException(cpu, length);
      return;
    case INTERCEPT_IO:
      leaveForPort(cpu, vmcs, length);
      return;
    case INTERCEPT_RDMSR:
      if (isMsrIntercepted(cpu, vmcs, 0)) vmx.exit(EXIT_REASON.MSR_READ, 0, 0, length);
      else readMsr(cpu);
      return;
    case INTERCEPT_WRMSR:
      if (isMsrIntercepted(cpu, vmcs, BITMAP_WRITE_LOW)) vmx.exit(EXIT_REASON.MSR_WRITE, 0, 0, length);
      else writeMsr(cpu);
      return;
    case INTERCEPT_RDTSC:
      vmx.exit(length === RDTSC_BYTES ? EXIT_REASON.RDTSC : EXIT_REASON.RDTSCP, 0, 0, length);
      return;
    case INTERCEPT_INVLPG:
      if (fields.low(CPU_EXIT_REGISTER2) === 1) vmx.exit(EXIT_REASON.INVPCID, 0, 0, length);
      else vmx.exit(EXIT_REASON.INVLPG, fields.low(CPU_EXIT_ADDRESS), fields.high(CPU_EXIT_ADDRESS), length);
      return;
    case INTERCEPT_DR: {
      // EXIT_PORT: the debug register, plus 16 for MOV to it.
      const which = fields.low(CPU_EXIT_PORT);
      const direction = (which & 16) !== 0 ? 0 : DR_MOV_FROM;
      vmx.exit(EXIT_REASON.DR_ACCESS, (which & 7) | direction | (fields.low(CPU_EXIT_REGISTER) << 8), 0, length);
      return;
    }
    case INTERCEPT_DESCTABLE:
      vmx.exit(fields.low(CPU_EXIT_PORT) < 4 ? EXIT_REASON.GDTR_IDTR : EXIT_REASON.LDTR_TR, 0, 0, length);
      return;
    case INTERCEPT_VMX:
      vmx.exit(VMX_REASONS.get(fields.low(CPU_EXIT_PORT)) ?? EXIT_REASON.VMREAD, 0, 0, length);
      return;
    default:
      leaveForControlRegister(cpu, vmcs, kind, length);
  }
}

/** An exception in the bitmap. #BP and #OF of INT3 and INTO are software exceptions. */
function leaveWithException(cpu: GuestExitHost, length: number): void {
  const { fields } = cpu;
  const vector = fields.low(CPU_EXIT_VECTOR);
  const isSoftware = vector === VECTOR_BP || vector === VECTOR_OF;
  const errorCode = fields.low(CPU_EXIT_HAS_ERROR) !== 0 ? fields.low(CPU_EXIT_ERROR) : -1;
  cpu.vmxUnit.setInterruption(vector, isSoftware ? INTR_TYPE_SOFT_EXCEPTION : INTR_TYPE_HARD_EXCEPTION, errorCode);
  const low = fields.low(CPU_EXIT_QUALIFICATION);
  cpu.vmxUnit.exit(EXIT_REASON.EXCEPTION_NMI, low, fields.high(CPU_EXIT_QUALIFICATION), isSoftware ? length : 0);
}

// Ports and MSRs ---------------------------------------------------------------------------------------------------------------

function leaveForPort(cpu: GuestExitHost, vmcs: VmcsRegion, length: number): void {
  const { fields } = cpu;
  const port = fields.low(CPU_EXIT_PORT);
  const bytes = fields.low(CPU_EXIT_SIZE);
  if (!isPortIntercepted(cpu.memory, vmcs, port, bytes)) {
    accessPort(cpu);
    return;
  }
  const string = fields.low(CPU_EXIT_STRING);
  let qualification = (bytes - 1) | (port << 16);
  if ((string & IO_IN) !== 0) qualification |= 1 << 3;
  if ((string & IO_STRING) !== 0) {
    qualification |= 1 << 4;
    vmcs.set(VMCS.GUEST_LINEAR_ADDRESS, fields.low(CPU_EXIT_ADDRESS), fields.high(CPU_EXIT_ADDRESS));
  }
  if ((string & IO_REP) !== 0) qualification |= 1 << 5;
  cpu.vmxUnit.exit(EXIT_REASON.IO_INSTRUCTION, qualification >>> 0, 0, length);
}

function isPortIntercepted(memory: PhysicalMemory, vmcs: VmcsRegion, port: number, bytes: number): boolean {
  const primary = vmcs.low(VMCS.CPU_BASED_VM_EXEC_CONTROL);
  if ((primary & CPU_BASED_USE_IO_BITMAPS) === 0) return (primary & CPU_BASED_UNCOND_IO_EXITING) !== 0;
  for (let i = 0; i < bytes; i++) {
    const at = port + i;
    // An access that wraps around the port space always leaves.
    if (at > 0xffff) return true;
    const bitmap = vmcs.physical(at < 0x8000 ? VMCS.IO_BITMAP_A : VMCS.IO_BITMAP_B);
    if (((memory.read8(physAddr(bitmap + ((at & 0x7fff) >> 3))) >> (at & 7)) & 1) !== 0) return true;
  }
  return false;
}

function isMsrIntercepted(cpu: GuestExitHost, vmcs: VmcsRegion, offset: number): boolean {
  if ((vmcs.low(VMCS.CPU_BASED_VM_EXEC_CONTROL) & CPU_BASED_USE_MSR_BITMAPS) === 0) return true;
  const msr = cpu.fields.low(RCX);
  const isHigh = msr >= FIRST_HIGH_MSR;
  const index = isHigh ? msr - FIRST_HIGH_MSR : msr;
  if (index >= BITMAP_MSRS) return true;
  const at = vmcs.physical(VMCS.MSR_BITMAP) + offset + (isHigh ? BITMAP_READ_HIGH : 0) + (index >> 3);
  return ((cpu.memory.read8(physAddr(at)) >> (index & 7)) & 1) !== 0;
}

// Control registers ------------------------------------------------------------------------------------------------------------

function leaveForControlRegister(cpu: GuestExitHost, vmcs: VmcsRegion, kind: number, length: number): void {
  const { fields, vmxUnit: vmx } = cpu;
  const register = fields.low(CPU_EXIT_REGISTER);
  switch (kind) {
    case INTERCEPT_CR0_WRITE:
      writeMasked(cpu, vmcs, 0, fields.low(CPU_REGS + 8 * register), register << 8, length);
      return;
    case INTERCEPT_CR4_WRITE:
      writeMasked(cpu, vmcs, 4, fields.low(CPU_REGS + 8 * register), register << 8, length);
      return;
    case INTERCEPT_CR3_READ:
      vmx.exit(EXIT_REASON.CR_ACCESS, 3 | CR_MOV_FROM | (register << 8), 0, length);
      return;
    case INTERCEPT_CR3_WRITE:
      vmx.exit(EXIT_REASON.CR_ACCESS, 3 | (register << 8), 0, length);
      return;
    case INTERCEPT_CR8_READ:
      vmx.exit(EXIT_REASON.CR_ACCESS, 8 | CR_MOV_FROM | (register << 8), 0, length);
      return;
    case INTERCEPT_CR8_WRITE:
      vmx.exit(EXIT_REASON.CR_ACCESS, 8 | (register << 8), 0, length);
      return;
    case INTERCEPT_CLTS_LMSW: {
      const current = fields.low(CPU_CR0);
      if (fields.low(CPU_EXIT_PORT) === 0) writeMasked(cpu, vmcs, 0, current & ~CR0_TS, CR_CLTS, length);
      else {
        const source = fields.low(CPU_EXIT_ADDRESS) & 0xffff;
        const value = (current & ~0xe) | (source & 0xf);
        writeMasked(cpu, vmcs, 0, value, (CR_LMSW | (source << 16)) >>> 0, length);
      }
      return;
    }
    default:
      cpu.raise(VECTOR_GP, 0);
  }
}

/**
 * MOV to CR0 or CR4 under a guest/host mask: leaves when a bit of the mask would differ from the read shadow, else changes only the
 * guest's bits. SDM vol. 3, 27.3. `detail`: the qualification but for the register number.
 */
function writeMasked(cpu: GuestExitHost, vmcs: VmcsRegion, register: 0 | 4, value: number, detail: number, length: number): void {
  const mask = vmcs.low(register === 0 ? VMCS.CR0_GUEST_HOST_MASK : VMCS.CR4_GUEST_HOST_MASK);
  const shadow = vmcs.low(register === 0 ? VMCS.CR0_READ_SHADOW : VMCS.CR4_READ_SHADOW);
  if (((value ^ shadow) & mask) !== 0) {
    cpu.vmxUnit.exit(EXIT_REASON.CR_ACCESS, (register | detail) >>> 0, 0, length);
    return;
  }
  const current = cpu.fields.low(register === 0 ? CPU_CR0 : CPU_CR4);
  const next = ((value & ~mask) | (current & mask)) >>> 0;
  const isSound = register === 0 ? (~next & CR0_FIXED0) === 0 : (next & ~CR4_FIXED1) === 0;
  if (!isSound) {
    cpu.raise(VECTOR_GP, 0);
    return;
  }
  cpu.writeControlRegister(register, next);
  cpu.advance();
}
