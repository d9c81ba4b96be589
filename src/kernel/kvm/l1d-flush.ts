// KVM's own L1D flush before VM entry, against L1TF: never, always, or on condition that a secret may have come into L1D since the
// last entry. With ASI the data flush of asi_enter() does the same where it is owed; the two do not know of each other (spec 2.12).
import { bootCommandLine } from "../boot/command-line.ts";
import { l1tfFlush } from "../mitigations/l1tf.ts";
import { l1tfVmxMitigation, selectVmxL1dFlush, VMENTER_L1D_FLUSH_ALWAYS, VMENTER_L1D_FLUSH_COND } from "../mitigations/select.ts";
import { type KvmVcpu, kvmCpuL1tfFlushL1d, vmxL1dFlushCond, vmxL1dShouldFlush } from "./kvm-struct.ts";

/** Kernel: `vmx_l1d_flush()`. The flags are cleared when they are looked at. */
export function vmxL1dFlush(vcpu: KvmVcpu): void {
  if (vmxL1dFlushCond.isEnabled()) {
    const isOwed = vcpu.l1tfFlushL1d;
    vcpu.l1tfFlushL1d = false;
    const isOwedByCpu = kvmCpuL1tfFlushL1d.get() !== 0;
    kvmCpuL1tfFlushL1d.set(0);
    if (!isOwed && !isOwedByCpu) return;
  }
  vcpu.l1dFlushes += 1;
  l1tfFlush();
}

/** A host interrupt may bring secrets into L1D: every one calls this (kernel: `kvm_set_cpu_l1tf_flush_l1d()`). */
export function kvmSetCpuL1tfFlushL1d(): void {
  if (vmxL1dFlushCond.isEnabled()) kvmCpuL1tfFlushL1d.set(1);
}

/** Sets the static keys of the entry path from what the command line and the CPU selected (kernel: `vmx_setup_l1d_flush()`). */
export function vmxSetupL1dFlush(): void {
  selectVmxL1dFlush(bootCommandLine());
  const mode = l1tfVmxMitigation();
  vmxL1dShouldFlush.set(mode === VMENTER_L1D_FLUSH_COND || mode === VMENTER_L1D_FLUSH_ALWAYS ? 1 : 0);
  vmxL1dFlushCond.set(mode === VMENTER_L1D_FLUSH_COND ? 1 : 0);
}
