import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import {
  EFAULT,
  EINVAL,
  ENOMEM,
  isErr,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  PROT_EXEC,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from "../../abi/index.ts";
import { addVirt, cpu, NULL, PTE_PRESENT, type VirtAddr } from "../../hardware/index.ts";
import { dupMm } from "./dup-mm.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr, VmArea } from "./mm-struct.ts";
import { doMmap } from "./mmap.ts";
import { doMprotect } from "./mprotect.ts";
import { nrFreePages } from "./page-alloc.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import { getUserPage, handleMmFault, putUserPage } from "./user-memory.ts";
import { pteFrame, userPte } from "./user-pte.ts";

const RW = PROT_READ | PROT_WRITE;
const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;

function page(i: number): VirtAddr {
  return addVirt(BASE, i * PAGE);
}

function withPages(pages: number, body: (mm: MmPtr) => void): void {
  withMm(() => {
    const mm = mmAlloc();
    assert.equal(doMmap(mm, BASE, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), BASE);
    for (let i = 0; i < pages; i++) assert.equal(handleMmFault(mm, page(i), "write"), 0);
    switchMmIrqsOff(NULL, mm, NULL);
    body(mm);
  });
}

/** The areas as "first..end:rights". */
function areas(mm: MmPtr): string {
  const parts: string[] = [];
  for (let vma = Mm.at(mm).mmap; vma !== NULL; vma = VmArea.at(vma).next) {
    const { start, end, flags } = VmArea.at(vma);
    const rights = ["r", "w", "x"].map((name, i) => ((flags & (1 << i)) !== 0 ? name : "-")).join("");
    parts.push(`${(start - BASE) / PAGE}..${(end - BASE) / PAGE}:${rights}`);
  }
  return parts.join(" ");
}

test("mprotect cuts areas at its ends and joins what became the same", () => {
  withPages(6, (mm) => {
    assert.equal(doMprotect(mm, page(2), 2 * PAGE, PROT_READ), 0);
    assert.equal(areas(mm), "0..2:rw- 2..4:r-- 4..6:rw-");
    assert.equal(doMprotect(mm, page(1), 2 * PAGE, PROT_READ | PROT_EXEC), 0);
    assert.equal(areas(mm), "0..1:rw- 1..3:r-x 3..4:r-- 4..6:rw-");
    assert.equal(doMprotect(mm, page(0), 6 * PAGE, RW), 0);
    assert.equal(areas(mm), "0..6:rw-");
  });
});

test("a right that was taken away is gone from the TLB when mprotect returns (S8)", () => {
  withPages(2, (mm) => {
    cpu.storeWord(BASE, 7);
    assert.equal(doMprotect(mm, BASE, PAGE, PROT_READ), 0);
    assert.equal(cpu.loadWord(BASE), 7);
    assert.throws(() => cpu.storeWord(BASE, 8), "no IDT");
    assert.equal(handleMmFault(mm, BASE, "write"), EFAULT);
    cpu.storeWord(page(1), 9);
    assert.equal(doMprotect(mm, BASE, PAGE, RW), 0);
    cpu.storeWord(BASE, 8);
    assert.equal(cpu.loadWord(BASE), 8);
  });
});

test("memory without any access keeps its contents, is not present, and its entry names no frame that L1TF could read", () => {
  withPages(1, (mm) => {
    cpu.storeWord(BASE, 1234);
    const before = getUserPage(mm, BASE, false);
    assert.ok(!isErr(before));
    putUserPage(before);
    const entry = userPte(mm, BASE);
    assert.equal(doMprotect(mm, BASE, PAGE, PROT_NONE), 0);
    const low = cpu.load64(entry);
    const { high } = cpu;
    assert.equal(low & PTE_PRESENT, 0);
    assert.equal(pteFrame(low, high), before);
    assert.equal((high & 0xfffff) >>> 0, 0xfffff, "the frame is inverted: above all memory (arch/x86/include/asm/pgtable-invert.h)");
    assert.throws(() => cpu.loadWord(BASE), "no IDT");
    assert.equal(handleMmFault(mm, BASE, "read"), EFAULT);
    assert.equal(getUserPage(mm, BASE, false), EFAULT);
    assert.equal(doMprotect(mm, BASE, PAGE, PROT_READ), 0);
    assert.equal(cpu.loadWord(BASE), 1234);
  });
});

test("memory without access is freed with its mm (S9)", () => {
  withMm(() => {
    const warm = mmAlloc(); // the slabs of each size exist
    doMmap(warm, BASE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
    mmput(warm);
    const before = nrFreePages();
    const mm = mmAlloc();
    doMmap(mm, BASE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
    assert.equal(handleMmFault(mm, BASE, "write"), 0);
    assert.equal(doMprotect(mm, BASE, PAGE, PROT_NONE), 0);
    const child = dupMm(mm);
    assert.ok(!isErr(child));
    mmput(mm);
    mmput(child);
    assert.equal(nrFreePages(), before);
  });
});

test("a right to write that comes back does not undo a fork's sharing", () => {
  withPages(1, (mm) => {
    cpu.storeWord(BASE, 5);
    const child = dupMm(mm);
    assert.ok(!isErr(child));
    assert.equal(doMprotect(mm, BASE, PAGE, PROT_READ), 0);
    assert.equal(doMprotect(mm, BASE, PAGE, RW), 0);
    assert.throws(() => cpu.storeWord(BASE, 6), "still shared: the write faults, and there is no IDT");
    assert.equal(handleMmFault(mm, BASE, "write"), 0);
    cpu.storeWord(BASE, 6);
    switchMmIrqsOff(NULL, child, NULL);
    assert.equal(cpu.loadWord(BASE), 5);
  });
});

test("mprotect refuses what is unaligned, unknown, or not all mapped; what was done before a gap stays", () => {
  withPages(2, (mm) => {
    assert.equal(doMprotect(mm, addVirt(BASE, 8), PAGE, PROT_READ), EINVAL);
    assert.equal(doMprotect(mm, BASE, PAGE, 0x100), EINVAL);
    assert.equal(doMprotect(mm, BASE, 0, PROT_READ), 0);
    assert.equal(doMprotect(mm, page(-1), PAGE, PROT_READ), ENOMEM);
    assert.equal(doMprotect(mm, page(1), 2 * PAGE, PROT_READ), ENOMEM);
    assert.equal(areas(mm), "0..1:rw- 1..2:r--");
  });
});
