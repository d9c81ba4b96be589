// User memory goes away: no guest may reach it any more before its frames are given back (kernel: the MMU notifiers of KVM).
import { NULL, PAGE_SIZE, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { KVM_USER_MEM_SLOTS, Kvm, KvmGlobals, kvmGlobals } from "./kvm-struct.ts";
import { kvmZapGfnRange } from "./mmu.ts";
import { kvmFlushRemoteTlbs } from "./requests.ts";
import { forEachVmOf } from "./vm.ts";

/** Unmaps what [start, end) of `mm` backs in every VM (kernel: `kvm_mmu_notifier_invalidate_range_start()`). Process context. */
export function kvmMmuNotifierInvalidateRange(mm: MmPtr, start: VirtAddr, end: VirtAddr): void {
  if (KvmGlobals.at(kvmGlobals).vmList === NULL) return;
  forEachVmOf(mm, (kvm) => unmapHvaRange(kvm, start, end));
}

/** Kernel: `kvm_unmap_gfn_range()` for each slot that the range meets. */
function unmapHvaRange(kvm: Ptr<"kvm">, start: number, end: number): void {
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
  if (isFlushOwed) kvmFlushRemoteTlbs(kvm);
}
