// Which VMX controls are used: those that KVM cannot do without, those that it takes where the CPU has them (kernel: setup_vmcs_config()).
import { EIO, ENODEV, type Errno } from "../../../abi/index.ts";
import {
  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
  CPU_BASED_CR8_LOAD_EXITING,
  CPU_BASED_CR8_STORE_EXITING,
  CPU_BASED_HLT_EXITING,
  CPU_BASED_MONITOR_EXITING,
  CPU_BASED_MOV_DR_EXITING,
  CPU_BASED_MWAIT_EXITING,
  CPU_BASED_RDPMC_EXITING,
  CPU_BASED_UNCOND_IO_EXITING,
  CPU_BASED_USE_MSR_BITMAPS,
  CPU_BASED_USE_TSC_OFFSETTING,
  cpu,
  hasFeature,
  MSR_EFER,
  MSR_IA32_VMX_BASIC,
  MSR_IA32_VMX_ENTRY_CTLS,
  MSR_IA32_VMX_EXIT_CTLS,
  MSR_IA32_VMX_PINBASED_CTLS,
  MSR_IA32_VMX_PROCBASED_CTLS,
  MSR_IA32_VMX_PROCBASED_CTLS2,
  MSR_IA32_VMX_TRUE_ENTRY_CTLS,
  MSR_IA32_VMX_TRUE_EXIT_CTLS,
  MSR_IA32_VMX_TRUE_PINBASED_CTLS,
  MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
  PIN_BASED_EXT_INTR_MASK,
  PIN_BASED_NMI_EXITING,
  PIN_BASED_VIRTUAL_NMIS,
  SECONDARY_EXEC_ENABLE_EPT,
  SECONDARY_EXEC_ENABLE_INVPCID,
  SECONDARY_EXEC_ENABLE_RDTSCP,
  SECONDARY_EXEC_ENABLE_VPID,
  SECONDARY_EXEC_UNRESTRICTED_GUEST,
  VM_ENTRY_IA32E_MODE,
  VM_ENTRY_LOAD_IA32_EFER,
  VM_EXIT_ACK_INTR_ON_EXIT,
  VM_EXIT_HOST_ADDR_SPACE_SIZE,
  VM_EXIT_LOAD_IA32_EFER,
  VM_EXIT_SAVE_IA32_EFER,
} from "../../../hardware/index.ts";
import { KvmGlobals, kvmGlobals } from "../kvm-struct.ts";

/** IA32_VMX_BASIC bit 55, in the high half: the MSR_IA32_VMX_TRUE_* exist. SDM vol. 3, A.1. */
const VMX_BASIC_TRUE_CTLS_HIGH = 1 << (55 - 32);

interface Controls {
  readonly required: number;
  readonly optional: number;
}
const PIN: Controls = { required: PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING, optional: PIN_BASED_VIRTUAL_NMIS };
/** Without an APIC in the kernel CR8 accesses go to the monitor; with EPT those to CR3 and INVLPG are the guest's own. */
const CPU_BASED: Controls = {
  required:
    CPU_BASED_HLT_EXITING |
    CPU_BASED_CR8_LOAD_EXITING |
    CPU_BASED_CR8_STORE_EXITING |
    CPU_BASED_UNCOND_IO_EXITING |
    CPU_BASED_MOV_DR_EXITING |
    CPU_BASED_USE_TSC_OFFSETTING |
    CPU_BASED_MWAIT_EXITING |
    CPU_BASED_MONITOR_EXITING |
    CPU_BASED_RDPMC_EXITING |
    CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
  optional: CPU_BASED_USE_MSR_BITMAPS,
};
/** Linux can do without EPT, by shadow paging; this hypervisor cannot. */
const CPU_BASED_2ND: Controls = {
  required: SECONDARY_EXEC_ENABLE_EPT,
  optional: SECONDARY_EXEC_ENABLE_VPID | SECONDARY_EXEC_UNRESTRICTED_GUEST | SECONDARY_EXEC_ENABLE_RDTSCP | SECONDARY_EXEC_ENABLE_INVPCID,
};
const VMEXIT: Controls = {
  required: VM_EXIT_HOST_ADDR_SPACE_SIZE | VM_EXIT_ACK_INTR_ON_EXIT | VM_EXIT_SAVE_IA32_EFER | VM_EXIT_LOAD_IA32_EFER,
  optional: 0,
};
/** IA32E_MODE follows the guest's EFER.LMA. */
const VMENTRY: Controls = { required: VM_ENTRY_LOAD_IA32_EFER, optional: VM_ENTRY_IA32E_MODE };

/**
 * Chooses bits that the capability MSR allows: low half = bits that must be 1, high half = bits that may be (kernel:
 * `adjust_vmx_controls()`). @returns the controls, or -1 where a required bit is not allowed.
 */
function adjustVmxControls(controls: Controls, msr: number): number {
  const allowed0 = cpu.readMsr(msr);
  const allowed1 = cpu.high;
  const chosen = (((controls.required | controls.optional) & allowed1) | allowed0) >>> 0;
  return (controls.required & ~chosen) === 0 ? chosen : -1;
}

/** Kernel: `setup_vmcs_config()`. @returns 0; ENODEV: no VMX; EIO: a control that is needed is missing. */
export function setupVmcsConfig(): 0 | Errno {
  if (!hasFeature(cpu.model, "VMX")) return ENODEV;
  const globals = KvmGlobals.at(kvmGlobals);
  const revision = cpu.readMsr(MSR_IA32_VMX_BASIC) & 0x7fffffff;
  const isTrue = (cpu.high & VMX_BASIC_TRUE_CTLS_HIGH) !== 0;
  const pin = adjustVmxControls(PIN, isTrue ? MSR_IA32_VMX_TRUE_PINBASED_CTLS : MSR_IA32_VMX_PINBASED_CTLS);
  const primary = adjustVmxControls(CPU_BASED, isTrue ? MSR_IA32_VMX_TRUE_PROCBASED_CTLS : MSR_IA32_VMX_PROCBASED_CTLS);
  const secondary = adjustVmxControls(CPU_BASED_2ND, MSR_IA32_VMX_PROCBASED_CTLS2);
  const exit = adjustVmxControls(VMEXIT, isTrue ? MSR_IA32_VMX_TRUE_EXIT_CTLS : MSR_IA32_VMX_EXIT_CTLS);
  const entry = adjustVmxControls(VMENTRY, isTrue ? MSR_IA32_VMX_TRUE_ENTRY_CTLS : MSR_IA32_VMX_ENTRY_CTLS);
  if (pin < 0 || primary < 0 || secondary < 0 || exit < 0 || entry < 0) return EIO;
  globals.vmcsRevision = revision;
  globals.pinBasedExecCtrl = pin;
  globals.cpuBasedExecCtrl = primary;
  globals.cpuBased2ndExecCtrl = secondary;
  globals.vmexitCtrl = exit;
  globals.vmentryCtrl = entry;
  globals.hostEfer = cpu.readMsr(MSR_EFER);
  return 0;
}
