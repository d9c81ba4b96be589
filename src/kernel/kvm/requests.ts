// Requests to a vCPU: bits that anyone may set and that the vCPU looks at before it enters the guest. Who asks of a vCPU that is in the
// guest sends its CPU an interrupt, which forces an exit, and waits until the vCPU is out (kernel: kvm_make_all_cpus_request()).
import { addVirt, cpu, cpuId, ICR_FIXED, MSR_X2APIC_ICR, NULL, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { RESCHEDULE_VECTOR } from "../entry/vectors.ts";
import { IN_GUEST_MODE, KVM_MAX_VCPUS, KVM_REQ_TLB_FLUSH, Kvm, KvmVcpu } from "./kvm-struct.ts";

/** Kernel: `kvm_make_request()`. */
export function kvmMakeRequest(request: number, vcpu: VirtAddr): void {
  cpu.rmw("or", addVirt(vcpu, KvmVcpu.offset.requests), 4, request);
}

/** Kernel: `kvm_clear_request()`. */
export function kvmClearRequest(request: number, vcpu: VirtAddr): void {
  cpu.rmw("and", addVirt(vcpu, KvmVcpu.offset.requests), 4, ~request >>> 0);
}

/** Forces a vCPU that is in the guest on another CPU to exit, and waits for it (kernel: `kvm_vcpu_kick()`). */
function kvmVcpuKick(vcpu: Ptr<"kvm_vcpu">): void {
  const view = KvmVcpu.at(vcpu);
  if (view.mode !== IN_GUEST_MODE) return;
  const target = view.cpu;
  if (target < 0 || target === cpu.id) return;
  cpu.writeMsr(MSR_X2APIC_ICR, ICR_FIXED | RESCHEDULE_VECTOR, cpuId(target));
  while (view.mode === IN_GUEST_MODE && view.requests !== 0) cpu.pause();
}

/** Every vCPU drops its translations before it next runs guest code (kernel: `kvm_flush_remote_tlbs()`). */
export function kvmFlushRemoteTlbs(kvm: Ptr<"kvm">): void {
  const { vcpus } = Kvm.at(kvm);
  for (let i = 0; i < KVM_MAX_VCPUS; i++) {
    const vcpu = vcpus.get(i);
    if (vcpu === NULL) continue;
    kvmMakeRequest(KVM_REQ_TLB_FLUSH, vcpu);
    kvmVcpuKick(vcpu);
  }
}
