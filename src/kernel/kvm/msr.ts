// RDMSR and WRMSR of a guest that exit: those that the guest may have, where each lives, and #GP for all others (kernel:
// kvm_get_msr_common(), kvm_set_msr_common(), vmx_get_msr(), vmx_set_msr()).
import {
  addVirt,
  cpu,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  MSR_CSTAR,
  MSR_EFER,
  MSR_FS_BASE,
  MSR_GS_BASE,
  MSR_IA32_APICBASE,
  MSR_IA32_CR_PAT,
  MSR_IA32_DEBUGCTLMSR,
  MSR_IA32_MISC_ENABLE,
  MSR_IA32_SYSENTER_CS,
  MSR_IA32_SYSENTER_EIP,
  MSR_IA32_SYSENTER_ESP,
  MSR_IA32_TSC,
  MSR_KERNEL_GS_BASE,
  MSR_LSTAR,
  MSR_STAR,
  MSR_SYSCALL_MASK,
  MSR_TSC_AUX,
  type Ptr,
  type VirtAddr,
  VMCS,
} from "../../hardware/index.ts";
import { kvmInjectGp, kvmSkipEmulatedInstruction } from "./events.ts";
import { GUEST_MSR, KvmVcpu, VCPU_REGS } from "./kvm-struct.ts";
import { readGprLow, vmreadWord, writeGpr } from "./regs.ts";
import { toVmx } from "./vcpu-load.ts";
import { vmxSetEfer } from "./vmx/control-registers.ts";
import { vmxPrepareSwitchToHost, vmxSetGuestUretMsr } from "./vmx/host-state-switch.ts";

/** MSRs that are fields of the VMCS. */
const IN_VMCS: ReadonlyMap<number, number> = new Map([
  [MSR_FS_BASE, VMCS.GUEST_FS_BASE],
  [MSR_GS_BASE, VMCS.GUEST_GS_BASE],
  [MSR_IA32_SYSENTER_CS, VMCS.GUEST_SYSENTER_CS],
  [MSR_IA32_SYSENTER_ESP, VMCS.GUEST_SYSENTER_ESP],
  [MSR_IA32_SYSENTER_EIP, VMCS.GUEST_SYSENTER_EIP],
  [MSR_IA32_DEBUGCTLMSR, VMCS.GUEST_IA32_DEBUGCTL],
]);
/** MSRs that are kept with the vCPU; those of SYSCALL and TSC_AUX are also loaded into the hardware. */
const IN_VCPU: ReadonlyMap<number, number> = new Map([
  [MSR_STAR, GUEST_MSR.STAR],
  [MSR_LSTAR, GUEST_MSR.LSTAR],
  [MSR_CSTAR, GUEST_MSR.CSTAR],
  [MSR_SYSCALL_MASK, GUEST_MSR.SYSCALL_MASK],
  [MSR_TSC_AUX, GUEST_MSR.TSC_AUX],
  [MSR_IA32_APICBASE, GUEST_MSR.APICBASE],
  [MSR_IA32_MISC_ENABLE, GUEST_MSR.MISC_ENABLE],
  [MSR_IA32_CR_PAT, GUEST_MSR.PAT],
]);
/** Hold canonical addresses. */
const HOLDS_ADDRESS: ReadonlySet<number> = new Set([
  MSR_FS_BASE,
  MSR_GS_BASE,
  MSR_KERNEL_GS_BASE,
  MSR_LSTAR,
  MSR_CSTAR,
  MSR_IA32_SYSENTER_ESP,
  MSR_IA32_SYSENTER_EIP,
]);
const EFER_GUEST_BITS = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

/** MSRs that the guest reads and writes without an exit (kernel: vmx_possible_passthrough_msrs); the counter only reads. */
const PASSED_THROUGH = [MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE] as const;

/** MSR bitmap: bytes for reads of 0..0x1fff, of 0xc0000000.., then for writes. SDM vol. 3, 26.6.9. */
const BITMAP_READ_LOW = 0;
const BITMAP_READ_HIGH = 0x400;
const BITMAP_WRITE_HIGH = 0xc00;
export const MSR_BITMAP_BYTES = 4096;

/** Intercepts everything but what is passed through. */
export function initMsrBitmap(bitmap: VirtAddr): void {
  cpu.fill(bitmap, 0xff, MSR_BITMAP_BYTES);
  for (const msr of PASSED_THROUGH) {
    clearBit(bitmap, BITMAP_READ_HIGH, msr & 0x1fff);
    clearBit(bitmap, BITMAP_WRITE_HIGH, msr & 0x1fff);
  }
  clearBit(bitmap, BITMAP_READ_LOW, MSR_IA32_TSC);
}

function clearBit(bitmap: VirtAddr, part: number, bit: number): void {
  cpu.rmw("and", addVirt(bitmap, part + (bit >> 3)), 1, 0xff & ~(1 << (bit & 7)));
}

function inVcpu(vcpu: Ptr<"kvm_vcpu">, offset: number): VirtAddr {
  return addVirt(vcpu, KvmVcpu.offset.msrs + offset);
}

/** @returns false where the guest has no such MSR; else RDX:RAX is set. */
function getMsr(vcpu: Ptr<"kvm_vcpu">, msr: number): boolean {
  const field = IN_VMCS.get(msr);
  const kept = IN_VCPU.get(msr);
  let low: number;
  let high: number;
  if (field !== undefined) {
    low = cpu.vmread(field);
    high = cpu.high;
  } else if (kept !== undefined) {
    low = cpu.load64(inVcpu(vcpu, kept));
    high = cpu.high;
  } else if (msr === MSR_KERNEL_GS_BASE) {
    low = cpu.readMsr(msr);
    high = cpu.high;
  } else if (msr === MSR_EFER) {
    low = KvmVcpu.at(vcpu).efer;
    high = 0;
  } else if (msr === MSR_IA32_TSC) {
    const tsc = cpu.readTsc() + vmreadWord(VMCS.TSC_OFFSET);
    low = tsc >>> 0;
    high = Math.floor(tsc / 2 ** 32) >>> 0;
  } else return false;
  writeGpr(vcpu, VCPU_REGS.RAX, low, 0);
  writeGpr(vcpu, VCPU_REGS.RDX, high, 0);
  return true;
}

/** Bits 63:47 are equal. */
function isCanonical(low: number, high: number): boolean {
  const top = high >> 15;
  return (top === 0 || top === -1) && low >= 0;
}

/** @returns false where the write is refused. */
function setMsr(vcpu: Ptr<"kvm_vcpu">, msr: number, low: number, high: number): boolean {
  if (HOLDS_ADDRESS.has(msr) && !isCanonical(low, high)) return false;
  const field = IN_VMCS.get(msr);
  if (field !== undefined) {
    cpu.vmwrite(field, low, high);
    return true;
  }
  const kept = IN_VCPU.get(msr);
  if (kept !== undefined) {
    cpu.store64(inVcpu(vcpu, kept), low, high);
    vmxSetGuestUretMsr(toVmx(vcpu), msr, low, high);
    return true;
  }
  switch (msr) {
    case MSR_KERNEL_GS_BASE:
      cpu.writeMsr(msr, low, high);
      return true;
    case MSR_EFER:
      return setEfer(vcpu, low, high);
    case MSR_IA32_TSC: {
      const offset = (high | 0) * 2 ** 32 + low - cpu.readTsc();
      cpu.vmwrite(VMCS.TSC_OFFSET, offset >>> 0, Math.floor(offset / 2 ** 32) >>> 0);
      return true;
    }
    default:
      return false;
  }
}

/** Kernel: `set_efer()`. LMA follows LME and CR0.PG; LME cannot change while paging is on. */
function setEfer(vcpu: Ptr<"kvm_vcpu">, low: number, high: number): boolean {
  if (high !== 0 || (low & ~EFER_GUEST_BITS) !== 0) return false;
  const old = KvmVcpu.at(vcpu).efer;
  if ((old & EFER_LMA) !== 0 && (low & EFER_LME) === 0) return false;
  vmxSetEfer(vcpu, (low & ~EFER_LMA) | (old & EFER_LMA));
  // Whether the MSRs of SYSCALL must be the guest's has changed: they are switched anew before the next entry.
  if (((low ^ old) & EFER_SCE) !== 0) vmxPrepareSwitchToHost(vcpu, toVmx(vcpu));
  return true;
}

/** Kernel: `kvm_emulate_rdmsr()`. @returns 1 */
export function kvmEmulateRdmsr(vcpu: Ptr<"kvm_vcpu">): 1 {
  if (getMsr(vcpu, readGprLow(vcpu, VCPU_REGS.RCX))) return kvmSkipEmulatedInstruction(vcpu);
  kvmInjectGp(vcpu);
  return 1;
}

/** Kernel: `kvm_emulate_wrmsr()`. @returns 1 */
export function kvmEmulateWrmsr(vcpu: Ptr<"kvm_vcpu">): 1 {
  const msr = readGprLow(vcpu, VCPU_REGS.RCX);
  const low = readGprLow(vcpu, VCPU_REGS.RAX);
  const high = readGprLow(vcpu, VCPU_REGS.RDX);
  if (setMsr(vcpu, msr, low, high)) return kvmSkipEmulatedInstruction(vcpu);
  kvmInjectGp(vcpu);
  return 1;
}
