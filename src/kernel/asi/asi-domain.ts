// Making and destroying a domain: the restricted tables of one mm for one class.
import { EINVAL, ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, assert, cpu, KERNEL_PGD_BOUNDARY, NULL, PAGE_SIZE, type PhysAddr, type Ptr } from "../../hardware/index.ts";
import { __GFP_ZERO, GFP_KERNEL } from "../mm/gfp.ts";
import { pa, va } from "../mm/layout.ts";
import { Mm } from "../mm/mm-struct.ts";
import { freePages, getFreePages } from "../mm/page-alloc.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { staticBytes } from "../static-data.ts";
import { WARN_DESTROY_NO_CLASS, WARN_INIT_NO_CLASS, warn } from "../trace.ts";
import { asiClassInitialized } from "./asi-class.ts";
import { asiEvict } from "./asi-evict.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiClassPolicy, asiEnabled, asiGlobalReady, asiRfcV2 } from "./asi-state.ts";
import { ASI_CLASS_USERSPACE, ASI_MAX_NUM_CLASSES, Asi, type AsiClassId } from "./asi-struct.ts";

/** Numbers of domains. */
const lastDomainId = staticBytes("asi_last_domain_id", 4, 4);

/**
 * The domain of `mm` for class `id`, made when it is the first to ask, shared with all who asked before (kernel: `asi_init()`).
 * @returns the domain; NULL with ASI off (every function here tolerates it); EINVAL: the class is not initialised; ENOMEM.
 */
export function asiInit(mm: Ptr<"mm_struct">, id: AsiClassId): Ptr<"asi"> | Errno {
  if (!asiEnabled()) return NULL;
  if (!asiClassInitialized(id)) {
    warn(WARN_INIT_NO_CLASS);
    return EINVAL;
  }
  assert(asiGlobalReady.isEnabled(), () => "asi_init() before the global nonsensitive map is there");
  const lock = Mm.at(mm).asiInitLock;
  spinLock(lock);
  const domain = Mm.at(mm).asi.address(id) as Ptr<"asi">; // an element of that array
  const result = asiGet(domain, mm, id);
  initUserPgds(domain);
  spinUnlock(lock);
  return result === 0 ? domain : result;
}

/**
 * A domain in a record of the caller's, zeroed, which nobody else shares (option domain_per_vm). asiDestroy() gives it back, and then the
 * record is the caller's again. @returns as asiInit().
 */
export function asiInitOwn(domain: Ptr<"asi">, mm: Ptr<"mm_struct">, id: AsiClassId): 0 | Errno {
  if (!asiClassInitialized(id)) {
    warn(WARN_INIT_NO_CLASS);
    return EINVAL;
  }
  const lock = Mm.at(mm).asiInitLock;
  spinLock(lock);
  const result = asiGet(domain, mm, id);
  initUserPgds(domain);
  spinUnlock(lock);
  return result;
}

/** One more user of the domain; its tables with the first. Under asiInitLock. */
function asiGet(domain: Ptr<"asi">, mm: Ptr<"mm_struct">, id: AsiClassId): 0 | Errno {
  const asi = Asi.at(domain);
  const users = asi.refCount;
  if (users > 0) {
    asi.refCount = users + 1;
    return 0;
  }
  assert(asi.pgd === 0, () => "asi_init(): an unused domain has tables");
  const table = getFreePages(GFP_KERNEL | __GFP_ZERO, tableOrder());
  if (table === 0) return ENOMEM;
  // Lower tables are shared: what is added to them later is in every domain. Entries added later are not, so all are there since boot.
  const half = KERNEL_PGD_BOUNDARY * 8;
  cpu.copy(addVirt(table, half), addVirt(va(Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd), half), PAGE_SIZE - half);
  asi.mm = mm;
  asi.classId = id;
  asi.policy = asiClassPolicy(id);
  asi.id = cpu.rmw("add", lastDomainId, 4, 1) + 1;
  asi.refCount = 1;
  asi.pgd = pa(table);
  return 0;
}

/** Kernel: PGD_ALLOCATION_ORDER: as posted a domain has a second root, which nothing uses, because a kernel with PTI makes two. */
function tableOrder(): number {
  return asiRfcV2.isEnabled() ? 1 : 0;
}

/** The domain's code runs in user mode, so its tables have the user half of the mm's (kernel: `asi_maps_user_addr()`). */
export function asiMapsUserAddr(id: AsiClassId): boolean {
  return id === ASI_CLASS_USERSPACE;
}

/** Copies what the mm has mapped so far; later entries come one by one (kernel: `__asi_init_user_pgds()`). */
function initUserPgds(domain: Ptr<"asi">): void {
  const asi = Asi.at(domain);
  const { pgd, classId, pgdLock } = asi;
  if (pgd === 0 || !asiMapsUserAddr(classId as AsiClassId)) return;
  spinLock(pgdLock);
  cpu.copy(va(pgd), va(Mm.at(asi.mm).pgd), KERNEL_PGD_BOUNDARY * 8);
  spinUnlock(pgdLock);
}

/**
 * Gives back what asiInit() gave (kernel: `asi_destroy()`). With the last reference go the tables, off which every CPU is told first: the
 * posted series leaves that to the caller, where nobody could do it once KVM_RUN may end restricted. Interrupts on, unless no other CPU
 * can be there.
 */
export function asiDestroy(domain: Ptr<"asi">): void {
  if (!asiEnabled() || domain === NULL) return;
  const asi = Asi.at(domain);
  if (!asiClassInitialized(asi.classId as AsiClassId)) {
    warn(WARN_DESTROY_NO_CLASS);
    return;
  }
  const lock = Mm.at(asi.mm).asiInitLock;
  spinLock(lock);
  const users = asi.refCount - 1;
  asi.refCount = users;
  if (users === 0) {
    asiEvict(domain);
    const table = asi.pgd;
    asi.pgd = 0 as PhysAddr;
    asi.mm = NULL;
    asi.classId = 0;
    freePages(va(table), tableOrder());
  }
  spinUnlock(lock);
}

/** A new mm has no domains (kernel: `asi_init_mm_state()`). */
export function asiInitMmState(mm: Ptr<"mm_struct">): void {
  cpu.fill(Mm.at(mm).asi.address(0), 0, Asi.bytes * ASI_MAX_NUM_CLASSES);
  cpu.store(Mm.at(mm).asiInitLock, 4, 0);
}
