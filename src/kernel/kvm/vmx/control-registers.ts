// Guest CR0, CR4 and EFER: what the guest believes (in the vCPU, and as the read shadow), and what the hardware runs with.
import {
  CR0_CD,
  CR0_ET,
  CR0_NE,
  CR0_NW,
  CR0_PE,
  CR0_PG,
  CR0_TS,
  CR4_DE,
  CR4_FSGSBASE,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  CR4_PGE,
  CR4_VMXE,
  cpu,
  EFER_LMA,
  EFER_LME,
  type Ptr,
  SECONDARY_EXEC_UNRESTRICTED_GUEST,
  VM_ENTRY_IA32E_MODE,
  VMCS,
} from "../../../hardware/index.ts";
import { KvmGlobals, KvmVcpu, kvmGlobals } from "../kvm-struct.ts";

/** Bits that the guest changes without an exit (kernel: KVM_POSSIBLE_CR0_GUEST_BITS, KVM_POSSIBLE_CR4_GUEST_BITS). */
export const CR0_GUEST_OWNED = CR0_TS;
export const CR4_GUEST_OWNED = CR4_DE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE;
/** VMX needs CR4.VMXE, and CR0.NE; caching is never disabled (kernel: KVM_VM_CR0_ALWAYS_OFF). */
const CR0_ALWAYS_ON = CR0_NE | CR0_ET;
const CR0_ALWAYS_OFF = CR0_NW | CR0_CD;
const CR4_ALWAYS_ON = CR4_VMXE;
/** Without "unrestricted guest" VMX operation also fixes these. */
const CR0_RESTRICTED_ALWAYS_ON = CR0_PE | CR0_PG;

/** Kernel: `vmx_set_cr0()`. */
export function vmxSetCr0(vcpu: Ptr<"kvm_vcpu">, cr0: number): void {
  const view = KvmVcpu.at(vcpu);
  const isUnrestricted = (KvmGlobals.at(kvmGlobals).cpuBased2ndExecCtrl & SECONDARY_EXEC_UNRESTRICTED_GUEST) !== 0;
  const alwaysOn = isUnrestricted ? CR0_ALWAYS_ON : CR0_ALWAYS_ON | CR0_RESTRICTED_ALWAYS_ON;
  view.cr0 = cr0;
  cpu.vmwrite(VMCS.CR0_READ_SHADOW, cr0, 0);
  cpu.vmwrite(VMCS.GUEST_CR0, ((cr0 & ~CR0_ALWAYS_OFF) | alwaysOn) >>> 0, 0);
  const { efer } = view;
  if ((efer & EFER_LME) === 0) return;
  const isLong = (cr0 & CR0_PG) !== 0;
  if (isLong !== ((efer & EFER_LMA) !== 0)) vmxSetEfer(vcpu, isLong ? efer | EFER_LMA : efer & ~EFER_LMA);
}

/** Kernel: `vmx_set_cr4()`. */
export function vmxSetCr4(vcpu: Ptr<"kvm_vcpu">, cr4: number): void {
  KvmVcpu.at(vcpu).cr4 = cr4;
  cpu.vmwrite(VMCS.CR4_READ_SHADOW, cr4, 0);
  cpu.vmwrite(VMCS.GUEST_CR4, cr4 | CR4_ALWAYS_ON, 0);
}

/** Kernel: `vmx_set_efer()`. */
export function vmxSetEfer(vcpu: Ptr<"kvm_vcpu">, efer: number): void {
  KvmVcpu.at(vcpu).efer = efer;
  cpu.vmwrite(VMCS.GUEST_IA32_EFER, efer, 0);
  const controls = cpu.vmread(VMCS.VM_ENTRY_CONTROLS);
  const isLong = (efer & EFER_LMA) !== 0;
  cpu.vmwrite(VMCS.VM_ENTRY_CONTROLS, (isLong ? controls | VM_ENTRY_IA32E_MODE : controls & ~VM_ENTRY_IA32E_MODE) >>> 0, 0);
}

/** Guest CR0 with the bits that it changed itself (kernel: `kvm_read_cr0()`). */
export function kvmReadCr0(vcpu: Ptr<"kvm_vcpu">): number {
  return ((KvmVcpu.at(vcpu).cr0 & ~CR0_GUEST_OWNED) | (cpu.vmread(VMCS.GUEST_CR0) & CR0_GUEST_OWNED)) >>> 0;
}

/** Kernel: `kvm_read_cr4()`. */
export function kvmReadCr4(vcpu: Ptr<"kvm_vcpu">): number {
  return ((KvmVcpu.at(vcpu).cr4 & ~CR4_GUEST_OWNED) | (cpu.vmread(VMCS.GUEST_CR4) & CR4_GUEST_OWNED)) >>> 0;
}
