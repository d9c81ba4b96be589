// The class of restricted address spaces in which user processes run: every mm has a domain of it for as long as it lives; what its
// process has mapped is visible there, through the same page tables, and nothing that the kernel keeps for others is.
import type { Errno } from "../../abi/index.ts";
import { addVirt, cpu, isKernelAddress, NULL, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { commandLineChoice } from "../boot/command-line.ts";
import { va } from "../mm/layout.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { entryAt } from "../mm/page-table.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { staticKey } from "../static-key.ts";
import { EXIT_USER_RETURN } from "../trace.ts";
import { asiInitClass } from "./asi-class.ts";
import { asiDestroy, asiInit, asiInitMmState, asiMapsUserAddr } from "./asi-domain.ts";
import { asiEnabled, staticPolicy } from "./asi-state.ts";
import {
  ASI_CLASS_USERSPACE,
  ASI_MAX_NUM_CLASSES,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_CONTROL,
  ASI_TAINT_USER_DATA,
  Asi,
  type AsiClassId,
  AsiTaintPolicy,
} from "./asi-struct.ts";
import { asiEnterRelaxed, asiExit, asiIsRestricted, asiReturnToUserWithoutDomain, asiTaintsSet } from "./asi-transition.ts";

/** The class is there: processes are restricted. Patched at boot. */
export const asiUserspace = staticKey("asi_userspace");
const userspacePolicy = staticPolicy("asi_userspace_policy");

/**
 * Kernel: `asi_init_userspace_class()`. From start_kernel(), before the first mm is made. `asi_userspace=off` leaves processes unrestricted
 * (an option of the later branch; the default follows `asi=`).
 */
export function asiInitUserspaceClass(commandLine: string): 0 | Errno {
  if (!asiEnabled()) return 0;
  if (commandLineChoice(commandLine, "asi_userspace", ["on", "off"]) === "off") return 0;
  const policy = AsiTaintPolicy.at(userspacePolicy);
  // Its own guest's data is no secret from a monitor, and its own mm's neither; but a guest's training must not steer it.
  policy.protectData = ASI_TAINT_KERNEL_DATA | ASI_TAINT_OTHER_MM_DATA;
  policy.preventControl = ASI_TAINT_GUEST_CONTROL | ASI_TAINT_OTHER_MM_CONTROL;
  policy.set = asiTaintsSet(ASI_TAINT_USER_CONTROL | ASI_TAINT_USER_DATA);
  const error = asiInitClass(ASI_CLASS_USERSPACE, userspacePolicy);
  if (error === 0) asiUserspace.set(1);
  return error;
}

/** A new mm: no domains but the one its process will run in (kernel: `asi_init_mm_state()` of patch 25). @returns ENOMEM: it has none. */
export function asiInitMm(mm: MmPtr): 0 | Errno {
  asiInitMmState(mm);
  if (!asiUserspace.isEnabled()) return 0;
  const domain = asiInit(mm, ASI_CLASS_USERSPACE);
  return domain < 0 && domain >= -4095 ? (domain as Errno) : 0; // an error, or an address
}

/** The last reference to the mm goes: no CPU has it loaded, hence none is in its domain (kernel: `asi_destroy_userspace()`). */
export function asiDestroyUserspace(mm: MmPtr): void {
  if (!asiUserspace.isEnabled()) return;
  const domain = userDomain(mm);
  if (Asi.at(domain).pgd !== 0) asiDestroy(domain);
}

/** The domain of processes of `mm`. */
export function userDomain(mm: MmPtr): Ptr<"asi"> {
  return addVirt(mm, Mm.offset.asi + ASI_CLASS_USERSPACE * Asi.bytes) as Ptr<"asi">; // an element of that array
}

/**
 * The last act on every way to user mode (kernel: `asi_enter_userspace()`). Interrupts off. After an interrupt from user mode the critical
 * section is still open: the end of the handler goes back into it. Where processes have no domain, user code runs on its mm's own tables.
 */
export function asiEnterUserspace(): void {
  if (!asiUserspace.isEnabled()) {
    // Only where KVM_RUN does not leave the guest's domain at its end.
    if (asiEnabled() && asiIsRestricted()) asiExit(EXIT_USER_RETURN);
    asiReturnToUserWithoutDomain();
    return;
  }
  const task = TaskStruct.at(current());
  const { asiState } = task.thread;
  if (asiState.target === NULL) asiEnterRelaxed(asiState, userDomain(task.mm));
}

/**
 * A root entry of the user half was made: the domains that map user memory get it too, and with it everything below (kernel:
 * `asi_clone_user_pgtbl()`). Two CPUs may do so at once, for the same entry.
 */
export function asiCloneUserPgtbl(mm: MmPtr, address: VirtAddr): void {
  forEachUserTable(mm, address, (entry, from) => {
    const low = cpu.load64(from);
    cpu.store64(entry, low, cpu.high);
  });
}

/** A root entry of the user half was cleared; before its tables are freed, and before the TLBs are flushed. */
export function asiClearUserPgd(mm: MmPtr, address: VirtAddr): void {
  forEachUserTable(mm, address, (entry) => cpu.store64(entry, 0, 0));
}

/** The entry for `address` in each domain of `mm` that maps user memory, and the one in the mm's own root; under the domain's lock. */
function forEachUserTable(mm: MmPtr, address: VirtAddr, act: (entry: VirtAddr, from: VirtAddr) => void): void {
  if (!asiEnabled() || isKernelAddress(address)) return;
  for (let id = 0; id < ASI_MAX_NUM_CLASSES; id++) {
    if (!asiMapsUserAddr(id as AsiClassId)) continue;
    const asi = Asi.at(addVirt(mm, Mm.offset.asi + id * Asi.bytes) as Ptr<"asi">); // an element of that array
    spinLock(asi.pgdLock);
    const { pgd } = asi;
    if (pgd !== 0) act(entryAt(va(pgd), address, 4), entryAt(va(Mm.at(mm).pgd), address, 4));
    spinUnlock(asi.pgdLock);
  }
}
