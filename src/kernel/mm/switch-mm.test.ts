import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import {
  cpu,
  cr3,
  cr3Pcid,
  cr3Root,
  NULL,
  type PhysAddr,
  PTE_PRESENT,
  PTE_USER,
  PTE_WRITE,
  pcid,
  type VirtAddr,
} from "../../hardware/index.ts";
import { currAsi } from "../asi/asi-state.ts";
import { ASI_CLASS_KVM, ASI_CLASS_USERSPACE, Asi } from "../asi/asi-struct.ts";
import { asiPcid, buildCr3, getCurrentCr3Fast, kernPcid } from "./cr3.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { allocKernelTable, freeTable } from "./kernel-map.ts";
import { mmAlloc } from "./mm.ts";
import { initMm, Mm, type MmPtr } from "./mm-struct.ts";
import { allocPages } from "./page-alloc.ts";
import { pageAddress, pageToPhys } from "./page-struct.ts";
import { clearEntry, entryAlloc, lookupAddress, PAGE_TABLE, setLeaf } from "./page-table.ts";
import { enterLazyTlb, switchMmIrqsOff } from "./switch-mm.ts";
import { flushTlbKernelRange, flushTlbMmRange, tlbContext } from "./tlb.ts";
import { invalidateOther, loadedMm, loadedMmAsid } from "./tlb-struct.ts";

const USER = 0x10000000 as VirtAddr;

/** Maps USER to a fresh frame that holds `value`; returns the entry. */
function mapUser(mm: MmPtr, value: number): VirtAddr {
  const page = allocPages(GFP_KERNEL, 0);
  cpu.storeWord(pageAddress(page), value);
  const entry = entryAlloc(Mm.at(mm).pgd, USER, 1, PAGE_TABLE, allocKernelTable, freeTable);
  assert.ok(entry !== 0);
  setLeaf(entry, pageToPhys(page), PTE_PRESENT | PTE_USER | PTE_WRITE, true);
  return entry;
}

function load(mm: MmPtr): void {
  switchMmIrqsOff(NULL, mm, NULL);
}

test("PCIDs: ASID + 1 below, ASI class + 1 in bits 9 and 10; KVM is 0x200, USERSPACE 0x400 (spec 2.8)", () => {
  withMm(() => {
    assert.equal(kernPcid(0), 1);
    assert.equal(kernPcid(5), 6);
    assert.equal(asiPcid(0, ASI_CLASS_KVM), 0x201);
    assert.equal(asiPcid(5, ASI_CLASS_USERSPACE), 0x406);
    assert.equal(buildCr3(0x5000 as PhysAddr, 2), 0x5003);
  });
});

test("after a switch CR3 holds the mm's root under its ASID, and __get_current_cr3_fast() says the same (patch 7)", () => {
  withMm(() => {
    const mm = mmAlloc();
    load(mm);
    const cr3 = cpu.readCr3();
    assert.equal(cr3Root(cr3), Mm.at(mm).pgd);
    assert.equal(cr3Pcid(cr3), kernPcid(loadedMmAsid.get()));
    assert.equal(getCurrentCr3Fast(), cr3);
    assert.equal(loadedMm.get(), mm);
    assert.equal(Mm.at(mm).cpumask, 1);
    load(initMm);
    assert.equal(Mm.at(mm).cpumask, 0);
  });
});

test("while restricted, __get_current_cr3_fast() gives the domain's root and PCID (patch 7)", () => {
  withMm(
    () => {
      const mm = mmAlloc();
      load(mm);
      const asid = loadedMmAsid.get();
      const domain = Mm.at(mm).asi.address(ASI_CLASS_KVM) as Parameters<typeof Asi.at>[0];
      Asi.at(domain).classId = ASI_CLASS_KVM;
      const before = cpu.readCr3();
      // Tables that work: the mm's own, as if they were the domain's.
      Asi.at(domain).pgd = Mm.at(mm).pgd;
      const expected = cr3(Mm.at(mm).pgd, pcid(0x200 | (asid + 1)));
      currAsi.set(domain);
      // Computed, and compared with the hardware's: they must agree.
      assert.throws(() => getCurrentCr3Fast(), /curr_asi and the loaded mm make it/);
      cpu.writeCr3(expected, false);
      assert.equal(getCurrentCr3Fast(), expected);
      cpu.writeCr3(before, false);
      currAsi.set(NULL);
    },
    { asi: true },
  );
});

test("an mm keeps its ASID and its translations over six switches, and loses the ASID to the seventh mm", () => {
  withMm(() => {
    const mms = Array.from({ length: 7 }, () => mmAlloc());
    const [first] = mms;
    assert.ok(first !== undefined);
    load(first);
    const asid = loadedMmAsid.get();
    for (const mm of mms.slice(1, 6)) load(mm);
    load(first);
    assert.equal(loadedMmAsid.get(), asid);
    load(mms[6] ?? NULL);
    load(mms[5] ?? NULL);
    assert.equal(tlbContext(asid).ctxId === Mm.at(first).context.ctxId, false);
  });
});

test("a flush of an mm that is not loaded here is caught up when it is loaded again (tlb_gen)", () => {
  withMm(() => {
    const mm = mmAlloc();
    const entry = mapUser(mm, 11);
    load(mm);
    assert.equal(cpu.loadWord(USER), 11);
    load(initMm);
    clearEntry(entry);
    mapUser(mm, 22);
    load(mm);
    assert.equal(cpu.loadWord(USER), 11, "the machine keeps stale translations: NOFLUSH");
    load(initMm);
    flushTlbMmRange(mm, USER, USER + 4096);
    load(mm);
    assert.equal(cpu.loadWord(USER), 22);
  });
});

test("a flush of the loaded mm takes effect at once (S8)", () => {
  withMm(() => {
    const mm = mmAlloc();
    mapUser(mm, 1);
    load(mm);
    assert.equal(cpu.loadWord(USER), 1);
    mapUser(mm, 2);
    flushTlbMmRange(mm, USER, USER + 4096);
    assert.equal(cpu.loadWord(USER), 2);
  });
});

test("a lazy CPU leaves the tables it borrowed when they are flushed", () => {
  withMm(() => {
    const mm = mmAlloc();
    load(mm);
    enterLazyTlb();
    flushTlbMmRange(mm, USER, USER + 4096);
    assert.equal(loadedMm.get(), initMm);
    assert.equal(cr3Root(cpu.readCr3()), Mm.at(initMm).pgd);
  });
});

test("with ASI on, a kernel page that is flushed in one address space is stale in no other (spec 2.9, rule 3)", () => {
  withMm(
    () => {
      const mms = [mmAlloc(), mmAlloc()] as const;
      const old = allocPages(GFP_KERNEL, 0);
      const next = allocPages(GFP_KERNEL, 0);
      cpu.storeWord(pageAddress(old), 1);
      cpu.storeWord(pageAddress(next), 2);
      const address = -0x3700_0000_0000 as VirtAddr; // the first vmalloc page: its tables are shared by every mm
      const entry = entryAlloc(Mm.at(initMm).pgd, address, 1, PAGE_TABLE, allocKernelTable, freeTable);
      assert.ok(entry !== 0);
      setLeaf(entry, pageToPhys(old), PTE_PRESENT | PTE_WRITE, true);
      for (const mm of mms) {
        load(mm);
        assert.equal(cpu.loadWord(address), 1);
      }
      setLeaf(entry, pageToPhys(next), PTE_PRESENT | PTE_WRITE, true);
      flushTlbKernelRange(address, (address + 4096) as VirtAddr);
      assert.equal(invalidateOther.get(), 1);
      assert.equal(cpu.loadWord(address), 2, "here");
      load(mms[0]);
      assert.equal(cpu.loadWord(address), 2, "in the other mm, whose ASID was still held");
    },
    { asi: true },
  );
});

test("kernel pages are global exactly when ASI is off (spec 2.9, rule 1)", () => {
  const isGlobal = (asi: boolean): boolean =>
    withMm(() => (lookupAddress(Mm.at(initMm).pgd, pageAddress(allocPages(GFP_KERNEL, 0))).low & 0x100) !== 0, { asi });
  assert.equal(isGlobal(false), true);
  assert.equal(isGlobal(true), false);
});
