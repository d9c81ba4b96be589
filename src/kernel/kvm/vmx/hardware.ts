// VMX operation of a CPU, and which VMCS is current on it. A VMCS may be in use by one CPU only: before another CPU loads it, the
// first must have written it back with VMCLEAR.
import { EBUSY, EIO, ENOMEM, type Errno } from "../../../abi/index.ts";
import {
  addVirt,
  CR4_VMXE,
  cpu,
  high32,
  low32,
  MSR_IA32_FEAT_CTL,
  MSR_IA32_PRED_CMD,
  NULL,
  PRED_CMD_IBPB,
  type Ptr,
  perCpu,
  pointer,
  type VirtAddr,
  VMX_SUCCEED,
  virtual,
} from "../../../hardware/index.ts";
import { sendIpi } from "../../entry/ipi.ts";
import { CALL_FUNCTION_VECTOR } from "../../entry/vectors.ts";
import { __GFP_ZERO, GFP_KERNEL } from "../../mm/gfp.ts";
import { pa } from "../../mm/layout.ts";
import { freePages, getFreePages } from "../../mm/page-alloc.ts";
import { nrCpuIds, perCpuBase } from "../../mm/percpu.ts";
import { localIrqRestore, localIrqSave } from "../../spinlock.ts";
import { currentVmcs, hardwareEnabled, Kvm, KvmGlobals, kvmGlobals, LoadedVmcs, switchVcpuIbpb, VcpuVmx, vmxarea } from "../kvm-struct.ts";

const FEAT_CTL_LOCKED = 1 << 0;
const FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX = 1 << 2;
/** loaded_vmcs.cpu of a VMCS that no CPU has loaded. */
const NO_CPU = -1;

/** A zeroed VMXON or VMCS region with its revision (kernel: `alloc_vmcs()`). 0 on failure. */
export function allocVmcs(): VirtAddr {
  const region = getFreePages(GFP_KERNEL | __GFP_ZERO, 0);
  if (region !== 0) cpu.store(region, 4, KvmGlobals.at(kvmGlobals).vmcsRevision);
  return region;
}

/** Kernel: `free_vmcs()`. */
export function freeVmcs(region: VirtAddr): void {
  freePages(region, 0);
}

/** A VMXON region for every CPU, now or later online (kernel: `alloc_kvm_area()`). @returns 0; ENOMEM: none is left allocated. */
export function allocKvmArea(): 0 | Errno {
  for (let id = 0; id < nrCpuIds(); id++) {
    const region = allocVmcs();
    if (region === 0) {
      freeKvmArea();
      return ENOMEM;
    }
    virtual.set(vmxarea.at(perCpuBase(id)), region);
  }
  return 0;
}

/** Kernel: `free_kvm_area()`. */
export function freeKvmArea(): void {
  for (let id = 0; id < nrCpuIds(); id++) {
    const slot = vmxarea.at(perCpuBase(id));
    const region = virtual.get(slot);
    if (region === 0) continue;
    freeVmcs(region);
    virtual.set(slot, 0 as VirtAddr);
  }
}

/**
 * Puts this CPU into VMX operation (kernel: `vmx_enable_virtualization_cpu()`). Linux does it on all CPUs when KVM is loaded or the
 * first VM is made; here each does it when it first loads a vCPU. @returns 0; EIO: the firmware forbids it; EBUSY: VMXON failed.
 */
export function vmxEnableVirtualizationCpu(): 0 | Errno {
  if (hardwareEnabled.get() !== 0) return 0;
  const control = cpu.readMsr(MSR_IA32_FEAT_CTL);
  if ((control & FEAT_CTL_LOCKED) === 0) {
    cpu.writeMsr(MSR_IA32_FEAT_CTL, control | FEAT_CTL_LOCKED | FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX, cpu.high);
  } else if ((control & FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX) === 0) {
    return EIO;
  }
  cpu.writeCr4((cpu.readCr4() | CR4_VMXE) >>> 0);
  if (cpu.vmx("vmxon", pa(vmxarea.get())) !== VMX_SUCCEED) {
    cpu.writeCr4((cpu.readCr4() & ~CR4_VMXE) >>> 0);
    return EBUSY;
  }
  hardwareEnabled.set(1);
  return 0;
}

/** Calls `act` for every VMCS that this CPU has loaded (kernel: loaded_vmcss_on_cpu). */
function forEachVmcsHere(act: (loaded: Ptr<"loaded_vmcs">) => void): void {
  for (let kvm = KvmGlobals.at(kvmGlobals).vmList; kvm !== NULL; ) {
    const view = Kvm.at(kvm);
    const { onlineVcpus } = view;
    for (let i = 0; i < onlineVcpus; i++) {
      const loaded = loadedVmcsAt(view.vcpus.get(i), VcpuVmx.offset.vmcs01);
      if (LoadedVmcs.at(loaded).cpu === cpu.id) act(loaded);
    }
    kvm = view.vmListNext;
  }
}

/**
 * Takes this CPU out of VMX operation, all that it has loaded written back: before it is taken offline, before a suspend, before another
 * kernel runs on it (kernel: `vmx_disable_virtualization_cpu()`, `kvm_suspend()`). It goes back when it next loads a vCPU.
 */
export function vmxDisableVirtualizationCpu(): void {
  if (hardwareEnabled.get() === 0) return;
  forEachVmcsHere(loadedVmcsClearHere);
  emergencyDisableVirtualization();
}

/** Kernel: `cpu_emergency_disable_virtualization()`: at a crash nothing is written back. Callable in an NMI. */
export function emergencyDisableVirtualization(): void {
  if (hardwareEnabled.get() === 0) return;
  cpu.vmx("vmxoff", pa(vmxarea.get()));
  cpu.writeCr4((cpu.readCr4() & ~CR4_VMXE) >>> 0);
  currentVmcs.set(0 as VirtAddr);
  hardwareEnabled.set(0);
}

/** Writes the VMCS back from the CPU that holds it, which is this one or none (kernel: `__loaded_vmcs_clear()`). */
export function loadedVmcsClearHere(loaded: Ptr<"loaded_vmcs">): void {
  const view = LoadedVmcs.at(loaded);
  if (view.cpu === NO_CPU) return;
  const flags = localIrqSave();
  const { vmcs } = view;
  cpu.vmx("vmclear", pa(vmcs));
  if (currentVmcs.get() === vmcs) currentVmcs.set(0 as VirtAddr);
  view.cpu = NO_CPU;
  view.launched = false;
  localIrqRestore(flags);
}

/** A VMCS that another CPU asks this one to write back; NULL for none. */
const vmclearRequest = perCpu("vmclear_request", pointer("loaded_vmcs"));

/**
 * Writes the VMCS back, wherever it is loaded (kernel: `loaded_vmcs_clear()`). While it waits for another CPU it does what others ask of
 * this one, so it may be called with interrupts off.
 */
export function loadedVmcsClear(loaded: Ptr<"loaded_vmcs">): void {
  const view = LoadedVmcs.at(loaded);
  const holder = view.cpu;
  if (holder === NO_CPU || holder === cpu.id) {
    loadedVmcsClearHere(loaded);
    return;
  }
  const slot = vmclearRequest.at(perCpuBase(holder));
  while (!cpu.compareExchange64(slot, 0, 0, low32(loaded), high32(loaded))) waitForOthers();
  sendIpi(holder, CALL_FUNCTION_VECTOR);
  while (view.cpu !== NO_CPU) waitForOthers();
}

function waitForOthers(): void {
  cpu.pause();
  vmclearInterrupt();
}

/** Serves loadedVmcsClear() of another CPU: part of the handler of CALL_FUNCTION_VECTOR. Interrupts off, or nobody here uses the VMCS. */
export function vmclearInterrupt(): void {
  const loaded = vmclearRequest.get();
  if (loaded === NULL) return;
  loadedVmcsClearHere(loaded);
  vmclearRequest.set(NULL);
}

/** Prepares a fresh VMCS (kernel: `alloc_loaded_vmcs()`). */
export function initLoadedVmcs(loaded: Ptr<"loaded_vmcs">, vmcs: VirtAddr): void {
  const view = LoadedVmcs.at(loaded);
  view.vmcs = vmcs;
  view.cpu = NO_CPU;
  view.launched = false;
  cpu.vmx("vmclear", pa(vmcs));
}

/**
 * Makes `loaded` current on this CPU (kernel: `vmx_vcpu_load_vmcs()`). Interrupts off or the caller cannot migrate.
 * @returns true when the CPU differs from the one that loaded it last: its host fields must be written.
 */
export function vmxVcpuLoadVmcs(loaded: Ptr<"loaded_vmcs">): boolean {
  const view = LoadedVmcs.at(loaded);
  const { vmcs } = view;
  const isNewCpu = view.cpu !== cpu.id;
  if (currentVmcs.get() !== vmcs) {
    currentVmcs.set(vmcs);
    cpu.vmx("vmptrld", pa(vmcs));
    // Another vCPU ran here last: its training must not steer this one.
    if (switchVcpuIbpb.isEnabled()) cpu.writeMsr(MSR_IA32_PRED_CMD, PRED_CMD_IBPB, 0);
  }
  if (isNewCpu) view.cpu = cpu.id;
  return isNewCpu;
}

/** Address of a field of the loaded VMCS of a vCPU. */
export function loadedVmcsAt(vcpu: VirtAddr, offset: number): Ptr<"loaded_vmcs"> {
  return addVirt(vcpu, offset) as Ptr<"loaded_vmcs">;
}
