// Registers of a vCPU. General registers are in memory after every exit (the entry stub stored them); RSP, RIP, RFLAGS and CR3 stay in
// the VMCS until somebody asks, and go back there before the next entry only when they were changed (kernel: kvm_cache_regs.h).
// 64-bit values: the low half is returned, the high half is in cpu.high.
import { addVirt, cpu, fromHalves, high32, low32, type Ptr, type VirtAddr, VMCS } from "../../hardware/index.ts";
import { KvmVcpu, VCPU_EXREG_RFLAGS, VCPU_REGS } from "./kvm-struct.ts";

const REGS = KvmVcpu.offset.regs;

/** Address of a register's 8 bytes; what is there may be stale for RSP and RIP. */
export function registerAddress(vcpu: Ptr<"kvm_vcpu">, index: number): VirtAddr {
  return addVirt(vcpu, REGS + 8 * index);
}

/** Registers that are never lazy. */
export function readGpr(vcpu: Ptr<"kvm_vcpu">, index: number): number {
  return cpu.load64(registerAddress(vcpu, index));
}

export function readGprLow(vcpu: Ptr<"kvm_vcpu">, index: number): number {
  return cpu.load(registerAddress(vcpu, index), 4);
}

export function writeGpr(vcpu: Ptr<"kvm_vcpu">, index: number, low: number, high: number): void {
  cpu.store64(registerAddress(vcpu, index), low, high);
}

/** Brings RSP or RIP into `regs` (kernel: `vmx_cache_reg()`). */
function cacheRegister(vcpu: Ptr<"kvm_vcpu">, index: number): void {
  const view = KvmVcpu.at(vcpu);
  const available = view.regsAvail;
  if ((available & (1 << index)) !== 0) return;
  view.regsAvail = available | (1 << index);
  const low = cpu.vmread(index === VCPU_REGS.RSP ? VMCS.GUEST_RSP : VMCS.GUEST_RIP);
  cpu.store64(registerAddress(vcpu, index), low, cpu.high);
}

/** Any of RAX .. R15, RIP (kernel: `kvm_register_read_raw()`). */
export function kvmRegisterRead(vcpu: Ptr<"kvm_vcpu">, index: number): number {
  if (index === VCPU_REGS.RSP || index === VCPU_REGS.RIP) cacheRegister(vcpu, index);
  return cpu.load64(registerAddress(vcpu, index));
}

/** Kernel: `kvm_register_write_raw()`. */
export function kvmRegisterWrite(vcpu: Ptr<"kvm_vcpu">, index: number, low: number, high: number): void {
  cpu.store64(registerAddress(vcpu, index), low, high);
  if (index !== VCPU_REGS.RSP && index !== VCPU_REGS.RIP) return;
  const view = KvmVcpu.at(vcpu);
  view.regsAvail |= 1 << index;
  view.regsDirty |= 1 << index;
}

/** Kernel: `vmx_get_rflags()`. */
export function getRflags(vcpu: Ptr<"kvm_vcpu">): number {
  const view = KvmVcpu.at(vcpu);
  const available = view.regsAvail;
  if ((available & (1 << VCPU_EXREG_RFLAGS)) === 0) {
    view.regsAvail = available | (1 << VCPU_EXREG_RFLAGS);
    view.rflags = cpu.vmread(VMCS.GUEST_RFLAGS);
  }
  return view.rflags;
}

/** Kernel: `vmx_set_rflags()`. */
export function setRflags(vcpu: Ptr<"kvm_vcpu">, rflags: number): void {
  const view = KvmVcpu.at(vcpu);
  view.regsAvail |= 1 << VCPU_EXREG_RFLAGS;
  view.rflags = rflags;
  cpu.vmwrite(VMCS.GUEST_RFLAGS, rflags, 0);
}

/** Adds `bytes` to RIP (kernel: skip_emulated_instruction() of VMX, in 64-bit mode). The caller clears interrupt shadows. */
export function advanceRip(vcpu: Ptr<"kvm_vcpu">, bytes: number): void {
  const low = kvmRegisterRead(vcpu, VCPU_REGS.RIP);
  const high = cpu.high;
  const sum = low + bytes;
  kvmRegisterWrite(vcpu, VCPU_REGS.RIP, sum >>> 0, sum >= 2 ** 32 ? (high + 1) >>> 0 : high);
}

/** Writes an exact number (an address, a small value) as 64 bits, sign-extended. */
export function writeGprNumber(vcpu: Ptr<"kvm_vcpu">, index: number, value: number): void {
  writeGpr(vcpu, index, low32(value), high32(value));
}

/** A VMCS field of natural or 64-bit width as a number: exact for addresses and values below 2^53. */
export function vmreadWord(field: number): number {
  const low = cpu.vmread(field);
  return fromHalves(low, cpu.high);
}

/** Writes a number, sign-extended, to a field of natural or 64-bit width. */
export function vmwriteWord(field: number, value: number): void {
  cpu.vmwrite(field, low32(value), high32(value));
}
