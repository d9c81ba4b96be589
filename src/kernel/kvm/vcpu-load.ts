// Between vcpu_load() and vcpu_put() a vCPU belongs to the task that runs it and is loaded on that task's CPU; when the task is switched
// away the scheduler takes the vCPU off the CPU, and puts it back when the task returns (kernel: preempt notifiers).
import type { Errno } from "../../abi/index.ts";
import { cpu, NULL, OWNER_GUEST, owner, type Ptr, ptr } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { KVM_REQ_TLB_FLUSH, Kvm, KvmVcpu, kvmRunningVcpu, LoadedVmcs, VcpuVmx } from "./kvm-struct.ts";
import { kvmMakeRequest } from "./requests.ts";
import { loadedVmcsAt, loadedVmcsClear, vmxEnableVirtualizationCpu, vmxVcpuLoadVmcs } from "./vmx/hardware.ts";
import { vmxPrepareSwitchToHost } from "./vmx/host-state-switch.ts";
import { vmxSetCpuHostState } from "./vmx/setup.ts";

/** Kernel: `to_vmx()`. */
export function toVmx(vcpu: Ptr<"kvm_vcpu">): VcpuVmx {
  return VcpuVmx.at(ptr<"vcpu_vmx">(vcpu)); // its first field is the vCPU
}

export function vmcs01(vcpu: Ptr<"kvm_vcpu">): Ptr<"loaded_vmcs"> {
  return loadedVmcsAt(vcpu, VcpuVmx.offset.vmcs01);
}

/** Kernel: `kvm_arch_vcpu_load()`, `vmx_vcpu_load()`. @returns 0, or why this CPU cannot run guests. */
export function kvmArchVcpuLoad(vcpu: Ptr<"kvm_vcpu">): 0 | Errno {
  const view = KvmVcpu.at(vcpu);
  const error = vmxEnableVirtualizationCpu();
  if (error !== 0) return error;
  // What ran here meanwhile may have left secrets in L1D.
  view.l1tfFlushL1d = true;
  const loaded = vmcs01(vcpu);
  const last = LoadedVmcs.at(loaded).cpu;
  if (last >= 0 && last !== cpu.id) loadedVmcsClear(loaded);
  if (vmxVcpuLoadVmcs(loaded)) {
    vmxSetCpuHostState(toVmx(vcpu));
    // This CPU may hold translations of this vCPU from long ago.
    kvmMakeRequest(KVM_REQ_TLB_FLUSH, vcpu);
  }
  view.cpu = cpu.id;
  // Ground truth: guest code on this CPU is this VM's. The label is read whether somebody listens or not: reads are steps.
  const { label } = Kvm.at(view.kvm);
  if (cpu.isLive) cpu.observer.context(cpu.id, OWNER_GUEST, owner(OWNER_GUEST, label, true));
  return 0;
}

/** Kernel: `kvm_arch_vcpu_put()`. */
export function kvmArchVcpuPut(vcpu: Ptr<"kvm_vcpu">): void {
  vmxPrepareSwitchToHost(vcpu, toVmx(vcpu));
  KvmVcpu.at(vcpu).cpu = -1;
}

/** Kernel: `vcpu_load()`. The caller holds the vCPU's mutex. */
export function vcpuLoad(vcpu: Ptr<"kvm_vcpu">): 0 | Errno {
  kvmRunningVcpu.set(vcpu);
  TaskStruct.at(current()).preemptNotifier = vcpu;
  const error = kvmArchVcpuLoad(vcpu);
  if (error !== 0) vcpuForget();
  return error;
}

/** Kernel: `vcpu_put()`. */
export function vcpuPut(vcpu: Ptr<"kvm_vcpu">): void {
  kvmArchVcpuPut(vcpu);
  vcpuForget();
}

function vcpuForget(): void {
  TaskStruct.at(current()).preemptNotifier = NULL;
  kvmRunningVcpu.set(NULL);
}

/** The task that has `vcpu` loaded is being switched away (kernel: `kvm_sched_out()`). */
export function kvmSchedOut(vcpu: Ptr<"kvm_vcpu">): void {
  kvmArchVcpuPut(vcpu);
  kvmRunningVcpu.set(NULL);
}

/** ... and is back, perhaps on another CPU (kernel: `kvm_sched_in()`). VMX works on every CPU or on none. */
export function kvmSchedIn(vcpu: Ptr<"kvm_vcpu">): void {
  kvmRunningVcpu.set(vcpu);
  kvmArchVcpuLoad(vcpu);
}
