// Guest-physical memory: an EPT of four levels per VM, filled on demand from the monitor's memory through the memory slots, page by
// page (kernel: the TDP MMU). Entries appear by compare-and-exchange, so that vCPUs may fault at once; they disappear when the monitor
// unmaps the memory or deletes the slot, always with INVEPT before the frames are given back.
import { EFAULT, ENOMEM, type Errno, isErr, KVM_MEM_READONLY } from "../../abi/index.ts";
import {
  addVirt,
  cpu,
  ENTRIES_PER_TABLE,
  EPT_EXECUTE,
  EPT_MEMORY_TYPE_WB,
  EPT_READ,
  EPT_WRITE,
  entryFrame,
  entryHigh,
  entryLow,
  gfnOf,
  guestPhysAddr,
  type Level,
  OWNER_GUEST,
  owner,
  PAGE_SIZE,
  type PhysAddr,
  type Ptr,
  tableIndex,
  type VirtAddr,
  virtAddr,
} from "../../hardware/index.ts";
import { __GFP_ZERO, GFP_KERNEL_ACCOUNT } from "../mm/gfp.ts";
import { pa, va } from "../mm/layout.ts";
import { freePages, getFreePages, setPageOwner } from "../mm/page-alloc.ts";
import { physToPage } from "../mm/page-struct.ts";
import { getUserPage, putUserPage } from "../mm/user-memory.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { Kvm, type KvmMemorySlot } from "./kvm-struct.ts";
import { gfnToMemslot } from "./memslots.ts";

/** EPT pointer: memory type write-back (6), walk length 4 (3 in bits 5:3); no accessed and dirty flags. SDM vol. 3, 26.6.11. */
const EPTP_WB_WALK_4 = 6 | (3 << 3);
const EPT_RWX = EPT_READ | EPT_WRITE | EPT_EXECUTE;
const ROOT_LEVEL: Level = 4;
const LEAF_LEVEL: Level = 1;
const ENTRY_BYTES = 8;

/** Kernel: `construct_eptp()`. */
export function constructEptp(root: PhysAddr): number {
  return root + EPTP_WB_WALK_4;
}

/** Kernel: `kvm_mmu_init_vm()`: makes the root. */
export function kvmMmuInitVm(kvm: Ptr<"kvm">): 0 | Errno {
  const root = getFreePages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, 0);
  if (root === 0) return ENOMEM;
  Kvm.at(kvm).rootHpa = pa(root);
  return 0;
}

/** Kernel: `kvm_mmu_uninit_vm()`: frees all tables. No vCPU is left. */
export function kvmMmuUninitVm(kvm: Ptr<"kvm">): void {
  const view = Kvm.at(kvm);
  freeTable(va(view.rootHpa), ROOT_LEVEL);
  view.rootHpa = 0 as PhysAddr;
}

function freeTable(table: VirtAddr, level: Level): void {
  if (level > LEAF_LEVEL) {
    for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
      const low = cpu.load64(addVirt(table, i * ENTRY_BYTES));
      if ((low & EPT_RWX) !== 0) freeTable(va(entryFrame(low, cpu.high)), (level - 1) as Level); // level > 1
    }
  }
  freePages(table, 0);
}

/** Address of the entry of `level` 1 for `gpa`, with the tables above it made; ENOMEM where one cannot be. */
function walkToLeaf(root: PhysAddr, gpa: number): VirtAddr | Errno {
  let table = va(root);
  for (const level of [4, 3, 2] as const) {
    const entry = addVirt(table, tableIndex(gpa, level) * ENTRY_BYTES);
    const low = cpu.load64(entry);
    if ((low & EPT_RWX) !== 0) {
      table = va(entryFrame(low, cpu.high));
      continue;
    }
    const next = getFreePages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, 0);
    if (next === 0) return ENOMEM;
    const frame = pa(next);
    if (cpu.compareExchange64(entry, 0, 0, entryLow(frame, EPT_RWX), entryHigh(frame, 0))) {
      table = next;
      continue;
    }
    // Another vCPU was first.
    freePages(next, 0);
    const winner = cpu.load64(entry);
    table = va(entryFrame(winner, cpu.high));
  }
  return addVirt(table, tableIndex(gpa, LEAF_LEVEL) * ENTRY_BYTES);
}

/** What a guest's access to unmapped guest-physical memory comes to. */
export const FAULT_MAPPED = 0;
/** No slot: an access to a device of the monitor. */
export const FAULT_NO_SLOT = 1;
/** A write to a read-only slot. */
export const FAULT_READONLY = 2;

/**
 * Maps the page of `gpa` (kernel: `kvm_tdp_mmu_page_fault()`). @returns FAULT_*; EFAULT: the monitor has nothing mapped there; ENOMEM.
 */
export function kvmTdpPageFault(kvm: Ptr<"kvm">, gpa: number, isWrite: boolean): number {
  const view = Kvm.at(kvm);
  for (;;) {
    const { mmuInvalidateSeq } = view;
    const gfn = gfnOf(guestPhysAddr(gpa));
    const slot = gfnToMemslot(view, gfn);
    if (slot === undefined) return FAULT_NO_SLOT;
    const isReadonly = (slot.flags & KVM_MEM_READONLY) !== 0;
    if (isReadonly && isWrite) return FAULT_READONLY;
    const frame = getUserPage(view.mm, hvaOf(slot, gfn), !isReadonly);
    if (isErr(frame)) return frame === ENOMEM ? ENOMEM : EFAULT;
    const leaf = walkToLeaf(view.rootHpa, guestPhysAddr(gpa));
    const isMapped = !isErr(leaf) && mapLeaf(view, leaf, frame, isReadonly, mmuInvalidateSeq);
    // Once mapped, it stays until the notifier takes it away: no reference is needed for that.
    putUserPage(frame);
    if (isErr(leaf)) return leaf;
    if (isMapped) return FAULT_MAPPED;
    cpu.pause();
  }
}

/** @returns false when user memory changed since `seq` was read: the frame may be another now (kernel: `is_page_fault_stale()`) */
function mapLeaf(view: Kvm, leaf: VirtAddr, frame: PhysAddr, isReadonly: boolean, seq: number): boolean {
  spinLock(view.mmuLock);
  const isFresh = view.mmuInvalidateInProgress === 0 && view.mmuInvalidateSeq === seq;
  if (isFresh) {
    const access = isReadonly ? EPT_READ | EPT_EXECUTE : EPT_RWX;
    cpu.store64(leaf, entryLow(frame, access | EPT_MEMORY_TYPE_WB), entryHigh(frame, 0));
    // Ground truth: what was the monitor's page is the guest's from now on. What it may only read, it puts nothing into.
    if (!isReadonly) setPageOwner(physToPage(frame), owner(OWNER_GUEST, view.label, true));
  }
  spinUnlock(view.mmuLock);
  return isFresh;
}

/** User address that backs a guest frame of the slot. */
export function hvaOf(slot: KvmMemorySlot, gfn: number): VirtAddr {
  return virtAddr(slot.userspaceAddr + (gfn - slot.baseGfn) * PAGE_SIZE);
}

/** Takes the leaf of one guest frame away. @returns true when there was one. */
function zapLeaf(root: PhysAddr, gpa: number): boolean {
  let table = va(root);
  for (const level of [4, 3, 2] as const) {
    const low = cpu.load64(addVirt(table, tableIndex(gpa, level) * ENTRY_BYTES));
    if ((low & EPT_RWX) === 0) return false;
    table = va(entryFrame(low, cpu.high));
  }
  const entry = addVirt(table, tableIndex(gpa, LEAF_LEVEL) * ENTRY_BYTES);
  if ((cpu.load(entry, 1) & EPT_RWX) === 0) return false;
  cpu.store64(entry, 0, 0);
  return true;
}

/** Unmaps guest frames [gfn, gfn + npages) (kernel: `kvm_tdp_mmu_zap_leafs()`). @returns true when a flush is owed. */
export function kvmZapGfnRange(kvm: Ptr<"kvm">, gfn: number, npages: number): boolean {
  const root = Kvm.at(kvm).rootHpa;
  let isFlushOwed = false;
  for (let i = 0; i < npages; i++) if (zapLeaf(root, (gfn + i) * PAGE_SIZE)) isFlushOwed = true;
  return isFlushOwed;
}
