// The two judgements that S1, S2 and S10 share: which owners' training a context refuses, and which owners' data is protected from it.
// An owner is named by the taint that would stand for it, seen from the domain's mm.
import {
  type CpuModel,
  hasBug,
  hasFeature,
  isSensitiveOwner,
  OWNER_GUEST,
  OWNER_KERNEL,
  type Owner,
  ownerKind,
  ownerNumber,
  SHARED_BY_PROCESSES,
} from "../../hardware/index.ts";
import {
  ASI_CLASS_KVM,
  ASI_CLASS_USERSPACE,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_GUEST_DATA,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_CONTROL,
  ASI_TAINT_USER_DATA,
} from "../../kernel/index.ts";
import type { Contents, Structure } from "./ground-truth.ts";
import type { Domain, KernelView } from "./kernel-view.ts";

/**
 * What the classes must ask for (spec 2.5), whatever the policy in memory says; a class's own policy may ask for more. The KVM class
 * protects the monitor's data too, and trusts the monitor; the class for processes trusts no guest.
 */
const DEMANDED: ReadonlyMap<number, { readonly preventControl: number; readonly protectData: number }> = new Map([
  [
    ASI_CLASS_KVM,
    { preventControl: ASI_TAINT_OTHER_MM_CONTROL, protectData: ASI_TAINT_KERNEL_DATA | ASI_TAINT_USER_DATA | ASI_TAINT_OTHER_MM_DATA },
  ],
  [
    ASI_CLASS_USERSPACE,
    { preventControl: ASI_TAINT_GUEST_CONTROL | ASI_TAINT_OTHER_MM_CONTROL, protectData: ASI_TAINT_KERNEL_DATA | ASI_TAINT_OTHER_MM_DATA },
  ],
]);

export interface Finding {
  readonly structure: Structure;
  readonly owner: Owner;
}

/** Number of the mm that a VM belongs to, by the VM's number; learnt from the vCPU loads. */
export type VmOwners = ReadonlyMap<number, number>;

/** Not a stranger's, as `domain` sees it: to the domain of one VM another VM of the same process is one. */
function belongsTo(label: Owner, { mmNumber, vm }: Domain, vms: VmOwners): boolean {
  const number = ownerNumber(label);
  if (number === SHARED_BY_PROCESSES) return true;
  if (ownerKind(label) === OWNER_GUEST) return vms.get(number) === mmNumber && (vm === 0 || vm === number);
  return number === mmNumber;
}

function controlTaint(label: Owner, domain: Domain, vms: VmOwners): number {
  const kind = ownerKind(label);
  if (kind === 0 || kind === OWNER_KERNEL) return 0;
  if (!belongsTo(label, domain, vms)) return ASI_TAINT_OTHER_MM_CONTROL;
  return kind === OWNER_GUEST ? ASI_TAINT_GUEST_CONTROL : ASI_TAINT_USER_CONTROL;
}

function dataTaint(label: Owner, domain: Domain, vms: VmOwners): number {
  const kind = ownerKind(label);
  if (kind === 0) return 0;
  if (kind === OWNER_KERNEL) return ASI_TAINT_KERNEL_DATA;
  if (!belongsTo(label, domain, vms)) return ASI_TAINT_OTHER_MM_DATA;
  return kind === OWNER_GUEST ? ASI_TAINT_GUEST_DATA : ASI_TAINT_USER_DATA;
}

/** Structures whose training this model can clear: without IBPB the branch target buffer is reported as unprotected instead. */
function predictors(model: CpuModel): Structure[] {
  return hasFeature(model, "IBPB") ? ["branch target buffer", "return stack"] : ["return stack"];
}

/** Structures that less privileged code samples on this model, and that something clears. */
export function sampleable(model: CpuModel): Structure[] {
  const structures: Structure[] = [];
  if (hasBug(model, "L1TF")) structures.push("L1D");
  if (hasBug(model, "MDS") && hasFeature(model, "MD_CLEAR")) structures.push("fill buffers");
  return structures;
}

/** Training in the return stack that the unrestricted kernel refuses. */
export function refusedReturns(cpu: Contents, view: KernelView): Finding | undefined {
  const refuses = unrestrictedRefuses(view);
  for (const owner of cpu.holds("return stack")) if (refuses(owner)) return { structure: "return stack", owner };
  return undefined;
}

/** A predictor entry on `cpu` that code in `domain` refuses; domain undefined: the unrestricted kernel. */
export function refusedTraining(
  model: CpuModel,
  cpu: Contents,
  view: KernelView,
  domain: Domain | undefined,
  vms: VmOwners,
): Finding | undefined {
  const refuses = domain === undefined ? unrestrictedRefuses(view) : domainRefuses(view, domain, vms);
  for (const structure of predictors(model)) {
    for (const owner of cpu.holds(structure)) if (refuses(owner)) return { structure, owner };
  }
  return undefined;
}

/** The unrestricted kernel refuses the training of every initialised class's contexts, of whatever mm. */
function unrestrictedRefuses(view: KernelView): (label: Owner) => boolean {
  const guests = view.policy(ASI_CLASS_KVM).isInitialized;
  const users = view.policy(ASI_CLASS_USERSPACE).isInitialized;
  return (label) => {
    const kind = ownerKind(label);
    if (kind === 0 || kind === OWNER_KERNEL) return false;
    return kind === OWNER_GUEST ? guests : users;
  };
}

function domainRefuses(view: KernelView, domain: Domain, vms: VmOwners): (label: Owner) => boolean {
  const preventControl = view.policyOf(domain).preventControl | (DEMANDED.get(domain.classId)?.preventControl ?? 0);
  return (label) => (controlTaint(label, domain, vms) & preventControl) !== 0;
}

/** Sensitive data in a structure that code of `domain` could sample and that the domain's policy protects from it. */
export function exposedData(model: CpuModel, cpu: Contents, view: KernelView, domain: Domain, vms: VmOwners): Finding | undefined {
  // What a monitor gave up it gave up for itself: its own data, nobody else's.
  const givenUp = view.isWithoutSecrets(domain) ? ASI_TAINT_USER_DATA : 0;
  const protectData = view.policyOf(domain).protectData | ((DEMANDED.get(domain.classId)?.protectData ?? 0) & ~givenUp);
  for (const structure of sampleable(model)) {
    for (const owner of cpu.holds(structure)) {
      if (isSensitiveOwner(owner) && (dataTaint(owner, domain, vms) & protectData) !== 0) return { structure, owner };
    }
  }
  return undefined;
}
