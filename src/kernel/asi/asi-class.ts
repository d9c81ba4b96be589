// Classes of restricted address spaces: which are initialised, and what each asks for.
import { EEXIST, EINVAL, type Errno } from "../../abi/index.ts";
import { NULL, type Ptr } from "../../hardware/index.ts";
import { WARN_POLICY, warn } from "../trace.ts";
import { asiClassPolicy, asiEnabled, asiRfcV2, setAsiClassPolicy } from "./asi-state.ts";
import { ASI_CLASS_KVM, ASI_TAINTS_CONTROL_MASK, ASI_TAINTS_DATA_MASK, type AsiClassId, AsiTaintPolicy } from "./asi-struct.ts";

/** Kernel: `asi_class_initialized()`: the feature is on and the class has a policy. */
export function asiClassInitialized(id: AsiClassId): boolean {
  return asiEnabled() && asiClassPolicy(id) !== NULL;
}

/**
 * Initialises a class (kernel: `asi_init_class()`). `policy` must outlive it. With ASI off the policy is stored and nobody sees it.
 * @returns 0; EEXIST: it is initialised already; EINVAL (not in preset rfc-v2, which only warns): a bit outside its field's mask.
 */
export function asiInitClass(id: AsiClassId, policy: Ptr<"asi_taint_policy">): 0 | Errno {
  if (asiClassInitialized(id)) return EEXIST;
  const { preventControl, protectData } = AsiTaintPolicy.at(policy);
  if (asiRfcV2.isEnabled()) {
    if ((preventControl & ASI_TAINTS_CONTROL_MASK) === 0 || (protectData & ASI_TAINTS_DATA_MASK) === 0) warn(WARN_POLICY);
  } else if ((preventControl & ~ASI_TAINTS_CONTROL_MASK) !== 0 || (protectData & ~ASI_TAINTS_DATA_MASK) !== 0) {
    warn(WARN_POLICY);
    return EINVAL;
  }
  setAsiClassPolicy(id, policy);
  return 0;
}

/** Forgets a class (kernel: `asi_uninit_class()`). No domain of it may be alive. */
export function asiUninitClass(id: AsiClassId): void {
  if (!asiClassInitialized(id)) return;
  setAsiClassPolicy(id, NULL);
}

/** Kernel: `asi_class_name()`. */
export function asiClassName(id: AsiClassId): string {
  return id === ASI_CLASS_KVM ? "KVM" : "USERSPACE";
}
