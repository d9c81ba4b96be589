// Guest-physical memory slots: which part of the monitor's memory stands at which guest-physical address. A request is checked whole
// before anything changes.
import { EEXIST, EINVAL, type Errno, KVM_MEM_READONLY, MEMORY_REGION } from "../../abi/index.ts";
import { addVirt, cpu, isPageAligned, PAGE_SIZE, type Ptr, type VirtAddr, virtAddr } from "../../hardware/index.ts";
import { accessOk } from "../mm/layout.ts";
import { mutexLock, mutexUnlock } from "../sched/mutex.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import { KVM_USER_MEM_SLOTS, Kvm, type KvmMemorySlot } from "./kvm-struct.ts";
import { kvmZapGfnRange } from "./mmu.ts";
import { kvmFlushRemoteTlbs } from "./requests.ts";

/** Guest-physical addresses that can be backed: what an EPT of four levels reaches. */
const MAX_GUEST_PHYSICAL = 2 ** 48;

interface Region {
  readonly slot: number;
  readonly flags: number;
  readonly gpa: number;
  readonly bytes: number;
  readonly hva: number;
}

/** Slot of a guest frame, or undefined. */
export function gfnToMemslot(kvm: Kvm, gfn: number): KvmMemorySlot | undefined {
  const { memslots } = kvm;
  for (let i = 0; i < memslots.length; i++) {
    const slot = memslots.get(i);
    const { npages } = slot;
    if (npages === 0) continue;
    const first = slot.baseGfn;
    if (gfn >= first && gfn < first + npages) return slot;
  }
  return undefined;
}

function readRegion(from: VirtAddr): Region {
  const at = (offset: number): VirtAddr => addVirt(from, offset);
  return {
    slot: cpu.load(at(MEMORY_REGION.slot), 4),
    flags: cpu.load(at(MEMORY_REGION.flags), 4),
    gpa: cpu.loadWord(at(MEMORY_REGION.guest_phys_addr)),
    bytes: cpu.loadWord(at(MEMORY_REGION.memory_size)),
    hva: cpu.loadWord(at(MEMORY_REGION.userspace_addr)),
  };
}

/** Kernel: the checks of `kvm_set_memory_region()`. Touches nothing. */
function checkRegion(kvm: Kvm, region: Region): 0 | Errno {
  if ((region.flags & ~KVM_MEM_READONLY) !== 0) return EINVAL;
  if (!isPageAligned(region.bytes) || !isPageAligned(region.gpa) || !isPageAligned(region.hva)) return EINVAL;
  if (region.slot >= KVM_USER_MEM_SLOTS) return EINVAL;
  if (region.bytes < 0 || region.gpa < 0 || region.gpa + region.bytes > MAX_GUEST_PHYSICAL) return EINVAL;
  if (!accessOk(region.hva, region.bytes)) return EINVAL;
  const old = kvm.memslots.get(region.slot);
  const npages = region.bytes / PAGE_SIZE;
  if (npages === 0) return old.npages === 0 ? EINVAL : 0;
  if (old.npages !== 0) {
    // A slot may be moved in guest-physical space; its size, its memory and its being read-only are for good.
    if (old.npages !== npages || old.userspaceAddr !== region.hva || old.flags !== region.flags) return EINVAL;
  }
  const first = region.gpa / PAGE_SIZE;
  for (let i = 0; i < KVM_USER_MEM_SLOTS; i++) {
    if (i === region.slot) continue;
    const other = kvm.memslots.get(i);
    const otherPages = other.npages;
    if (otherPages === 0) continue;
    const otherFirst = other.baseGfn;
    if (first < otherFirst + otherPages && otherFirst < first + npages) return EEXIST;
  }
  return 0;
}

/** Cannot fail. An old place of the slot is unmapped, and every vCPU's translations of it are gone, before the new one is there. */
function commitRegion(kvm: Ptr<"kvm">, view: Kvm, region: Region): void {
  const slot = view.memslots.get(region.slot);
  const { npages, baseGfn } = slot;
  slot.npages = 0;
  // A fault that found the slot before, and has not mapped its page yet, looks again.
  spinLock(view.mmuLock);
  view.mmuInvalidateSeq = (view.mmuInvalidateSeq + 1) >>> 0;
  const isFlushOwed = npages !== 0 && kvmZapGfnRange(kvm, baseGfn, npages);
  spinUnlock(view.mmuLock);
  if (isFlushOwed) kvmFlushRemoteTlbs(kvm);
  slot.baseGfn = region.gpa / PAGE_SIZE;
  slot.userspaceAddr = virtAddr(region.hva);
  slot.flags = region.flags;
  slot.npages = region.bytes / PAGE_SIZE;
}

/** KVM_SET_USER_MEMORY_REGION; `from`: struct kvm_userspace_memory_region in kernel memory. */
export function kvmSetMemoryRegion(kvm: Ptr<"kvm">, from: VirtAddr): 0 | Errno {
  const view = Kvm.at(kvm);
  const region = readRegion(from);
  const lock = addVirt(kvm, Kvm.offset.slotsLock);
  mutexLock(lock);
  const error = checkRegion(view, region);
  if (error === 0) commitRegion(kvm, view, region);
  mutexUnlock(lock);
  return error;
}
