// Hypercalls: VMCALL with the number in RAX, arguments in RBX, RCX, RDX, RSI, the result in RAX (Documentation/virt/kvm/x86/hypercalls.rst).
import { KVM_ENOSYS, KVM_EPERM, KVM_HC_CORDON_TABLE, KVM_HC_VAPIC_POLL_IRQ } from "../../abi/index.ts";
import { cpu, type Ptr, VMCS } from "../../hardware/index.ts";
import { kvmSkipEmulatedInstruction } from "./events.ts";
import { KVM_HC_TABLE_LOOKUP } from "./hypercall-gadget.ts";
import { VCPU_REGS } from "./kvm-struct.ts";
import { readGprLow, registerAddress, writeGprNumber } from "./regs.ts";

/** Privilege level of the guest: DPL in the access rights of SS (kernel: `vmx_get_cpl()`). */
export function vmxGetCpl(): number {
  return (cpu.vmread(VMCS.GUEST_SS_AR_BYTES) >> 5) & 3;
}

/** Kernel: `kvm_emulate_hypercall()`. @returns 1 */
export function kvmEmulateHypercall(vcpu: Ptr<"kvm_vcpu">): 1 {
  const number = readGprLow(vcpu, VCPU_REGS.RAX);
  const result = vmxGetCpl() === 0 ? perform(vcpu, number) : -KVM_EPERM;
  writeGprNumber(vcpu, VCPU_REGS.RAX, result);
  return kvmSkipEmulatedInstruction(vcpu);
}

function perform(vcpu: Ptr<"kvm_vcpu">, number: number): number {
  switch (number) {
    case KVM_HC_VAPIC_POLL_IRQ:
      return 0;
    case KVM_HC_CORDON_TABLE:
      return cpu.callStub(KVM_HC_TABLE_LOOKUP, registerAddress(vcpu, VCPU_REGS.RAX));
    default:
      return -KVM_ENOSYS;
  }
}
