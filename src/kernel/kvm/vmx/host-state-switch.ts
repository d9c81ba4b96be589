// What the hardware does not switch at VM entry and exit: the kernel GS base and the system call MSRs. Switched when the vCPU is loaded
// for running and back when it is put, not at every exit (kernel: vmx_prepare_switch_to_guest(), vmx_prepare_switch_to_host(), and the
// user-return MSRs, which Linux restores a little later, at the return to user mode).
import {
  addVirt,
  bytes,
  cpu,
  EFER_SCE,
  MSR_CSTAR,
  MSR_KERNEL_GS_BASE,
  MSR_LSTAR,
  MSR_STAR,
  MSR_SYSCALL_MASK,
  MSR_TSC_AUX,
  type Ptr,
  perCpu,
  type VirtAddr,
} from "../../../hardware/index.ts";
import { GUEST_MSR, KvmVcpu, type VcpuVmx } from "../kvm-struct.ts";

interface UserReturnMsr {
  readonly msr: number;
  /** Where the guest's value is in kvm_vcpu.msrs. */
  readonly offset: number;
  /** Of no consequence to a guest without SYSCALL. */
  readonly needsSyscall: boolean;
}

/** MSRs that only user mode, SYSCALL and RDTSCP use: the host's values are wanted back before the return to user mode. */
const URET_MSRS: readonly UserReturnMsr[] = [
  { msr: MSR_TSC_AUX, offset: GUEST_MSR.TSC_AUX, needsSyscall: false },
  { msr: MSR_STAR, offset: GUEST_MSR.STAR, needsSyscall: true },
  { msr: MSR_LSTAR, offset: GUEST_MSR.LSTAR, needsSyscall: true },
  { msr: MSR_CSTAR, offset: GUEST_MSR.CSTAR, needsSyscall: true },
  { msr: MSR_SYSCALL_MASK, offset: GUEST_MSR.SYSCALL_MASK, needsSyscall: true },
];

/** Host values of URET_MSRS on this CPU, in their order (kernel: user_return_msrs). */
const userReturnMsrs = perCpu("user_return_msrs", bytes(8 * URET_MSRS.length, 8));

function guestMsr(vcpu: VirtAddr, offset: number): VirtAddr {
  return addVirt(vcpu, KvmVcpu.offset.msrs + offset);
}

function writeMsrFrom(msr: number, address: VirtAddr): void {
  const low = cpu.load64(address);
  cpu.writeMsr(msr, low, cpu.high);
}

function readMsrTo(msr: number, address: VirtAddr): void {
  const low = cpu.readMsr(msr);
  cpu.store64(address, low, cpu.high);
}

/** Before the guest is entered; does nothing when the guest's values are there already. */
export function vmxPrepareSwitchToGuest(vcpu: Ptr<"kvm_vcpu">, vmx: VcpuVmx): void {
  if (vmx.guestStateLoaded) return;
  vmx.guestStateLoaded = true;
  readMsrTo(MSR_KERNEL_GS_BASE, vmx.msrHostKernelGsBase);
  writeMsrFrom(MSR_KERNEL_GS_BASE, guestMsr(vcpu, GUEST_MSR.KERNEL_GS_BASE));
  const hasSyscall = (vmx.vcpu.efer & EFER_SCE) !== 0;
  const host = userReturnMsrs.here();
  let loaded = 0;
  for (const [i, { msr, offset, needsSyscall }] of URET_MSRS.entries()) {
    if (needsSyscall && !hasSyscall) continue;
    readMsrTo(msr, addVirt(host, 8 * i));
    writeMsrFrom(msr, guestMsr(vcpu, offset));
    loaded |= 1 << i;
  }
  vmx.uretMsrsLoaded = loaded;
}

/** The guest changed an MSR: the hardware's copy follows if it is the guest's now (kernel: `vmx_set_guest_uret_msr()`). */
export function vmxSetGuestUretMsr(vmx: VcpuVmx, changed: number, low: number, high: number): void {
  const index = URET_MSRS.findIndex(({ msr }) => msr === changed);
  if (index >= 0 && (vmx.uretMsrsLoaded & (1 << index)) !== 0) cpu.writeMsr(changed, low, high);
}

/** When the vCPU leaves this CPU. */
export function vmxPrepareSwitchToHost(vcpu: Ptr<"kvm_vcpu">, vmx: VcpuVmx): void {
  if (!vmx.guestStateLoaded) return;
  vmx.guestStateLoaded = false;
  readMsrTo(MSR_KERNEL_GS_BASE, guestMsr(vcpu, GUEST_MSR.KERNEL_GS_BASE));
  writeMsrFrom(MSR_KERNEL_GS_BASE, vmx.msrHostKernelGsBase);
  const loaded = vmx.uretMsrsLoaded;
  vmx.uretMsrsLoaded = 0;
  const host = userReturnMsrs.here();
  for (const [i, { msr }] of URET_MSRS.entries()) if ((loaded & (1 << i)) !== 0) writeMsrFrom(msr, addVirt(host, 8 * i));
}
