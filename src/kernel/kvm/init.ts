// Loading and unloading the hypervisor: each step that fails undoes those before it, in the reverse order.
import type { Errno } from "../../abi/index.ts";
import { asiUninitClass } from "../asi/asi-class.ts";
import { ASI_CLASS_KVM } from "../asi/asi-struct.ts";
import { kvmX86InitAsiClass } from "./asi-class.ts";
import { hypercallTableInit } from "./hypercall-gadget.ts";
import { KvmGlobals, kvmGlobals } from "./kvm-struct.ts";
import { vmxInitL1dFlush } from "./l1d-flush.ts";
import { setupVmcsConfig } from "./vmx/capabilities.ts";
import { allocKvmArea, freeKvmArea } from "./vmx/hardware.ts";

/** Kernel: `vmx_hardware_setup()`. */
function hardwareSetup(): 0 | Errno {
  const error = setupVmcsConfig();
  return error !== 0 ? error : allocKvmArea();
}

/** Kernel: `kvm_x86_vendor_init()`. */
export function kvmX86VendorInit(): 0 | Errno {
  // Before the hardware is set up: from then on VMs could be made.
  const classError = kvmX86InitAsiClass();
  if (classError !== 0) return classError;
  const error = hardwareSetup();
  if (error !== 0) asiUninitClass(ASI_CLASS_KVM);
  return error;
}

/** Kernel: `kvm_x86_vendor_exit()`. No VM is left. */
export function kvmX86VendorExit(): void {
  freeKvmArea();
  asiUninitClass(ASI_CLASS_KVM);
}

/** Kernel: `vmx_init()`. @returns 0; ENODEV: no VMX; EEXIST: the class of restricted address spaces is there already; ENOMEM; EIO. */
export function kvmInit(): 0 | Errno {
  const error = kvmX86VendorInit();
  if (error !== 0) return error;
  vmxInitL1dFlush();
  hypercallTableInit();
  KvmGlobals.at(kvmGlobals).isInitialised = true;
  return 0;
}

/** Kernel: `vmx_exit()`. No VM is left, and no CPU is in VMX operation. */
export function kvmExit(): void {
  KvmGlobals.at(kvmGlobals).isInitialised = false;
  kvmX86VendorExit();
}
