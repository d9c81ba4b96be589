// A vCPU's VMCS: what is written once (controls, constant host state), what is written for each CPU that loads it, and the guest's
// registers at reset.
import {
  addVirt,
  CPU_BASED_USE_MSR_BITMAPS,
  CR0_CD,
  CR0_ET,
  CR0_NW,
  cpu,
  MSR_FS_BASE,
  type Ptr,
  RFLAGS_FIXED,
  SECONDARY_EXEC_ENABLE_VPID,
  VECTOR_AC,
  VECTOR_MC,
  VECTOR_UD,
  VM_ENTRY_IA32E_MODE,
  VMCS,
} from "../../../hardware/index.ts";
import { siblingsSpecCtrl } from "../../asi/siblings.ts";
import { symbolAddress } from "../../boot/kernel-text.ts";
import { idtTable } from "../../entry/descriptor-tables.ts";
import { cpuTss, gdtPage } from "../../entry/entry-area.ts";
import { __KERNEL_CS, __KERNEL_DS, GDT_ENTRY_TSS } from "../../entry/vectors.ts";
import { readCr3Raw } from "../../mm/cr3.ts";
import { pa } from "../../mm/layout.ts";
import { GUEST_MSR, Kvm, KvmGlobals, KvmVcpu, kvmGlobals, VCPU_REGS, type VcpuVmx } from "../kvm-struct.ts";
import { constructEptp } from "../mmu.ts";
import { kvmRegisterWrite, registerAddress, setRflags, vmwriteWord } from "../regs.ts";
import { toVmx } from "../vcpu-load.ts";
import { CR0_GUEST_OWNED, CR4_GUEST_OWNED, vmxSetCr0, vmxSetCr4, vmxSetEfer } from "./control-registers.ts";
import { enterStubSymbols } from "./enter-stub.ts";
import { SEGMENT_NAMES, vmxResetSegment } from "./segments.ts";

/** Exceptions that exit: #UD, because instructions of the other vendor's virtualization are emulated; #MC and #AC, the host's business. */
const EXCEPTION_BITMAP = (1 << VECTOR_UD) | (1 << VECTOR_MC) | (1 << VECTOR_AC);
const ALL_ONES = 0xffffffff;
/** Reset values. SDM vol. 3, table 11-1. */
const RESET_CR0 = (CR0_ET | CR0_NW | CR0_CD) >>> 0;
const RESET_CS_BASE = 0xffff0000;
const RESET_CS_SELECTOR = 0xf000;
const RESET_RIP = 0xfff0;
const RESET_DR7 = 0x400;
const RESET_CPU_SIGNATURE = 0x600;
/** Present, accessed, writable data; code; LDT; busy TSS. */
const AR_DATA = 0x93;
const AR_CODE = 0x9b;
const AR_LDT = 0x82;
const AR_TSS = 0x8b;
/** IA32_APIC_BASE: base 0xfee00000, enabled, boot processor. */
const APIC_BASE_RESET = 0xfee00900;
/** IA32_PAT at reset. SDM vol. 3, 13.12.4. */
const PAT_RESET_LOW = 0x00070406;
const PAT_RESET_HIGH = 0x00070406;

/** Host fields that never change (kernel: `vmx_set_constant_host_state()`). The VMCS is current. */
function vmxSetConstantHostState(vmx: VcpuVmx): void {
  const host = vmx.vmcs01.hostState;
  vmwriteWord(VMCS.HOST_CR0, cpu.readCr0());
  // A guess, which the entry corrects: the CPU may be in a restricted address space when the guest is entered.
  // A guess, which the first entry corrects: so whether restricted or not does not matter (kernel: vmx_set_constant_host_state()).
  const cr3 = readCr3Raw();
  vmwriteWord(VMCS.HOST_CR3, cr3);
  host.cr3 = cr3;
  cpu.vmwrite(VMCS.HOST_CS_SELECTOR, __KERNEL_CS, 0);
  cpu.vmwrite(VMCS.HOST_SS_SELECTOR, __KERNEL_DS, 0);
  cpu.vmwrite(VMCS.HOST_TR_SELECTOR, GDT_ENTRY_TSS, 0);
  for (const field of [VMCS.HOST_DS_SELECTOR, VMCS.HOST_ES_SELECTOR, VMCS.HOST_FS_SELECTOR, VMCS.HOST_GS_SELECTOR])
    cpu.vmwrite(field, 0, 0);
  vmwriteWord(VMCS.HOST_IDTR_BASE, idtTable);
  vmwriteWord(VMCS.HOST_RIP, symbolAddress(enterStubSymbols().vmexit));
  cpu.vmwrite(VMCS.HOST_IA32_SYSENTER_CS, 0, 0);
  vmwriteWord(VMCS.HOST_IA32_SYSENTER_EIP, 0);
  vmwriteWord(VMCS.HOST_IA32_SYSENTER_ESP, 0);
  cpu.vmwrite(VMCS.HOST_IA32_EFER, KvmGlobals.at(kvmGlobals).hostEfer, 0);
}

/** Host fields that differ between CPUs. The VMCS is current on this one (kernel: in `vmx_vcpu_load_vmcs()`). */
export function vmxSetCpuHostState(vmx: VcpuVmx): void {
  vmwriteWord(VMCS.HOST_TR_BASE, cpuTss.here());
  vmwriteWord(VMCS.HOST_GDTR_BASE, gdtPage.here());
  vmwriteWord(VMCS.HOST_GS_BASE, cpu.perCpuBase);
  const low = cpu.readMsr(MSR_FS_BASE);
  cpu.vmwrite(VMCS.HOST_FS_BASE, low, cpu.high);
  const cr4 = cpu.readCr4();
  vmwriteWord(VMCS.HOST_CR4, cr4);
  vmx.vmcs01.hostState.cr4 = cr4;
}

/** Kernel: `init_vmcs()`. The VMCS is current. */
export function initVmcs(vcpu: Ptr<"kvm_vcpu">): void {
  const vmx = toVmx(vcpu);
  const globals = KvmGlobals.at(kvmGlobals);
  cpu.vmwrite(VMCS.PIN_BASED_VM_EXEC_CONTROL, globals.pinBasedExecCtrl, 0);
  const primary = globals.cpuBasedExecCtrl;
  cpu.vmwrite(VMCS.CPU_BASED_VM_EXEC_CONTROL, primary, 0);
  // VPID 0 is the host's: a vCPU that got none runs without, and every entry and exit flushes the TLB.
  const { vpid } = vmx;
  const secondary = globals.cpuBased2ndExecCtrl;
  cpu.vmwrite(VMCS.SECONDARY_VM_EXEC_CONTROL, (vpid === 0 ? secondary & ~SECONDARY_EXEC_ENABLE_VPID : secondary) >>> 0, 0);
  cpu.vmwrite(VMCS.VIRTUAL_PROCESSOR_ID, vpid, 0);
  cpu.vmwrite(VMCS.VM_EXIT_CONTROLS, globals.vmexitCtrl, 0);
  cpu.vmwrite(VMCS.VM_ENTRY_CONTROLS, (globals.vmentryCtrl & ~VM_ENTRY_IA32E_MODE) >>> 0, 0);
  for (const field of [
    VMCS.PAGE_FAULT_ERROR_CODE_MASK,
    VMCS.PAGE_FAULT_ERROR_CODE_MATCH,
    VMCS.CR3_TARGET_COUNT,
    VMCS.VM_EXIT_MSR_STORE_COUNT,
    VMCS.VM_EXIT_MSR_LOAD_COUNT,
    VMCS.VM_ENTRY_MSR_LOAD_COUNT,
    VMCS.VM_ENTRY_INTR_INFO_FIELD,
    VMCS.GUEST_INTERRUPTIBILITY_INFO,
    VMCS.GUEST_ACTIVITY_STATE,
    VMCS.GUEST_SYSENTER_CS,
    VMCS.GUEST_SYSENTER_ESP,
    VMCS.GUEST_SYSENTER_EIP,
    VMCS.GUEST_IA32_DEBUGCTL,
    VMCS.GUEST_PENDING_DBG_EXCEPTIONS,
  ])
    cpu.vmwrite(field, 0, 0);
  cpu.vmwrite(VMCS.EXCEPTION_BITMAP, EXCEPTION_BITMAP, 0);
  cpu.vmwrite(VMCS.VMCS_LINK_POINTER, ALL_ONES, ALL_ONES);
  vmwriteWord(VMCS.EPT_POINTER, constructEptp(Kvm.at(vmx.vcpu.kvm).rootHpa));
  if ((primary & CPU_BASED_USE_MSR_BITMAPS) !== 0) vmwriteWord(VMCS.MSR_BITMAP, pa(vmx.msrBitmap));
  cpu.vmwrite(VMCS.CR0_GUEST_HOST_MASK, ~CR0_GUEST_OWNED >>> 0, ALL_ONES);
  cpu.vmwrite(VMCS.CR4_GUEST_HOST_MASK, ~CR4_GUEST_OWNED >>> 0, ALL_ONES);
  // The guest's time-stamp counter starts at 0 now.
  vmwriteWord(VMCS.TSC_OFFSET, -cpu.readTsc());
  vmxSetConstantHostState(vmx);
}

/** The guest's registers at reset (kernel: `vmx_vcpu_reset()`, `kvm_vcpu_reset()`). The VMCS is current. */
export function vmxVcpuReset(vcpu: Ptr<"kvm_vcpu">): void {
  const view = KvmVcpu.at(vcpu);
  cpu.fill(registerAddress(vcpu, 0), 0, 8 * 17);
  view.regsAvail = ALL_ONES;
  view.regsDirty = 0;
  for (const name of SEGMENT_NAMES) {
    if (name === "cs") vmxResetSegment(name, RESET_CS_SELECTOR, RESET_CS_BASE, AR_CODE);
    else vmxResetSegment(name, 0, 0, name === "ldt" ? AR_LDT : name === "tr" ? AR_TSS : AR_DATA);
  }
  for (const field of [VMCS.GUEST_GDTR_BASE, VMCS.GUEST_IDTR_BASE]) vmwriteWord(field, 0);
  for (const field of [VMCS.GUEST_GDTR_LIMIT, VMCS.GUEST_IDTR_LIMIT]) cpu.vmwrite(field, 0xffff, 0);
  vmwriteWord(VMCS.GUEST_DR7, RESET_DR7);
  kvmRegisterWrite(vcpu, VCPU_REGS.RDX, RESET_CPU_SIGNATURE, 0);
  kvmRegisterWrite(vcpu, VCPU_REGS.RIP, RESET_RIP, 0);
  kvmRegisterWrite(vcpu, VCPU_REGS.RSP, 0, 0);
  setRflags(vcpu, RFLAGS_FIXED);
  view.efer = 0;
  vmxSetEfer(vcpu, 0);
  vmxSetCr0(vcpu, RESET_CR0);
  vmxSetCr4(vcpu, 0);
  view.cr3 = 0;
  vmwriteWord(VMCS.GUEST_CR3, 0);
  cpu.store64(addVirt(vcpu, KvmVcpu.offset.msrs + GUEST_MSR.APICBASE), APIC_BASE_RESET, 0);
  cpu.store64(addVirt(vcpu, KvmVcpu.offset.msrs + GUEST_MSR.PAT), PAT_RESET_LOW, PAT_RESET_HIGH);
  cpu.store64(addVirt(vcpu, KvmVcpu.offset.msrs + GUEST_MSR.MISC_ENABLE), 1, 0);
  // Not offered to guests, hence never changed by one.
  cpu.store64(addVirt(vcpu, KvmVcpu.offset.msrs + GUEST_MSR.SPEC_CTRL), siblingsSpecCtrl(), 0);
}
