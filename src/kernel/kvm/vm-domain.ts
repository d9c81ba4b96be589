// The domain that a VM's guest runs in: the KVM domain of its mm, or with domain_per_vm one of its own; and what of its monitor's is
// protected from the guest, which a monitor may choose for itself.
import { EINVAL, ENOMEM, type Errno, isErr } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr } from "../../hardware/index.ts";
import { asiDestroy, asiInit, asiInitOwn } from "../asi/asi-domain.ts";
import { asiEvict } from "../asi/asi-evict.ts";
import { domainPerVm } from "../asi/asi-options.ts";
import { asiEnabled } from "../asi/asi-state.ts";
import { ASI_CLASS_KVM, Asi } from "../asi/asi-struct.ts";
import { GFP_KERNEL_ACCOUNT } from "../mm/gfp.ts";
import { Mm } from "../mm/mm-struct.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { Kvm, kvmAsiPolicy, kvmAsiPolicyNoSecrets, lastVmLabel } from "./kvm-struct.ts";
import { forEachVmOf } from "./vm.ts";

/** Gives the VM its domain. @returns EINVAL; ENOMEM: it has none, and nothing is left. */
export function kvmInitDomain(kvm: Ptr<"kvm">): 0 | Errno {
  const view = Kvm.at(kvm);
  if (!domainPerVm.key.isEnabled() || !asiEnabled()) {
    const shared = asiInit(view.mm, ASI_CLASS_KVM);
    if (isErr(shared)) return shared;
    view.asi = shared;
    return 0;
  }
  const own = kzalloc(Asi.bytes, GFP_KERNEL_ACCOUNT) as Ptr<"asi">; // of this size
  if (own === NULL) return ENOMEM;
  const error = asiInitOwn(own, view.mm, ASI_CLASS_KVM);
  if (error !== 0) {
    kfree(own);
    return error;
  }
  view.asi = own;
  view.label = cpu.rmw("add", lastVmLabel, 4, 1) + 1;
  return 0;
}

/** No vCPU of the VM is left; CPUs that rest in its domain are told to leave if nobody else uses it. */
export function kvmDestroyDomain(kvm: Ptr<"kvm">): void {
  const { asi, mm } = Kvm.at(kvm);
  asiDestroy(asi);
  if (asi !== NULL && asi !== addVirt(mm, Mm.offset.asi + ASI_CLASS_KVM * Asi.bytes)) kfree(asi);
}

/**
 * The domain protects what any of its VMs wants protected. Made stricter, it is left by every CPU: one that rests in it would enter it again
 * without a flush. After a VM was made, or has chosen.
 */
export function kvmUpdateDomainPolicy(kvm: Ptr<"kvm">): void {
  const { asi, mm } = Kvm.at(kvm);
  if (asi === NULL) return;
  let protects = false;
  forEachVmOf(mm, (other) => {
    const view = Kvm.at(other);
    if (view.asi === asi && view.protectUserData) protects = true;
  });
  const policy = protects ? kvmAsiPolicy : kvmAsiPolicyNoSecrets;
  const domain = Asi.at(asi);
  if (domain.policy === policy) return;
  domain.policy = policy;
  if (protects) asiEvict(asi);
}

/** KVM_CAP_ASI_PROTECT_USER_DATA. Under kvm.lock. @returns EINVAL: no such value, or vCPUs are there. */
export function kvmSetProtectUserData(kvm: Ptr<"kvm">, value: number): 0 | Errno {
  const view = Kvm.at(kvm);
  if (value !== 0 && value !== 1) return EINVAL;
  if (view.onlineVcpus !== 0) return EINVAL;
  view.protectUserData = value === 1;
  kvmUpdateDomainPolicy(kvm);
  return 0;
}
