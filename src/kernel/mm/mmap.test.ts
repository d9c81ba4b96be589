import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { EFAULT, EINVAL, ENOMEM, isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import {
  addVirt,
  cpu,
  isSensitiveOwner,
  NULL,
  OWNER_USER,
  type Owner,
  ownerKind,
  ownerNumber,
  type VirtAddr,
} from "../../hardware/index.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { MMAP_BASE, va } from "./layout.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr, VmArea } from "./mm-struct.ts";
import { doMmap, doMunmap } from "./mmap.ts";
import { nrFreePages } from "./page-alloc.ts";
import { Page, physToPage } from "./page-struct.ts";
import { kmalloc } from "./slab.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import { copyFromUser, copyToUser } from "./uaccess.ts";
import { getUserPage, handleMmFault } from "./user-memory.ts";

const RW = PROT_READ | PROT_WRITE;
const ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS;
const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;

function map(mm: MmPtr, address: number, bytes: number, protection = RW): VirtAddr {
  const result = doMmap(mm, address as VirtAddr, bytes, protection, ANONYMOUS | (address === 0 ? 0 : MAP_FIXED), NULL, 0);
  assert.ok(!isErr(result), `${result}`);
  return result;
}

/** The areas as "first page..end page" from BASE. */
function areas(mm: MmPtr): string {
  const parts: string[] = [];
  for (let vma = Mm.at(mm).mmap; vma !== NULL; vma = VmArea.at(vma).next) {
    const { start, end, pageOffset } = VmArea.at(vma);
    parts.push(`${(start - BASE) / PAGE}..${(end - BASE) / PAGE}@${pageOffset}`);
  }
  return parts.join(" ");
}

test("memory without a wish is taken downwards from the mmap base, and a gap that fits is used again", () => {
  withMm(() => {
    const mm = mmAlloc();
    const first = map(mm, 0, 2 * PAGE);
    const second = map(mm, 0, PAGE);
    assert.equal(first, MMAP_BASE - 2 * PAGE);
    assert.equal(second, MMAP_BASE - 3 * PAGE);
    assert.equal(doMunmap(mm, first, 2 * PAGE), 0);
    assert.equal(map(mm, 0, 100), MMAP_BASE - PAGE);
    assert.equal(map(mm, 0, 2 * PAGE), second - 2 * PAGE);
  });
});

test("munmap cuts areas at its ends, in the middle, and over several", () => {
  withMm(() => {
    const mm = mmAlloc();
    map(mm, BASE, 10 * PAGE);
    assert.equal(doMunmap(mm, addVirt(BASE, 4 * PAGE), 2 * PAGE), 0);
    assert.equal(areas(mm), "0..4@0 6..10@6");
    assert.equal(doMunmap(mm, addVirt(BASE, 3 * PAGE), 4 * PAGE), 0);
    assert.equal(areas(mm), "0..3@0 7..10@7");
    assert.equal(doMunmap(mm, BASE, PAGE), 0);
    assert.equal(areas(mm), "1..3@1 7..10@7");
    map(mm, BASE + 2 * PAGE, 6 * PAGE);
    assert.equal(areas(mm), "1..2@1 2..8@0 8..10@8", "MAP_FIXED replaces what was there");
    assert.equal(doMunmap(mm, BASE, 64 * PAGE), 0);
    assert.equal(areas(mm), "");
  });
});

test("bad ranges are refused: unaligned, empty, in the kernel half, below mmap_min_addr", () => {
  withMm(() => {
    const mm = mmAlloc();
    const tryMap = (address: number, bytes: number): number => doMmap(mm, address as VirtAddr, bytes, RW, ANONYMOUS | MAP_FIXED, NULL, 0);
    assert.equal(tryMap(BASE + 1, PAGE), EINVAL);
    assert.equal(tryMap(BASE, 0), EINVAL);
    assert.equal(tryMap(-PAGE, PAGE), ENOMEM);
    assert.equal(tryMap(2 ** 47 - PAGE, PAGE), ENOMEM);
    assert.equal(tryMap(PAGE, PAGE), EINVAL);
    assert.equal(doMunmap(mm, addVirt(BASE, 8), PAGE), EINVAL);
    assert.equal(areas(mm), "");
  });
});

test("a fault is served where an area allows the access, and refused elsewhere", () => {
  withMm(() => {
    const mm = mmAlloc();
    map(mm, BASE, PAGE, PROT_READ);
    map(mm, BASE + PAGE, PAGE, PROT_READ | PROT_EXEC);
    assert.equal(handleMmFault(mm, BASE, "write"), EFAULT);
    assert.equal(handleMmFault(mm, BASE, "execute"), EFAULT);
    assert.equal(handleMmFault(mm, BASE, "read"), 0);
    assert.equal(handleMmFault(mm, addVirt(BASE, PAGE), "execute"), 0);
    assert.equal(handleMmFault(mm, addVirt(BASE, 2 * PAGE), "read"), EFAULT);
    assert.equal(handleMmFault(mm, addVirt(BASE, -1), "read"), EFAULT);
    assert.equal(getUserPage(mm, BASE, true), EFAULT, "get_user_pages() writes only where user code may");
  });
});

test("a user page is the mm's own: sensitive, zero, labelled with its number, and the same at every look", () => {
  withMm(() => {
    const mm = mmAlloc();
    map(mm, BASE, PAGE);
    const frame = getUserPage(mm, addVirt(BASE, 24), true);
    assert.ok(!isErr(frame));
    assert.equal(frame % PAGE, 24);
    assert.equal(cpu.loadWord(va(frame)), 0);
    assert.equal(getUserPage(mm, addVirt(BASE, 24), false), frame);
    const label = Page.at(physToPage(frame)).owner as Owner;
    assert.deepEqual([ownerKind(label), ownerNumber(label), isSensitiveOwner(label)], [OWNER_USER, Mm.at(mm).number, true]);
  });
});

test("copies reach user memory of the loaded mm, and count what they could not copy (access_ok)", () => {
  withMm(() => {
    const mm = mmAlloc();
    map(mm, BASE, 2 * PAGE);
    getUserPage(mm, BASE, true);
    getUserPage(mm, addVirt(BASE, PAGE), true);
    switchMmIrqsOff(NULL, mm, NULL);
    const buffer = kmalloc(256, GFP_KERNEL);
    cpu.fill(buffer, 0x5a, 200);
    const user = addVirt(BASE, PAGE - 100);
    assert.equal(copyToUser(user, buffer, 200), 0);
    assert.equal(cpu.load(addVirt(BASE, PAGE + 99), 1), 0x5a);
    cpu.fill(buffer, 0, 256);
    assert.equal(copyFromUser(buffer, user, 200), 0);
    assert.equal(cpu.load(addVirt(buffer, 199), 1), 0x5a);
    assert.equal(copyToUser(buffer, buffer, 8), 8, "a kernel address is no user address");
    assert.equal(copyFromUser(buffer, (2 ** 47 - PAGE - 4) as VirtAddr, 8), 8);
    assert.equal(cpu.load(buffer, 1), 0, "what was not read is zero");
  });
});

test("after the last user of an mm everything is free again: pages, tables, areas (S9)", () => {
  withMm(() => {
    const warm = mmAlloc(); // the slabs of each size exist
    map(warm, BASE, PAGE);
    mmput(warm);
    const before = nrFreePages();
    const mm = mmAlloc();
    for (const base of [BASE, 0x7000_0000_0000, 0x5555_0000_0000]) {
      map(mm, base, 3 * PAGE);
      for (let i = 0; i < 3; i++) assert.ok(!isErr(getUserPage(mm, (base + i * PAGE) as VirtAddr, true)));
    }
    assert.ok(before - nrFreePages() >= 1 + 9 + 3 * 3);
    mmput(mm);
    assert.equal(nrFreePages(), before);
  });
});

test("munmap of touched memory flushes it and frees the frames; the next touch sees zeros (S8)", () => {
  withMm(() => {
    const mm = mmAlloc();
    map(mm, BASE, PAGE);
    getUserPage(mm, BASE, true);
    switchMmIrqsOff(NULL, mm, NULL);
    cpu.storeWord(BASE, 77);
    const before = nrFreePages();
    assert.equal(doMunmap(mm, BASE, PAGE), 0);
    assert.equal(nrFreePages(), before + 1);
    assert.throws(() => cpu.loadWord(BASE), "no translation is left: the access faults, and there is no IDT");
  });
});
