// One VM entry and exit with what surrounds it (kernel: vmx_vcpu_run()), and what must happen before interrupts are on again.
import { cpu, EXIT_REASON, INTR_INFO_VALID_MASK, type Ptr, VMCS, VMX_EXIT_REASONS_FAILED_VMENTRY } from "../../../hardware/index.ts";
import { kvmMachineCheck } from "../../entry/machine-check.ts";
import { TRACE_VM_EXIT, trace } from "../../trace.ts";
import { vmxCompleteInterrupts } from "../events.ts";
import {
  Kvm,
  VCPU_EXREG_CR3,
  VCPU_EXREG_EXIT_INFO_1,
  VCPU_EXREG_EXIT_INFO_2,
  VCPU_EXREG_RFLAGS,
  VCPU_REGS,
  type VcpuVmx,
} from "../kvm-struct.ts";
import { registerAddress, vmreadWord } from "../regs.ts";
import { EXIT_REASON_ENTRY_FAILED, vmxVcpuEnterExit } from "./enter-exit.ts";
import { isMachineCheckExit } from "./exits.ts";

/** Registers that stay in the VMCS at an exit (kernel: VMX_REGS_LAZY_LOAD_SET). */
const LAZY_REGISTERS =
  (1 << VCPU_REGS.RSP) |
  (1 << VCPU_REGS.RIP) |
  (1 << VCPU_EXREG_RFLAGS) |
  (1 << VCPU_EXREG_CR3) |
  (1 << VCPU_EXREG_EXIT_INFO_1) |
  (1 << VCPU_EXREG_EXIT_INFO_2);

function writeBack(vcpu: Ptr<"kvm_vcpu">, index: number, field: number): void {
  const low = cpu.load64(registerAddress(vcpu, index));
  cpu.vmwrite(field, low, cpu.high);
}

/** Kernel: `vmx_vcpu_run()`. Interrupts off. */
export function vmxVcpuRun(vcpu: Ptr<"kvm_vcpu">, vmx: VcpuVmx): void {
  const common = vmx.vcpu;
  const dirty = common.regsDirty;
  if (dirty !== 0) {
    if ((dirty & (1 << VCPU_REGS.RSP)) !== 0) writeBack(vcpu, VCPU_REGS.RSP, VMCS.GUEST_RSP);
    if ((dirty & (1 << VCPU_REGS.RIP)) !== 0) writeBack(vcpu, VCPU_REGS.RIP, VMCS.GUEST_RIP);
    common.regsDirty = 0;
  }
  const { launched } = vmx.vmcs01;

  vmxVcpuEnterExit(vcpu, vmx, launched);

  common.regsAvail = ~LAZY_REGISTERS >>> 0;
  const { exitReason } = vmx;
  if (exitReason === EXIT_REASON_ENTRY_FAILED) return;
  trace(TRACE_VM_EXIT, exitReason);
  if ((exitReason & VMX_EXIT_REASONS_FAILED_VMENTRY) !== 0) return;
  if (!launched) vmx.vmcs01.launched = true;
  vmxCompleteInterrupts(vmx);
}

/**
 * What the exit took out of the hardware's hands is handled now: a machine check, or the host interrupt that was acknowledged by it
 * (kernel: `vmx_handle_exit_irqoff()`).
 */
export function vmxHandleExitIrqoff(vmx: VcpuVmx): void {
  if (isMachineCheckExit(vmx)) kvmMachineCheck(vmreadWord(VMCS.GUEST_RIP));
  if (vmx.exitReason !== EXIT_REASON.EXTERNAL_INTERRUPT) return;
  const info = cpu.vmread(VMCS.VM_EXIT_INTR_INFO);
  if ((info & INTR_INFO_VALID_MASK) !== 0) cpu.invokeVector(info & 0xff);
}

/** Drops the guest's translations (kernel: `vmx_flush_tlb_current()`). */
export function vmxFlushTlb(vmx: VcpuVmx): void {
  cpu.invalidateGuest("ept", Kvm.at(vmx.vcpu.kvm).rootHpa);
  const { vpid } = vmx;
  if (vpid !== 0) cpu.invalidateGuest("vpid", vpid);
}
