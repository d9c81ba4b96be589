// Instructions that the core leaves to its host: CPUID, MSRs, ports, VMX. The host performs one and moves RIP past it; a fault is
// raised with RIP at it. SDM vol. 2 (instructions), vol. 3, 32 (VMX instructions).
import { CR4_VMXE, VECTOR_GP, VECTOR_PF, VECTOR_UD, VMX_FAIL_INVALID, VMX_FAIL_VALID, VMX_SUCCEED, type Width } from "../hardware/index.ts";
import type { CpuidResult, IoBus } from "../platform/index.ts";
import {
  ASSIST_CPUID,
  ASSIST_IN,
  ASSIST_INVD,
  ASSIST_INVEPT,
  ASSIST_INVVPID,
  ASSIST_OUT,
  ASSIST_RDMSR,
  ASSIST_RDPMC,
  ASSIST_VMCLEAR,
  ASSIST_VMLAUNCH,
  ASSIST_VMPTRLD,
  ASSIST_VMPTRST,
  ASSIST_VMREAD,
  ASSIST_VMRESUME,
  ASSIST_VMWRITE,
  ASSIST_VMXOFF,
  ASSIST_VMXON,
  ASSIST_WBINVD,
  ASSIST_WRMSR,
  CPU_CR2,
  CPU_CR4,
  CPU_EXIT_ADDRESS,
  CPU_EXIT_KIND,
  CPU_EXIT_PORT,
  CPU_EXIT_REGISTER,
  CPU_EXIT_REGISTER2,
  CPU_EXIT_SIZE,
  CPU_EXIT_STRING,
  CPU_FAULT_ADDRESS,
  CPU_FAULT_ERROR,
  CPU_FAULT_VECTOR,
  CPU_REGS,
  IO_IN,
  IO_REP,
  IO_STRING,
} from "./core/layout.gen.ts";
import type { CoreFields } from "./core-fields.ts";
import type { CoreFunctions } from "./core-functions.ts";
import type { Msrs } from "./msrs.ts";
import type { Vmx } from "./vmx.ts";

export interface AssistHost {
  readonly core: CoreFunctions;
  readonly fields: CoreFields;
  readonly msrs: Msrs;
  readonly vmxUnit: Vmx;
  readonly io: IoBus;
  cpuid4(leaf: number, subleaf: number): CpuidResult;
  /** RIP moves past the instruction. */
  advance(): void;
  /** An exception at the instruction; `error` -1: without error code. */
  raise(vector: number, error: number): void;
  /** True, with `raise` done, when the last access through `core` failed. */
  accessFailed(): boolean;
  setFlags(value: number): void;
  getFlags(): number;
  writeBackCaches(): void;
}

const RAX = CPU_REGS;
const RCX = CPU_REGS + 8;
const RDX = CPU_REGS + 16;
const RBX = CPU_REGS + 24;
const RSI = CPU_REGS + 48;
const RDI = CPU_REGS + 56;
const NO_ERROR_CODE = -1;
const FLAG_CF = 1;
const FLAG_ZF = 1 << 6;
const FLAG_DF = 1 << 10;
/** CF PF AF ZF SF OF: what a VMX instruction sets. */
const ARITHMETIC_FLAGS = 0x8d5;
/** VMXON in VMX root operation. */
const SINGLE_CONTEXT = 1;

/** Performs the instruction that EXIT_ASSIST named. hot: bench/exits */
export function performAssist(cpu: AssistHost): void {
  const { fields } = cpu;
  const kind = fields.low(CPU_EXIT_KIND);
  switch (kind) {
    case ASSIST_VMRESUME:
    case ASSIST_VMLAUNCH:
      enterGuest(cpu, kind === ASSIST_VMLAUNCH);
      return;
    case ASSIST_VMREAD:
      vmread(cpu);
      return;
    case ASSIST_VMWRITE:
      vmwrite(cpu);
      return;
    case ASSIST_CPUID: {
      const result = cpu.cpuid4(fields.low(RAX), fields.low(RCX));
      fields.set(RAX, result[0], 0);
      fields.set(RBX, result[1], 0);
      fields.set(RCX, result[2], 0);
      fields.set(RDX, result[3], 0);
      cpu.advance();
      return;
    }
    case ASSIST_RDMSR:
      readMsr(cpu);
      return;
    case ASSIST_WRMSR:
      writeMsr(cpu);
      return;
    case ASSIST_IN:
    case ASSIST_OUT:
      accessPort(cpu);
      return;
    case ASSIST_WBINVD:
    case ASSIST_INVD:
      cpu.writeBackCaches();
      cpu.advance();
      return;
    case ASSIST_RDPMC:
      cpu.raise(VECTOR_GP, 0);
      return;
    case ASSIST_VMXON:
    case ASSIST_VMXOFF:
    case ASSIST_VMCLEAR:
    case ASSIST_VMPTRLD:
    case ASSIST_VMPTRST:
    case ASSIST_INVEPT:
    case ASSIST_INVVPID:
      vmxInstruction(cpu, kind);
      return;
    default:
      // VMCALL outside a guest, VMMCALL, MONITOR, MWAIT, XSETBV, XGETBV: this CPU reports none of their features.
      cpu.raise(VECTOR_UD, NO_ERROR_CODE);
  }
}

export function readMsr(cpu: AssistHost): void {
  const low = cpu.msrs.read(cpu.fields.low(RCX));
  if (low < 0) {
    cpu.raise(VECTOR_GP, 0);
    return;
  }
  cpu.fields.set(RAX, low, 0);
  cpu.fields.set(RDX, cpu.msrs.high, 0);
  cpu.advance();
}

export function writeMsr(cpu: AssistHost): void {
  const { fields } = cpu;
  if (cpu.msrs.write(fields.low(RCX), fields.low(RAX), fields.low(RDX))) cpu.advance();
  else cpu.raise(VECTOR_GP, 0);
}

// Ports ----------------------------------------------------------------------------------------------------------------------

export function accessPort(cpu: AssistHost): void {
  const { fields } = cpu;
  const port = fields.low(CPU_EXIT_PORT);
  const width = fields.low(CPU_EXIT_SIZE) as Width;
  const string = fields.low(CPU_EXIT_STRING);
  if ((string & IO_STRING) !== 0) {
    accessPortString(cpu, port, width, string);
    return;
  }
  if ((string & IO_IN) !== 0) setAccumulator(fields, width, cpu.io.read(port, width));
  else {
    // Before the write: what it does may put the CPU elsewhere.
    const value = truncated(fields.low(RAX), width);
    cpu.advance();
    cpu.io.write(port, value);
    return;
  }
  cpu.advance();
}

function truncated(value: number, width: Width): number {
  return width === 4 ? value : value & (width === 2 ? 0xffff : 0xff);
}

/** AL and AX keep the rest of RAX, EAX clears its upper half. */
function setAccumulator(fields: CoreFields, width: Width, value: number): void {
  if (width === 4) fields.set(RAX, value, 0);
  else {
    const mask = width === 2 ? 0xffff : 0xff;
    fields.setLow(RAX, ((fields.low(RAX) & ~mask) | (value & mask)) >>> 0);
  }
}

/** One element of INS or OUTS; with REP the instruction stays until RCX is 0, so that interrupts come between elements. */
function accessPortString(cpu: AssistHost, port: number, width: Width, string: number): void {
  const { fields, core } = cpu;
  const repeats = (string & IO_REP) !== 0;
  const count = repeats ? fields.word(RCX) : 1;
  if (count === 0) {
    cpu.advance();
    return;
  }
  const address = fields.word(CPU_EXIT_ADDRESS);
  const isInput = (string & IO_IN) !== 0;
  if (isInput) {
    const value = cpu.io.read(port, width);
    if (width === 1) core.store8(address, value);
    else if (width === 2) core.store16(address, value);
    else core.store32(address, value);
    if (cpu.accessFailed()) return;
  } else {
    const value = width === 1 ? core.load8(address) : width === 2 ? core.load16(address) : core.load32(address);
    if (cpu.accessFailed()) return;
    cpu.io.write(port, value >>> 0);
  }
  const step = (cpu.getFlags() & FLAG_DF) !== 0 ? -width : width;
  const pointer = isInput ? RDI : RSI;
  fields.setWord(pointer, fields.word(pointer) + step);
  if (repeats) fields.setWord(RCX, count - 1);
  if (count === 1) cpu.advance();
}

// VMX ------------------------------------------------------------------------------------------------------------------------

/** SDM vol. 3, 32.2: VMsucceed, VMfailInvalid, VMfailValid in the flags. */
function setStatus(cpu: AssistHost, status: number): void {
  const bit = status === VMX_FAIL_INVALID ? FLAG_CF : status === VMX_FAIL_VALID ? FLAG_ZF : 0;
  cpu.setFlags(((cpu.getFlags() & ~ARITHMETIC_FLAGS) | bit) >>> 0);
  cpu.advance();
}

function refusesVmx(cpu: AssistHost): boolean {
  if (cpu.vmxUnit.isInOperation) return false;
  cpu.raise(VECTOR_UD, NO_ERROR_CODE);
  return true;
}

function enterGuest(cpu: AssistHost, isLaunch: boolean): void {
  if (refusesVmx(cpu)) return;
  // On success RIP is the guest's, or the host's after an entry that failed late: the instruction itself is never completed.
  const status = cpu.vmxUnit.enter(isLaunch);
  if (status !== VMX_SUCCEED) setStatus(cpu, status);
}

function vmread(cpu: AssistHost): void {
  if (refusesVmx(cpu)) return;
  const { fields } = cpu;
  const field = fields.low(CPU_REGS + 8 * fields.low(CPU_EXIT_REGISTER2));
  const status = cpu.vmxUnit.vmreadStatus(field);
  const { vmcs } = cpu.vmxUnit;
  if (status === VMX_SUCCEED && vmcs !== null) {
    const low = vmcs.read(field);
    if (fields.low(CPU_EXIT_SIZE) === 0) fields.set(CPU_REGS + 8 * fields.low(CPU_EXIT_REGISTER), low, vmcs.readHigh);
    else {
      cpu.core.store64(fields.word(CPU_EXIT_ADDRESS), low, vmcs.readHigh);
      if (cpu.accessFailed()) return;
    }
  }
  setStatus(cpu, status);
}

function vmwrite(cpu: AssistHost): void {
  if (refusesVmx(cpu)) return;
  const { fields } = cpu;
  const field = fields.low(CPU_REGS + 8 * fields.low(CPU_EXIT_REGISTER2));
  const source = CPU_REGS + 8 * fields.low(CPU_EXIT_REGISTER);
  if (fields.low(CPU_EXIT_SIZE) === 0) {
    setStatus(cpu, cpu.vmxUnit.vmwrite(field, fields.low(source), fields.high(source)));
    return;
  }
  const address = fields.word(CPU_EXIT_ADDRESS);
  const low = cpu.core.load32(address);
  if (cpu.accessFailed()) return;
  const high = cpu.core.load32(address + 4);
  if (cpu.accessFailed()) return;
  setStatus(cpu, cpu.vmxUnit.vmwrite(field, low >>> 0, high >>> 0));
}

function vmxInstruction(cpu: AssistHost, kind: number): void {
  const { fields, vmxUnit: vmx } = cpu;
  if (kind === ASSIST_VMXON) {
    if ((fields.low(CPU_CR4) & CR4_VMXE) === 0) {
      cpu.raise(VECTOR_UD, NO_ERROR_CODE);
      return;
    }
  } else if (refusesVmx(cpu)) return;
  if (kind === ASSIST_VMXOFF) {
    setStatus(cpu, vmx.vmxoff());
    return;
  }
  if (kind === ASSIST_INVEPT || kind === ASSIST_INVVPID) {
    invalidate(cpu, kind);
    return;
  }
  const address = fields.word(CPU_EXIT_ADDRESS);
  if (kind === ASSIST_VMPTRST) {
    cpu.core.storeNumber(address, vmx.vmcs?.base ?? -1);
    if (!cpu.accessFailed()) setStatus(cpu, VMX_SUCCEED);
    return;
  }
  const region = cpu.core.loadNumber(address);
  if (cpu.accessFailed()) return;
  if (kind === ASSIST_VMXON) setStatus(cpu, vmx.vmxon(region));
  else if (kind === ASSIST_VMCLEAR) setStatus(cpu, vmx.vmclear(region));
  else setStatus(cpu, vmx.vmptrld(region));
}

function invalidate(cpu: AssistHost, kind: number): void {
  const { fields, core } = cpu;
  const type = fields.low(CPU_REGS + 8 * fields.low(CPU_EXIT_REGISTER));
  const descriptor = fields.word(CPU_EXIT_ADDRESS);
  const first = core.loadNumber(descriptor);
  if (cpu.accessFailed()) return;
  const second = core.loadNumber(descriptor + 8);
  if (cpu.accessFailed()) return;
  if (kind === ASSIST_INVEPT) {
    setStatus(cpu, core.hostInvept(type, first) !== 0 ? VMX_SUCCEED : VMX_FAIL_INVALID);
    return;
  }
  const vpid = first % 65536;
  const isSound = first === vpid && (type > SINGLE_CONTEXT + 1 || vpid !== 0 || type === 2);
  setStatus(cpu, isSound && core.hostInvvpid(type, vpid, second) !== 0 ? VMX_SUCCEED : VMX_FAIL_INVALID);
}

/** The exception that a failed access raises: vector, error code and CR2 as the MMU recorded them. */
export function raiseRecordedFault(cpu: AssistHost): void {
  const { fields } = cpu;
  const vector = fields.low(CPU_FAULT_VECTOR);
  if (vector === VECTOR_PF) fields.set(CPU_CR2, fields.low(CPU_FAULT_ADDRESS), fields.high(CPU_FAULT_ADDRESS));
  cpu.raise(vector, fields.low(CPU_FAULT_ERROR));
}
