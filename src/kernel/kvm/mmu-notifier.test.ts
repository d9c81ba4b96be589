// Guest memory and the process memory behind it: what the process changes, no guest reaches any more; what changes while a page is being
// mapped is looked at again (kernel: mmu_invalidate_seq, mmu_invalidate_retry()).
import { deepEqual, equal, notEqual, ok } from "node:assert/strict";
import { test } from "node:test";
import { isErr, KVM_MEM_READONLY, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import {
  addVirt,
  cpu,
  EPT_READ,
  EPT_WRITE,
  entryFrame,
  NULL,
  OWNER_GUEST,
  type Owner,
  ownerKind,
  PAGE_SIZE,
  type PhysAddr,
  type Ptr,
  tableIndex,
  type VirtAddr,
  virtAddr,
} from "../../hardware/index.ts";
import { runInKernel } from "../../residue/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { dupMm } from "../mm/dup-mm.ts";
import { va } from "../mm/layout.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { doMmap, doMunmap } from "../mm/mmap.ts";
import { doMprotect } from "../mm/mprotect.ts";
import { Page, physToPage } from "../mm/page-struct.ts";
import { getUserPage, handleMmFault, putUserPage } from "../mm/user-memory.ts";
import { Kvm } from "./kvm-struct.ts";
import { FAULT_MAPPED, kvmTdpPageFault } from "./mmu.ts";
import { kvmMmuNotifierInvalidateEnd, kvmMmuNotifierInvalidateStart } from "./mmu-notifier.ts";
import { kvmCreateVm, kvmPutKvm } from "./vm.ts";

const HVA = 0x7000_0000 as VirtAddr;
const PAGES = 4;

/** A process with a VM whose guest-physical memory from 0 on is its memory at HVA. */
function withVm(body: (mm: MmPtr, kvm: Ptr<"kvm">) => void, flags = 0): void {
  const image = buildKernelImage({ preset: "cordon", processes: [], puppets: new Map() });
  runInKernel(
    image,
    () => {
      const mm = mmAlloc();
      equal(doMmap(mm, HVA, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), HVA);
      const kvm = kvmCreateVm(mm);
      ok(!isErr(kvm));
      const slot = Kvm.at(kvm).memslots.get(0);
      slot.userspaceAddr = HVA;
      slot.flags = flags;
      slot.npages = PAGES;
      body(mm, kvm);
      kvmPutKvm(kvm);
      mmput(mm);
    },
    { commandLine: "asi=on", memoryBytes: 64 * 2 ** 20 },
  );
}

/** What the guest reaches at a page: a frame and rights, or undefined. */
function guestSees(kvm: Ptr<"kvm">, page: number): { readonly frame: PhysAddr; readonly rights: number } | undefined {
  let table = va(Kvm.at(kvm).rootHpa);
  for (const level of [4, 3, 2, 1] as const) {
    const low = cpu.load64(addVirt(table, tableIndex(page * PAGE_SIZE, level) * 8));
    const frame = entryFrame(low, cpu.high);
    if ((low & 7) === 0) return undefined;
    if (level === 1) return { frame, rights: low & (EPT_READ | EPT_WRITE) };
    table = va(frame);
  }
  return undefined;
}

function hva(page: number): VirtAddr {
  return virtAddr(HVA + page * PAGE_SIZE);
}

function processSees(mm: MmPtr, page: number, isWrite: boolean): PhysAddr {
  const frame = getUserPage(mm, hva(page), isWrite);
  ok(!isErr(frame));
  putUserPage(frame);
  return frame;
}

test("a page that a guest touches is the process's own, held by its mapping alone, and labelled the guest's", () => {
  withVm((mm, kvm) => {
    equal(processSees(mm, 1, false) !== 0, true); // the shared zero page until now
    equal(kvmTdpPageFault(kvm, PAGE_SIZE, false), FAULT_MAPPED);
    const frame = processSees(mm, 1, true);
    deepEqual(guestSees(kvm, 1), { frame, rights: EPT_READ | EPT_WRITE });
    const { refcount, owner } = Page.at(physToPage(frame));
    equal(refcount, 1);
    equal(ownerKind(owner as Owner), OWNER_GUEST);
  });
});

test("a read-only slot is mapped read-only, and is the guest's in nothing: the zero page too", () => {
  withVm((mm, kvm) => {
    equal(kvmTdpPageFault(kvm, 0, false), FAULT_MAPPED);
    deepEqual(guestSees(kvm, 0), { frame: processSees(mm, 0, false), rights: EPT_READ });
    equal(handleMmFault(mm, hva(0), "write"), 0);
    equal(guestSees(kvm, 0), undefined, "the process wrote: its page is another now");
  }, KVM_MEM_READONLY);
});

test("munmap, mprotect, and a fork with its copies on write take away from the guest what they change", () => {
  withVm((mm, kvm) => {
    const touchAll = (): void => {
      for (let i = 0; i < PAGES; i++) equal(kvmTdpPageFault(kvm, i * PAGE_SIZE, true), FAULT_MAPPED);
    };
    touchAll();
    equal(doMprotect(mm, hva(1), PAGE_SIZE, PROT_READ), 0);
    deepEqual(
      [0, 1, 2].map((i) => guestSees(kvm, i) !== undefined),
      [true, false, true],
    );
    equal(doMprotect(mm, hva(1), PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
    touchAll();
    const before = guestSees(kvm, 0)?.frame;
    const child = dupMm(mm);
    ok(!isErr(child));
    deepEqual(
      [0, 1, 2, 3].map((i) => guestSees(kvm, i)),
      [undefined, undefined, undefined, undefined],
    );
    // The guest writes again: to a copy, while the child keeps what was.
    equal(kvmTdpPageFault(kvm, 0, true), FAULT_MAPPED);
    notEqual(guestSees(kvm, 0)?.frame, before);
    equal(processSees(child, 0, false), before);
    mmput(child);
    touchAll();
    equal(doMunmap(mm, hva(2), PAGE_SIZE), 0);
    deepEqual(
      [1, 2, 3].map((i) => guestSees(kvm, i) !== undefined),
      [true, false, true],
    );
  });
});

test("a page is not mapped while a change is under way, and is looked up again if one came in between", () => {
  withVm((mm, kvm) => {
    // Under way: the fault waits for its end.
    const pause = cpu.pause.bind(cpu);
    let pauses = 0;
    cpu.pause = () => {
      pauses++;
      if (pauses === 3) kvmMmuNotifierInvalidateEnd(mm);
      pause();
    };
    kvmMmuNotifierInvalidateStart(mm, HVA, hva(1));
    equal(kvmTdpPageFault(kvm, 0, true), FAULT_MAPPED);
    equal(pauses, 3);
    // In between: the page that was found is unmapped, and another comes, before the leaf is written.
    const exchange = cpu.compareExchange.bind(cpu);
    const found = processSees(mm, 1, true);
    pauses = 0;
    cpu.compareExchange = (address, width, expected, next) => {
      if (address === Kvm.at(kvm).mmuLock && pauses === 0) {
        cpu.compareExchange = exchange;
        equal(doMunmap(mm, hva(1), PAGE_SIZE), 0);
        equal(doMmap(mm, hva(1), PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), hva(1));
        equal(handleMmFault(mm, hva(1), "write"), 0);
      }
      return exchange(address, width, expected, next);
    };
    equal(kvmTdpPageFault(kvm, PAGE_SIZE, true), FAULT_MAPPED);
    cpu.compareExchange = exchange;
    cpu.pause = pause;
    equal(pauses, 1);
    equal(guestSees(kvm, 1)?.frame, processSees(mm, 1, true));
    notEqual(guestSees(kvm, 1)?.frame, found);
  });
});
