// struct kvm_regs and struct kvm_sregs: a vCPU's registers as user space reads and writes them. The VMCS is loaded. 64-bit values.
import { EFAULT, EINVAL, type Errno, KVM_REGS_BYTES, KVM_REGS_ORDER, KVM_SREGS_BYTES, SREGS } from "../../abi/index.ts";
import { addVirt, CR0_PG, CR4_PAE, cpu, EFER_LMA, EFER_LME, type Ptr, RFLAGS_FIXED, type VirtAddr, VMCS } from "../../hardware/index.ts";
import { kernelBuffer } from "../linux/kernel-buffer.ts";
import { copyFromUser, copyToUser } from "../mm/uaccess.ts";
import { GUEST_MSR, KVM_REQ_TLB_FLUSH, KvmVcpu, VCPU_REGS } from "./kvm-struct.ts";
import { getRflags, kvmRegisterRead, kvmRegisterWrite, setRflags } from "./regs.ts";
import { kvmMakeRequest } from "./requests.ts";
import { kvmReadCr0, kvmReadCr4, vmxSetCr0, vmxSetCr4, vmxSetEfer } from "./vmx/control-registers.ts";
import { SEGMENT_NAMES, vmxGetSegment, vmxGetTable, vmxSetSegment, vmxSetTable } from "./vmx/segments.ts";

const REGISTER_INDEX = {
  rax: VCPU_REGS.RAX,
  rbx: VCPU_REGS.RBX,
  rcx: VCPU_REGS.RCX,
  rdx: VCPU_REGS.RDX,
  rsi: VCPU_REGS.RSI,
  rdi: VCPU_REGS.RDI,
  rsp: VCPU_REGS.RSP,
  rbp: VCPU_REGS.RBP,
  r8: VCPU_REGS.R8,
  r9: VCPU_REGS.R9,
  r10: VCPU_REGS.R10,
  r11: VCPU_REGS.R11,
  r12: VCPU_REGS.R12,
  r13: VCPU_REGS.R13,
  r14: VCPU_REGS.R14,
  r15: VCPU_REGS.R15,
  rip: VCPU_REGS.RIP,
} as const;

/** Reads a structure from user memory, hands it over in kernel memory. */
function fromUser(user: VirtAddr, bytes: number, use: (buffer: VirtAddr) => 0 | Errno): 0 | Errno {
  return kernelBuffer(bytes, (buffer) => (copyFromUser(buffer, user, bytes) !== 0 ? EFAULT : use(buffer)));
}

/** Lets `fill` fill a structure in kernel memory, writes it to user memory. */
function toUser(user: VirtAddr, bytes: number, fill: (buffer: VirtAddr) => void): 0 | Errno {
  return kernelBuffer(bytes, (buffer) => {
    cpu.fill(buffer, 0, bytes);
    fill(buffer);
    return copyToUser(user, buffer, bytes) !== 0 ? EFAULT : 0;
  });
}

/** KVM_GET_REGS. */
export function kvmArchVcpuIoctlGetRegs(vcpu: Ptr<"kvm_vcpu">, user: VirtAddr): 0 | Errno {
  return toUser(user, KVM_REGS_BYTES, (buffer) => {
    for (const [i, name] of KVM_REGS_ORDER.entries()) {
      const low = name === "rflags" ? getRflags(vcpu) : kvmRegisterRead(vcpu, REGISTER_INDEX[name]);
      cpu.store64(addVirt(buffer, 8 * i), low, name === "rflags" ? 0 : cpu.high);
    }
  });
}

/** KVM_SET_REGS. A pending exception is forgotten. */
export function kvmArchVcpuIoctlSetRegs(vcpu: Ptr<"kvm_vcpu">, user: VirtAddr): 0 | Errno {
  return fromUser(user, KVM_REGS_BYTES, (buffer) => {
    for (const [i, name] of KVM_REGS_ORDER.entries()) {
      const low = cpu.load64(addVirt(buffer, 8 * i));
      if (name === "rflags") setRflags(vcpu, (low | RFLAGS_FIXED) >>> 0);
      else kvmRegisterWrite(vcpu, REGISTER_INDEX[name], low, cpu.high);
    }
    KvmVcpu.at(vcpu).exceptionPending = false;
    return 0;
  });
}

/** KVM_GET_SREGS. */
export function kvmArchVcpuIoctlGetSregs(vcpu: Ptr<"kvm_vcpu">, user: VirtAddr): 0 | Errno {
  return toUser(user, KVM_SREGS_BYTES, (buffer) => {
    const view = KvmVcpu.at(vcpu);
    const put = (offset: number, low: number, high: number): void => cpu.store64(addVirt(buffer, offset), low, high);
    for (const name of SEGMENT_NAMES) vmxGetSegment(name, addVirt(buffer, SREGS[name]));
    for (const name of ["gdt", "idt"] as const) vmxGetTable(name, addVirt(buffer, SREGS[name]));
    put(SREGS.cr0, kvmReadCr0(vcpu), 0);
    cpu.storeWord(addVirt(buffer, SREGS.cr2), view.cr2);
    const cr3 = cpu.vmread(VMCS.GUEST_CR3);
    put(SREGS.cr3, cr3, cpu.high);
    put(SREGS.cr4, kvmReadCr4(vcpu), 0);
    put(SREGS.efer, view.efer, 0);
    const base = cpu.load64(addVirt(view.msrs, GUEST_MSR.APICBASE));
    put(SREGS.apic_base, base, cpu.high);
  });
}

const INTERRUPT_BITMAP_BYTES = 32;

/** Kernel: `kvm_is_valid_sregs()`: the control registers agree about long mode. */
function isValidSregs(buffer: VirtAddr): boolean {
  const cr0 = cpu.load(addVirt(buffer, SREGS.cr0), 4);
  const cr4 = cpu.load(addVirt(buffer, SREGS.cr4), 4);
  const efer = cpu.load(addVirt(buffer, SREGS.efer), 4);
  const isLong = (efer & EFER_LME) !== 0 && (cr0 & CR0_PG) !== 0;
  if (isLong) return (cr4 & CR4_PAE) !== 0 && (efer & EFER_LMA) !== 0;
  return (efer & EFER_LMA) === 0;
}

/** KVM_SET_SREGS. A pending interrupt cannot be set here: the bitmap must be empty. */
export function kvmArchVcpuIoctlSetSregs(vcpu: Ptr<"kvm_vcpu">, user: VirtAddr): 0 | Errno {
  return fromUser(user, KVM_SREGS_BYTES, (buffer) => {
    if (!isValidSregs(buffer)) return EINVAL;
    for (let i = 0; i < INTERRUPT_BITMAP_BYTES; i += 4) if (cpu.load(addVirt(buffer, SREGS.interrupt_bitmap + i), 4) !== 0) return EINVAL;
    const view = KvmVcpu.at(vcpu);
    const low = (offset: number): number => cpu.load(addVirt(buffer, offset), 4);
    for (const name of SEGMENT_NAMES) vmxSetSegment(name, addVirt(buffer, SREGS[name]));
    for (const name of ["gdt", "idt"] as const) vmxSetTable(name, addVirt(buffer, SREGS[name]));
    view.cr2 = cpu.loadWord(addVirt(buffer, SREGS.cr2)) as VirtAddr; // CR2 holds what faulted
    const cr3 = cpu.load64(addVirt(buffer, SREGS.cr3));
    cpu.vmwrite(VMCS.GUEST_CR3, cr3, cpu.high);
    // EFER before CR0: vmx_set_cr0() derives long mode from both.
    vmxSetEfer(vcpu, low(SREGS.efer));
    vmxSetCr0(vcpu, low(SREGS.cr0));
    vmxSetCr4(vcpu, low(SREGS.cr4));
    const base = cpu.load64(addVirt(buffer, SREGS.apic_base));
    cpu.store64(addVirt(view.msrs, GUEST_MSR.APICBASE), base, cpu.high);
    kvmMakeRequest(KVM_REQ_TLB_FLUSH, vcpu);
    return 0;
  });
}
