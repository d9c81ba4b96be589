// From the kernel into the guest and back: the heart of the KVM part of address space isolation. The order of the calls is the design.
import {
  cpu,
  EXIT_REASON,
  INTR_INFO_TYPE_MASK,
  INTR_INFO_VALID_MASK,
  INTR_TYPE_NMI_INTR,
  NULL,
  type Ptr,
  VECTOR_NMI,
  VMCS,
  VMX_EXIT_REASONS_FAILED_VMENTRY,
} from "../../../hardware/index.ts";
import { flushTaints } from "../../asi/asi-options.ts";
import { asiEnter, asiRelax, asiReturnStackIsFilled, asiReturnStackIsLent } from "../../asi/asi-transition.ts";
import { siblingsGate } from "../../asi/siblings.ts";
import { clearCpuBufVm } from "../../mitigations/feature-keys.ts";
import { hostSpecCtrlMatters } from "../../mitigations/spec-ctrl.ts";
import { vmscapeAfterVmExit } from "../../mitigations/vmscape.ts";
import { getCurrentCr3Fast } from "../../mm/cr3.ts";
import { TRACE_VM_ENTRY, trace } from "../../trace.ts";
import { Kvm, type KvmVcpu, rsbVmexit, VCPU_REGS, type VcpuVmx, vmxL1dMayFlush } from "../kvm-struct.ts";
import { vmxL1dFlush } from "../l1d-flush.ts";
import { registerAddress, vmwriteWord } from "../regs.ts";
import { enterStubSymbols, VMX_RUN_CLEAR_CPU_BUFFERS, VMX_RUN_SPEC_CTRL, VMX_RUN_VMRESUME } from "./enter-stub.ts";

/** exit_reason when the VM entry instruction failed (kernel: vmx->exit_reason.full = 0xdead). */
export const EXIT_REASON_ENTRY_FAILED = 0xdead;

/** The VM exit is an NMI of the host's. */
function isNmiExit(vmx: VcpuVmx, exitReason: number): boolean {
  if (exitReason !== EXIT_REASON.EXCEPTION_NMI) return false;
  const info = cpu.vmread(VMCS.VM_EXIT_INTR_INFO);
  vmx.exitIntrInfo = info;
  return (info & INTR_INFO_VALID_MASK) !== 0 && (info & INTR_INFO_TYPE_MASK) === INTR_TYPE_NMI_INTR;
}

/** What the entry stub does about buffers and IA32_SPEC_CTRL: VMX_RUN_* (kernel: `__vmx_vcpu_run_flags()`). */
function protectionFlags(vcpu: KvmVcpu): number {
  let flags = 0;
  // With flush_taints asi_enter() has cleared the buffers where something was in them that the guest must not see.
  const followsTaints = flushTaints.key.isEnabled() && Kvm.at(vcpu.kvm).asi !== NULL;
  if (clearCpuBufVm.isEnabled() && !followsTaints) flags |= VMX_RUN_CLEAR_CPU_BUFFERS;
  if (hostSpecCtrlMatters()) flags |= VMX_RUN_SPEC_CTRL;
  return flags;
}

/** Kernel: `vmx_vcpu_enter_exit()`. Interrupts off. */
export function vmxVcpuEnterExit(vcpu: Ptr<"kvm_vcpu">, vmx: VcpuVmx, isLaunched: boolean): void {
  const common = vmx.vcpu;
  trace(TRACE_VM_ENTRY, vcpu);
  asiEnter(Kvm.at(common.kvm).asi);

  // The VM exit must come back to the address space that the CPU is in now: so after asi_enter(), which changes it; and immediately
  // before the entry, because address space numbers may be handed out anew any time another mm is loaded for a while.
  const cr3 = getCurrentCr3Fast();
  const host = vmx.vmcs01.hostState;
  if (cr3 !== host.cr3) {
    vmwriteWord(VMCS.HOST_CR3, cr3);
    host.cr3 = cr3;
  }

  // After asi_enter(): its own data flush has come first, and what this one would throw out is already less.
  if (vmxL1dMayFlush.isEnabled()) vmxL1dFlush(common);

  const { cr2 } = common;
  if (cr2 !== cpu.readCr2()) cpu.writeCr2(cr2);

  // The last act but one: an interrupt that it sends to this CPU is held, and ends the guest before its first instruction.
  siblingsGate(Kvm.at(common.kvm).asi);

  const flags = (isLaunched ? VMX_RUN_VMRESUME : 0) | protectionFlags(common);
  if (rsbVmexit.isEnabled()) asiReturnStackIsLent();
  const failed = cpu.callStub(enterStubSymbols().run, vmx.address, registerAddress(vcpu, VCPU_REGS.RAX), flags);
  vmx.fail = failed;
  if (failed === 0 && rsbVmexit.isEnabled()) asiReturnStackIsFilled();

  common.cr2 = cpu.readCr2();
  vmx.idtVectoringInfo = 0;
  vmscapeAfterVmExit();

  // Before any exit handler, and before an NMI is handled: from here on the CPU may leave the restricted address space for good.
  asiRelax();

  if (failed !== 0) {
    vmx.exitReason = EXIT_REASON_ENTRY_FAILED;
    return;
  }
  const exitReason = cpu.vmread(VMCS.VM_EXIT_REASON);
  vmx.exitReason = exitReason;
  if ((exitReason & VMX_EXIT_REASONS_FAILED_VMENTRY) === 0) vmx.idtVectoringInfo = cpu.vmread(VMCS.IDT_VECTORING_INFO_FIELD);
  // NMIs are blocked since the exit, until the handler's IRET.
  if (isNmiExit(vmx, exitReason)) cpu.invokeVector(VECTOR_NMI);
}
