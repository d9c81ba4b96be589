// The life of a vCPU: its memory, its VMCS, its VPID; and its file, which user space runs it by.
import { EEXIST, EINVAL, ENOMEM, type Errno, isErr } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, ptr } from "../../hardware/index.ts";
import { anonInodeGetfd } from "../linux/file.ts";
import { FILE_KVM_VCPU } from "../linux/file-struct.ts";
import { __GFP_ZERO, GFP_KERNEL_ACCOUNT } from "../mm/gfp.ts";
import { freePages, getFreePages } from "../mm/page-alloc.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { mutexLock, mutexUnlock } from "../sched/mutex.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { KVM_MAX_VCPUS, Kvm, KvmGlobals, KvmVcpu, kvmGlobals, VcpuVmx, VMX_NR_VPIDS } from "./kvm-struct.ts";
import { initMsrBitmap } from "./msr.ts";
import { toVmx, vcpuLoad, vcpuPut, vmcs01 } from "./vcpu-load.ts";
import { kvmGetKvm, kvmGetVcpuById, kvmPutKvm } from "./vm.ts";
import { allocVmcs, freeVmcs, initLoadedVmcs, loadedVmcsClear, vmxEnableVirtualizationCpu } from "./vmx/hardware.ts";
import { initVmcs, vmxVcpuReset } from "./vmx/setup.ts";

function withVpidLock<T>(use: (address: ReturnType<typeof vpidByte>) => T, vpid: number): T {
  const lock = addVirt(kvmGlobals, KvmGlobals.offset.kvmLock);
  spinLock(lock);
  const result = use(vpidByte(vpid));
  spinUnlock(lock);
  return result;
}

function vpidByte(vpid: number): ReturnType<typeof addVirt> {
  return addVirt(kvmGlobals, KvmGlobals.offset.vpidBitmap + (vpid >> 3));
}

/** Kernel: `allocate_vpid()`. 0 when all are taken. */
function allocateVpid(): number {
  for (let vpid = 1; vpid < VMX_NR_VPIDS; vpid++) {
    const bit = 1 << (vpid & 7);
    const isFree = withVpidLock((byte) => (cpu.rmw("or", byte, 1, bit) & bit) === 0, vpid);
    if (isFree) return vpid;
  }
  return 0;
}

/** Kernel: `free_vpid()`. */
function freeVpid(vpid: number): void {
  if (vpid !== 0) withVpidLock((byte) => cpu.rmw("and", byte, 1, 0xff & ~(1 << (vpid & 7))), vpid);
}

function getZeroedPage(): ReturnType<typeof getFreePages> {
  return getFreePages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, 0);
}

/** Gives back whatever of the vCPU was allocated (kernel: `kvm_vcpu_destroy()`). It is loaded nowhere. */
function vcpuFree(vcpu: Ptr<"kvm_vcpu">): void {
  const vmx = toVmx(vcpu);
  const view = vmx.vcpu;
  const { vmcs } = vmx.vmcs01;
  if (vmcs !== 0) freeVmcs(vmcs);
  for (const page of [view.run, view.pioData, vmx.msrBitmap]) if (page !== 0) freePages(page, 0);
  const { cpuidEntries } = view;
  if (cpuidEntries !== 0) kfree(cpuidEntries);
  freeVpid(vmx.vpid);
  kfree(vcpu);
}

/** Memory of a vCPU, or ENOMEM (kernel: `vmx_vcpu_create()` and its caller). */
function vcpuAlloc(kvm: Ptr<"kvm">, id: number): Ptr<"kvm_vcpu"> | Errno {
  const vcpu = ptr<"kvm_vcpu">(kzalloc(VcpuVmx.bytes, GFP_KERNEL_ACCOUNT));
  if (vcpu === NULL) return ENOMEM;
  const vmx = toVmx(vcpu);
  const view = vmx.vcpu;
  view.kvm = kvm;
  view.vcpuId = id;
  view.cpu = -1;
  view.run = getZeroedPage();
  view.pioData = getZeroedPage();
  vmx.msrBitmap = getZeroedPage();
  const vmcs = allocVmcs();
  vmx.vmcs01.vmcs = vmcs;
  vmx.vmcs01.cpu = -1;
  vmx.vpid = allocateVpid();
  if (view.run !== 0 && view.pioData !== 0 && vmx.msrBitmap !== 0 && vmcs !== 0) return vcpu;
  vcpuFree(vcpu);
  return ENOMEM;
}

/** Fills the VMCS (kernel: `kvm_arch_vcpu_create()`). @returns 0, or why this CPU cannot do VMX: the caller frees. */
function vcpuSetup(vcpu: Ptr<"kvm_vcpu">): 0 | Errno {
  const enableError = vmxEnableVirtualizationCpu();
  if (enableError !== 0) return enableError;
  const vmx = toVmx(vcpu);
  initMsrBitmap(vmx.msrBitmap);
  initLoadedVmcs(vmcs01(vcpu), vmx.vmcs01.vmcs);
  const error = vcpuLoad(vcpu);
  if (error !== 0) return error;
  initVmcs(vcpu);
  vmxVcpuReset(vcpu);
  vcpuPut(vcpu);
  return 0;
}

/** KVM_CREATE_VCPU (kernel: `kvm_vm_ioctl_create_vcpu()`). @returns a descriptor; EINVAL; EEXIST; ENOMEM; EMFILE. */
export function kvmVmIoctlCreateVcpu(kvm: Ptr<"kvm">, id: number): number {
  if (!Number.isInteger(id) || id < 0 || id >= KVM_MAX_VCPUS) return EINVAL;
  const lock = addVirt(kvm, Kvm.offset.lock);
  mutexLock(lock);
  const result = createVcpuLocked(kvm, id);
  mutexUnlock(lock);
  return result;
}

function createVcpuLocked(kvm: Ptr<"kvm">, id: number): number {
  const view = Kvm.at(kvm);
  if (kvmGetVcpuById(view, id) !== NULL) return EEXIST;
  const vcpu = vcpuAlloc(kvm, id);
  if (isErr(vcpu)) return vcpu;
  const error = vcpuSetup(vcpu);
  if (error !== 0) {
    vcpuFree(vcpu);
    return error;
  }
  kvmGetKvm(kvm);
  const fd = anonInodeGetfd(FILE_KVM_VCPU, vcpu);
  if (fd < 0) {
    loadedVmcsClear(vmcs01(vcpu));
    vcpuFree(vcpu);
    kvmPutKvm(kvm);
    return fd;
  }
  view.vcpus.set(id, vcpu);
  view.onlineVcpus += 1;
  return fd;
}

/**
 * The vCPU's file is closed (kernel: `kvm_vcpu_release()`). Linux keeps the vCPU until the VM goes; here nothing but its file refers to
 * it, so it goes now, and its VMCS is written back first.
 */
export function kvmVcpuRelease(vcpu: Ptr<"kvm_vcpu">): void {
  const view = KvmVcpu.at(vcpu);
  const { kvm } = view;
  const vm = Kvm.at(kvm);
  const lock = addVirt(kvm, Kvm.offset.lock);
  mutexLock(lock);
  vm.vcpus.set(view.vcpuId, NULL);
  vm.onlineVcpus -= 1;
  mutexUnlock(lock);
  loadedVmcsClear(vmcs01(vcpu));
  vcpuFree(vcpu);
  kvmPutKvm(kvm);
}
