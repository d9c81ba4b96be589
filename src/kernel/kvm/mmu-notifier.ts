// User memory changes: no guest may reach what goes away before its frames are given back (kernel: the MMU notifiers of KVM). From the
// start to the end of a change no new mapping of the range is made, and one that was being made when it began is made again.
import { addVirt, cpu, PAGE_SIZE, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { KVM_USER_MEM_SLOTS, Kvm, KvmGlobals, kvmGlobals } from "./kvm-struct.ts";
import { kvmZapGfnRange } from "./mmu.ts";
import { kvmFlushRemoteTlbs } from "./requests.ts";
import { forEachVmOf } from "./vm.ts";

/**
 * `[start, end)` of `mm` is about to change: what it backs is unmapped in every VM (kernel: `kvm_mmu_notifier_invalidate_range_start()`).
 * Process context, interrupts on, under the mm's lock.
 */
export function kvmMmuNotifierInvalidateStart(mm: MmPtr, start: VirtAddr, end: VirtAddr): void {
  if (KvmGlobals.at(kvmGlobals).vmList === 0) return;
  forEachVmOf(mm, (kvm) => {
    const { mmuLock } = Kvm.at(kvm);
    spinLock(mmuLock);
    cpu.rmw("add", addVirt(kvm, Kvm.offset.mmuInvalidateInProgress), 4, 1);
    const isFlushOwed = unmapHvaRange(kvm, start, end);
    spinUnlock(mmuLock);
    if (isFlushOwed) kvmFlushRemoteTlbs(kvm);
  });
}

/** The change is over (kernel: `kvm_mmu_notifier_invalidate_range_end()`). */
export function kvmMmuNotifierInvalidateEnd(mm: MmPtr): void {
  if (KvmGlobals.at(kvmGlobals).vmList === 0) return;
  forEachVmOf(mm, (kvm) => {
    const view = Kvm.at(kvm);
    spinLock(view.mmuLock);
    // Made between start and end, the VM has seen no start.
    if (view.mmuInvalidateInProgress > 0) {
      view.mmuInvalidateSeq = (view.mmuInvalidateSeq + 1) >>> 0;
      view.mmuInvalidateInProgress -= 1;
    }
    spinUnlock(view.mmuLock);
  });
}

/** Kernel: `kvm_unmap_gfn_range()` for each slot that the range meets. @returns true when a flush is owed */
function unmapHvaRange(kvm: Ptr<"kvm">, start: number, end: number): boolean {
  const { memslots } = Kvm.at(kvm);
  let isFlushOwed = false;
  for (let i = 0; i < KVM_USER_MEM_SLOTS; i++) {
    const slot = memslots.get(i);
    const { npages } = slot;
    if (npages === 0) continue;
    const from = slot.userspaceAddr;
    const first = Math.max(0, Math.floor((start - from) / PAGE_SIZE));
    const last = Math.min(npages, Math.ceil((end - from) / PAGE_SIZE));
    if (first < last && kvmZapGfnRange(kvm, slot.baseGfn + first, last - first)) isFlushOwed = true;
  }
  return isFlushOwed;
}
