// The life of a VM: made for one process, whose memory it maps and whose KVM domain it shares; it lives as long as a file of it or of
// one of its vCPUs is open.
import { ENODEV, ENOMEM, type Errno, isErr } from "../../abi/index.ts";
import { addVirt, cpu, fail, NULL, type Ptr } from "../../hardware/index.ts";
import { asiDestroy, asiInit } from "../asi/asi-domain.ts";
import { protectUserData } from "../asi/asi-options.ts";
import { asiRfcV2 } from "../asi/asi-state.ts";
import { ASI_CLASS_KVM } from "../asi/asi-struct.ts";
import { shouldFailAlloc } from "../mm/fail-alloc.ts";
import { GFP_KERNEL_ACCOUNT } from "../mm/gfp.ts";
import { mmdrop, mmgrab } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { KVM_MAX_VCPUS, Kvm, KvmGlobals, kvmGlobals } from "./kvm-struct.ts";
import { kvmMmuInitVm, kvmMmuUninitVm } from "./mmu.ts";
import { kvmDestroyDomain, kvmInitDomain, kvmUpdateDomainPolicy } from "./vm-domain.ts";

function lockVmList(): void {
  spinLock(addVirt(kvmGlobals, KvmGlobals.offset.kvmLock));
}

function unlockVmList(): void {
  spinUnlock(addVirt(kvmGlobals, KvmGlobals.offset.kvmLock));
}

/** Kernel: `vmx_vm_init()`. Nothing that could fail is left of it here; a failure can be injected, so that its callers' way back is walked. */
function vmxVmInit(kvm: Ptr<"kvm">): 0 | Errno {
  if (shouldFailAlloc()) return ENOMEM;
  Kvm.at(kvm).vmInitCalls += 1;
  return 0;
}

/** Kernel: `kvm_arch_init_vm()`. What fails undoes all before it. */
function kvmArchInitVm(kvm: Ptr<"kvm">): 0 | Errno {
  const mmuError = kvmMmuInitVm(kvm);
  if (mmuError !== 0) return mmuError;
  if (asiRfcV2.isEnabled()) return kvmArchInitVmAsPosted(kvm);
  const domainError = kvmInitDomain(kvm);
  if (domainError !== 0) {
    kvmMmuUninitVm(kvm);
    return domainError;
  }
  const error = vmxVmInit(kvm);
  if (error !== 0) {
    kvmDestroyDomain(kvm);
    kvmMmuUninitVm(kvm);
  }
  return error;
}

/** The order of the posted series: the VM is initialised twice, and the first time is not undone when the domain cannot be made. */
function kvmArchInitVmAsPosted(kvm: Ptr<"kvm">): 0 | Errno {
  const view = Kvm.at(kvm);
  let error = vmxVmInit(kvm);
  if (error !== 0) {
    kvmMmuUninitVm(kvm);
    return error;
  }
  const asi = asiInit(view.mm, ASI_CLASS_KVM);
  if (isErr(asi)) {
    kvmMmuUninitVm(kvm);
    return asi;
  }
  view.asi = asi;
  error = vmxVmInit(kvm);
  if (error !== 0) {
    asiDestroy(asi);
    kvmMmuUninitVm(kvm);
  }
  return error;
}

/** Kernel: `kvm_arch_destroy_vm()`. No vCPU is left, so no CPU runs in the domain for this VM; one may rest in it. */
function kvmArchDestroyVm(kvm: Ptr<"kvm">): void {
  kvmDestroyDomain(kvm);
  kvmMmuUninitVm(kvm);
}

/** Kernel: `kvm_create_vm()`. @returns ENODEV: the hypervisor is not there; ENOMEM. */
export function kvmCreateVm(mm: MmPtr): Ptr<"kvm"> | Errno {
  if (!KvmGlobals.at(kvmGlobals).isInitialised) return ENODEV;
  const kvm = kzalloc(Kvm.bytes, GFP_KERNEL_ACCOUNT) as Ptr<"kvm">; // of this size
  if (kvm === NULL) return ENOMEM;
  const view = Kvm.at(kvm);
  mmgrab(mm);
  view.mm = mm;
  view.label = Mm.at(mm).number;
  view.usersCount = 1;
  view.protectUserData = protectUserData.key.isEnabled();
  const error = kvmArchInitVm(kvm);
  if (error !== 0) {
    mmdrop(mm);
    kfree(kvm);
    return error;
  }
  lockVmList();
  const globals = KvmGlobals.at(kvmGlobals);
  view.vmListNext = globals.vmList;
  globals.vmList = kvm;
  unlockVmList();
  kvmUpdateDomainPolicy(kvm);
  return kvm;
}

function unlinkVm(kvm: Ptr<"kvm">): void {
  lockVmList();
  const globals = KvmGlobals.at(kvmGlobals);
  const next = Kvm.at(kvm).vmListNext;
  if (globals.vmList === kvm) globals.vmList = next;
  else {
    let at = globals.vmList;
    while (at !== NULL && Kvm.at(at).vmListNext !== kvm) at = Kvm.at(at).vmListNext;
    if (at === NULL) fail("a VM that is destroyed is not in vm_list");
    Kvm.at(at).vmListNext = next;
  }
  unlockVmList();
}

/** Kernel: `kvm_get_kvm()`. */
export function kvmGetKvm(kvm: Ptr<"kvm">): void {
  cpu.rmw("add", addVirt(kvm, Kvm.offset.usersCount), 4, 1);
}

/** Drops a reference; the last one destroys the VM (kernel: `kvm_put_kvm()`, `kvm_destroy_vm()`). */
export function kvmPutKvm(kvm: Ptr<"kvm">): void {
  if (cpu.rmw("add", addVirt(kvm, Kvm.offset.usersCount), 4, 0xffffffff) !== 1) return;
  const view = Kvm.at(kvm);
  const { mm } = view;
  unlinkVm(kvm);
  kvmArchDestroyVm(kvm);
  kfree(kvm);
  mmdrop(mm);
}

/** Calls `visit` with every VM of `mm`; vm_list is locked meanwhile. */
export function forEachVmOf(mm: MmPtr, visit: (kvm: Ptr<"kvm">) => void): void {
  lockVmList();
  for (let kvm = KvmGlobals.at(kvmGlobals).vmList; kvm !== NULL; kvm = Kvm.at(kvm).vmListNext) if (Kvm.at(kvm).mm === mm) visit(kvm);
  unlockVmList();
}

/** First vCPU of a VM with identifier `id`, or NULL. Under kvm.lock. */
export function kvmGetVcpuById(view: Kvm, id: number): Ptr<"kvm_vcpu"> {
  return id < KVM_MAX_VCPUS ? view.vcpus.get(id) : NULL;
}
