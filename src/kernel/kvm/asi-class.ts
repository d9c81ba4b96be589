// The class of restricted address spaces in which guests run: what must be flushed before a guest, and what a guest leaves behind.
import type { Errno } from "../../abi/index.ts";
import type { Ptr } from "../../hardware/index.ts";
import { asiInitClass } from "../asi/asi-class.ts";
import { asiMapsUserAddr } from "../asi/asi-domain.ts";
import { asiRfcV2 } from "../asi/asi-state.ts";
import {
  ASI_CLASS_KVM,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_GUEST_DATA,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_DATA,
  AsiTaintPolicy,
} from "../asi/asi-struct.ts";
import { asiTaintsSet } from "../asi/asi-transition.ts";
import { kvmAsiPolicy, kvmAsiPolicyNoSecrets } from "./kvm-struct.ts";

/** Kernel: `kvm_x86_init_asi_class()`. */
export function kvmX86InitAsiClass(): 0 | Errno {
  // Kernel and other processes; and the monitor's own data, which a monitor without secrets does not need.
  const protectData = ASI_TAINT_KERNEL_DATA | ASI_TAINT_OTHER_MM_DATA;
  setPolicy(kvmAsiPolicyNoSecrets, protectData);
  // The guest cannot reach the monitor's memory through its domain, which maps none of it.
  setPolicy(kvmAsiPolicy, asiMapsUserAddr(ASI_CLASS_KVM) ? protectData : protectData | ASI_TAINT_USER_DATA);
  return asiInitClass(ASI_CLASS_KVM, kvmAsiPolicy);
}

function setPolicy(address: Ptr<"asi_taint_policy">, protectData: number): void {
  const policy = AsiTaintPolicy.at(address);
  policy.protectData = protectData;
  // This protects the guest from others, not others from the guest. It trusts its own monitor.
  policy.preventControl = ASI_TAINT_OTHER_MM_CONTROL;
  // GUEST_CONTROL always: VMX never issues a prediction barrier at VM exit. As posted, it replaces GUEST_DATA instead of joining it.
  policy.set = asiTaintsSet(asiRfcV2.isEnabled() ? ASI_TAINT_GUEST_CONTROL : ASI_TAINT_GUEST_DATA | ASI_TAINT_GUEST_CONTROL);
}
