import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import {
  addVirt,
  cpu,
  NULL,
  OWNER_USER,
  type Owner,
  owner,
  type PhysAddr,
  SHARED_BY_PROCESSES,
  type VirtAddr,
} from "../../hardware/index.ts";
import { dupMm } from "./dup-mm.ts";
import { FAIL_NEVER, failAlloc } from "./fail-alloc.ts";
import { va } from "./layout.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { doMmap } from "./mmap.ts";
import { asiAsyncFreeWork, nrFreePages } from "./page-alloc.ts";
import { Page, physToPage } from "./page-struct.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import { getUserPage, handleMmFault, putUserPage } from "./user-memory.ts";

const RW = PROT_READ | PROT_WRITE;
const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;

function mapAt(mm: MmPtr, address: number, pages: number): void {
  assert.equal(doMmap(mm, address as VirtAddr, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), address);
}

function frameOf(mm: MmPtr, address: number, isWrite: boolean): PhysAddr {
  const frame = getUserPage(mm, address as VirtAddr, isWrite);
  assert.ok(!isErr(frame));
  putUserPage(frame);
  return frame;
}

function fork(mm: MmPtr): MmPtr {
  const child = dupMm(mm);
  assert.ok(!isErr(child));
  return child;
}

function labelOf(frame: PhysAddr): Owner {
  return Page.at(physToPage(frame)).owner as Owner;
}

test("after a fork both read one page; the first to write gets a copy, the other keeps it and then writes in place", () => {
  withMm(() => {
    const parent = mmAlloc();
    mapAt(parent, BASE, 1);
    const before = frameOf(parent, BASE, true);
    cpu.storeWord(va(before), 41);
    const child = fork(parent);
    assert.equal(frameOf(child, BASE, false), before);
    assert.equal(frameOf(parent, BASE, false), before);
    assert.equal(labelOf(before), owner(OWNER_USER, SHARED_BY_PROCESSES, true));
    const copy = frameOf(child, BASE, true);
    assert.notEqual(copy, before);
    assert.equal(cpu.loadWord(va(copy)), 41);
    assert.equal(labelOf(copy), owner(OWNER_USER, Mm.at(child).number, true));
    assert.equal(frameOf(parent, BASE, true), before, "the last one reuses it");
    assert.equal(labelOf(before), owner(OWNER_USER, Mm.at(parent).number, true));
  });
});

test("the parent's TLB loses the right to write before the fork returns (S8)", () => {
  withMm(() => {
    const parent = mmAlloc();
    mapAt(parent, BASE, 2);
    for (const address of [BASE, addVirt(BASE, PAGE)]) assert.equal(handleMmFault(parent, address, "write"), 0);
    switchMmIrqsOff(NULL, parent, NULL);
    cpu.storeWord(BASE, 1); // the translation, with its right to write, is in the TLB
    const child = fork(parent);
    assert.throws(() => cpu.storeWord(BASE, 2), "the write faults, and there is no IDT");
    assert.equal(cpu.loadWord(va(frameOf(child, BASE, false))), 1);
  });
});

test("after parent and child have ended everything is free again, whoever ends first (S9)", () => {
  for (const isChildFirst of [true, false]) {
    withMm(() => {
      const warm = mmAlloc();
      mapAt(warm, BASE, 1);
      mmput(fork(warm));
      mmput(warm);
      const before = nrFreePages();
      const parent = mmAlloc();
      mapAt(parent, BASE, 4);
      mapAt(parent, 0x7000_0000_0000, 2);
      for (let i = 0; i < 3; i++) frameOf(parent, BASE + i * PAGE, true);
      frameOf(parent, BASE + 3 * PAGE, false);
      frameOf(parent, 0x7000_0000_0000, true);
      const child = fork(parent);
      frameOf(child, BASE, true);
      frameOf(parent, BASE + PAGE, true);
      for (const mm of isChildFirst ? [child, parent] : [parent, child]) mmput(mm);
      assert.equal(nrFreePages(), before);
    });
  }
});

for (const asi of [false, true]) {
  test(`a fork whose nth allocation fails leaves nothing behind, and the parent as it was (S9); ASI ${asi ? "on" : "off"}`, () => {
    withMm(
      () => {
        const parent = mmAlloc();
        mapAt(parent, BASE, 2);
        mapAt(parent, 0x7000_0000_0000, 2);
        for (const address of [BASE, BASE + PAGE, 0x7000_0000_0000]) cpu.storeWord(va(frameOf(parent, address, true)), address);
        mmput(fork(parent)); // slabs and tables that stay exist
        asiAsyncFreeWork();
        const before = nrFreePages();
        failAlloc.arm(FAIL_NEVER);
        mmput(fork(parent));
        const attempts = failAlloc.attempts();
        failAlloc.disarm();
        asiAsyncFreeWork();
        assert.equal(nrFreePages(), before);
        assert.ok(attempts >= 10, `${attempts}`);
        for (let nth = 1; nth <= attempts; nth++) {
          failAlloc.arm(nth);
          const child = dupMm(parent);
          failAlloc.disarm();
          if (!isErr(child)) mmput(child); // what failed was not needed
          asiAsyncFreeWork();
          assert.equal(nrFreePages(), before, `allocation ${nth} of ${attempts}`);
        }
        for (const address of [BASE, BASE + PAGE, 0x7000_0000_0000]) {
          assert.equal(cpu.loadWord(va(frameOf(parent, address, true))), address);
        }
      },
      { asi },
    );
  });
}
