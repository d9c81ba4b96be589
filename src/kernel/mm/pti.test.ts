import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, cpu, cr3, cr3Root, NULL, type PhysAddr, PTE_NX_HIGH, PTE_PRESENT, type VirtAddr } from "../../hardware/index.ts";
import { kernelPagesAreGlobal, kernPcid, userPcid } from "./cr3.ts";
import { va } from "./layout.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { initMm, Mm, type MmPtr } from "./mm-struct.ts";
import { doMmap, doMunmap } from "./mmap.ts";
import { allocPages, nrFreePages } from "./page-alloc.ts";
import { pageAddress } from "./page-struct.ts";
import { entryAt, isPresent, lookupAddress } from "./page-table.ts";
import { perCpuBase } from "./percpu.ts";
import { ptiMapKernelRange, userPgdOf } from "./pti.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import { flushTlbMm } from "./tlb.ts";
import { loadedMmAsid, userPcidFlushMask } from "./tlb-struct.ts";
import { handleMmFault } from "./user-memory.ts";

const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;

function mapPage(mm: MmPtr): void {
  assert.equal(doMmap(mm, BASE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), BASE);
  assert.equal(handleMmFault(mm, BASE, "write"), 0);
}

function rootEntry(pgd: PhysAddr, address: VirtAddr): readonly [low: number, high: number] {
  const low = cpu.load64(entryAt(va(pgd), address, 4));
  return [low, cpu.high];
}

test("a root is a pair of pages, so that one bit of CR3 leads from one to the other; the boot CPU's too", () => {
  withMm(
    () => {
      const mm = mmAlloc();
      for (const { pgd } of [Mm.at(mm), Mm.at(initMm)]) assert.equal(pgd % 8192, 0);
      assert.equal(cr3Root(cpu.readCr3()), Mm.at(initMm).pgd);
      assert.equal(userPcid(0), 0x801);
      assert.equal(userPcid(5), kernPcid(5) | 0x800);
    },
    { pti: true },
  );
});

test("user memory is in both; the kernel's root lets nobody execute it (__pti_set_user_pgtbl)", () => {
  withMm(
    () => {
      const mm = mmAlloc();
      mapPage(mm);
      const { pgd } = Mm.at(mm);
      const [low, high] = rootEntry(pgd, BASE);
      const [userLow, userHigh] = rootEntry(userPgdOf(pgd), BASE);
      assert.equal(low, userLow);
      assert.equal((high & PTE_NX_HIGH) !== 0, true);
      assert.equal((userHigh & PTE_NX_HIGH) !== 0, false);
    },
    { pti: true },
  );
});

test("the user tables have of the kernel only what was given to them, not global", () => {
  withMm(
    () => {
      assert.equal(kernelPagesAreGlobal(), false);
      const area = perCpuBase(0);
      ptiMapKernelRange(area, PAGE);
      const mm = mmAlloc();
      const { pgd } = Mm.at(mm);
      const kernel = lookupAddress(pgd, area);
      const user = lookupAddress(userPgdOf(pgd), area);
      assert.equal(isPresent(user), true);
      assert.equal(user.level, 1);
      assert.equal(isPresent(kernel), true);
      const secret = pageAddress(allocPages(0, 0));
      for (const address of [secret, addVirt(area, PAGE), mm]) {
        assert.equal(isPresent(lookupAddress(pgd, address)), true);
        assert.equal(isPresent(lookupAddress(userPgdOf(pgd), address)), false);
      }
      // With the user tables loaded, what they have works and what they do not have faults.
      switchMmIrqsOff(NULL, mm, NULL);
      const before = cpu.readCr3();
      cpu.writeCr3(cr3(userPgdOf(pgd), userPcid(loadedMmAsid.get())), false);
      cpu.load(area, 4);
      assert.throws(() => cpu.load(secret, 4), "no IDT");
      cpu.writeCr3(before, true);
      // Late additions are in every mm: the tables below the root are shared.
      ptiMapKernelRange(addVirt(area, PAGE), PAGE);
      assert.equal(isPresent(lookupAddress(userPgdOf(pgd), addVirt(area, PAGE))), true);
    },
    { pti: true },
  );
});

test("memory that is unmapped is gone from the user tables and from their PCID, which is flushed on the way to user mode (S8)", () => {
  withMm(
    () => {
      const mm = mmAlloc();
      mapPage(mm);
      switchMmIrqsOff(NULL, mm, NULL);
      const { pgd } = Mm.at(mm);
      const kernelCr3 = cpu.readCr3();
      const userCr3 = cr3(userPgdOf(pgd), userPcid(loadedMmAsid.get()));
      cpu.writeCr3(userCr3, true);
      assert.equal(cpu.load(BASE, 1), 0);
      cpu.writeCr3(kernelCr3, true);
      assert.equal(doMunmap(mm, BASE, PAGE), 0);
      assert.equal(rootEntry(userPgdOf(pgd), BASE)[0] & PTE_PRESENT, 0);
      cpu.writeCr3(userCr3, true);
      assert.throws(() => cpu.load(BASE, 1), "no IDT");
      cpu.writeCr3(kernelCr3, true);
      userPcidFlushMask.set(0);
      flushTlbMm(mm);
      assert.equal(userPcidFlushMask.get(), 1 << kernPcid(loadedMmAsid.get()));
    },
    { pti: true },
  );
});

test("both roots of an mm are freed with it (S9)", () => {
  withMm(
    () => {
      const warm = mmAlloc();
      mapPage(warm);
      mmput(warm);
      const before = nrFreePages();
      const mm = mmAlloc();
      mapPage(mm);
      assert.ok(nrFreePages() <= before - 2 - 4);
      mmput(mm);
      assert.equal(nrFreePages(), before);
    },
    { pti: true },
  );
});
