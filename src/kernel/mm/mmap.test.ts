import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import {
  EFAULT,
  EINVAL,
  ENOMEM,
  EPERM,
  isErr,
  MAP_32BIT,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_GROWSDOWN,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_EXEC,
  PROT_READ,
  PROT_WRITE,
} from "../../abi/index.ts";
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
import { dupMm } from "./dup-mm.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { MMAP_BASE, MMAP_BASE_32, va } from "./layout.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr, VmArea } from "./mm-struct.ts";
import { doBrk, doMmap, doMunmap } from "./mmap.ts";
import { nrFreePages } from "./page-alloc.ts";
import { Page, physToPage } from "./page-struct.ts";
import { kmalloc } from "./slab.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import { copyFromUser, copyToUser } from "./uaccess.ts";
import { getUserPage, handleMmFault, putUserPage } from "./user-memory.ts";
import { findVma } from "./vma.ts";
import { zeroFrame } from "./zero-page.ts";

const RW = PROT_READ | PROT_WRITE;
const ANONYMOUS = MAP_PRIVATE | MAP_ANONYMOUS;
const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;

function map(mm: MmPtr, address: number, bytes: number, protection = RW): VirtAddr {
  const result = doMmap(mm, address as VirtAddr, bytes, protection, ANONYMOUS | (address === 0 ? 0 : MAP_FIXED), NULL, 0);
  assert.ok(!isErr(result), `${result}`);
  return result;
}

/** Makes the page of `address` present, as a write by the process would. */
function touch(mm: MmPtr, address: number): void {
  assert.equal(handleMmFault(mm, address as VirtAddr, "write"), 0);
}

/** The areas as "first page..end page" from BASE. */
function areas(mm: MmPtr): string {
  const parts: string[] = [];
  for (let vma = Mm.at(mm).mmap; vma !== NULL; vma = VmArea.at(vma).next) {
    const { start, end, pageOffset } = VmArea.at(vma);
    parts.push(`${(start - BASE) / PAGE}..${(end - BASE) / PAGE}@${pageOffset - BASE / PAGE}`);
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

test("32-bit programs get addresses below 4 GiB, and MAP_32BIT those that 31 bits reach", () => {
  withMm(() => {
    const mm = mmAlloc();
    const low = doMmap(mm, NULL, 2 * PAGE, RW, ANONYMOUS | MAP_32BIT, NULL, 0);
    assert.equal(low, 0x8000_0000 - 2 * PAGE);
    Mm.at(mm).mmapBase = MMAP_BASE_32;
    assert.equal(map(mm, 0, PAGE), 0xf7ff_e000 - PAGE);
    const child = dupMm(mm);
    assert.ok(!isErr(child));
    assert.equal(map(child, 0, PAGE), 0xf7ff_e000 - 2 * PAGE);
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
    map(mm, BASE + 2 * PAGE, 6 * PAGE, PROT_READ);
    assert.equal(areas(mm), "1..2@1 2..8@2 8..10@8", "MAP_FIXED replaces what was there");
    map(mm, BASE + 2 * PAGE, 6 * PAGE);
    assert.equal(areas(mm), "1..10@1", "and what is the same as its neighbours becomes one with them");
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
    assert.equal(tryMap(PAGE, PAGE), EPERM);
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
    putUserPage(frame);
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
    touch(mm, BASE);
    touch(mm, BASE + PAGE);
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
      for (let i = 0; i < 3; i++) touch(mm, base + i * PAGE);
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
    touch(mm, BASE);
    switchMmIrqsOff(NULL, mm, NULL);
    cpu.storeWord(BASE, 77);
    const before = nrFreePages();
    assert.equal(doMunmap(mm, BASE, PAGE), 0);
    assert.equal(nrFreePages(), before + 1 + 3, "the page and three levels of tables");
    assert.throws(() => cpu.loadWord(BASE), "no translation is left: the access faults, and there is no IDT");
  });
});

test("munmap frees the tables that no neighbour needs, and only those (free_pgtables)", () => {
  withMm(() => {
    const mm = mmAlloc();
    const other = 0x40_0000 + BASE; // another leaf table of the same page directory
    map(mm, BASE, 2 * PAGE);
    map(mm, other, PAGE);
    for (const address of [BASE, BASE + PAGE, other]) touch(mm, address);
    const before = nrFreePages();
    assert.equal(doMunmap(mm, BASE, PAGE), 0);
    assert.equal(nrFreePages(), before + 1, "a neighbour needs the leaf table");
    assert.equal(doMunmap(mm, addVirt(BASE, PAGE), PAGE), 0);
    assert.equal(nrFreePages(), before + 3, "the leaf table goes, its page directory stays");
    assert.equal(doMunmap(mm, other as VirtAddr, PAGE), 0);
    assert.equal(nrFreePages(), before + 3 + 4);
    assert.equal(cpu.load(va(Mm.at(mm).pgd), 4), 0);
  });
});

test("a read of untouched memory sees the shared zero page, and the first write a page of the process's own", () => {
  withMm(() => {
    const mm = mmAlloc();
    map(mm, BASE, 2 * PAGE);
    touch(mm, BASE + PAGE); // the tables are there
    const before = nrFreePages();
    const zero = getUserPage(mm, BASE, false);
    assert.equal(zero, zeroFrame());
    assert.equal(nrFreePages(), before, "no page is taken for it");
    const own = getUserPage(mm, BASE, true);
    assert.ok(!isErr(own) && own !== zero);
    assert.equal(nrFreePages(), before - 1);
    putUserPage(own);
    assert.equal(getUserPage(mm, BASE, false), own);
    putUserPage(own);
  });
});

test("a page that the kernel still uses survives munmap, and is freed when it is put (get_user_pages)", () => {
  withMm(() => {
    const mm = mmAlloc();
    map(mm, BASE, PAGE);
    const frame = getUserPage(mm, BASE, true);
    assert.ok(!isErr(frame));
    const before = nrFreePages();
    assert.equal(doMunmap(mm, BASE, PAGE), 0);
    assert.equal(Page.at(physToPage(frame)).refcount, 1);
    putUserPage(frame);
    assert.equal(nrFreePages(), before + 4);
  });
});

test("the heap grows and shrinks by brk, is one area, and stops below what is in its way", () => {
  withMm(() => {
    const mm = mmAlloc();
    Mm.at(mm).startBrk = BASE;
    Mm.at(mm).brk = BASE;
    assert.equal(doBrk(mm, 0), BASE, "brk(0) asks");
    assert.equal(doBrk(mm, BASE + 100), BASE + 100);
    assert.equal(doBrk(mm, BASE + 5 * PAGE), BASE + 5 * PAGE);
    assert.equal(areas(mm), "0..5@0");
    touch(mm, BASE + 4 * PAGE);
    map(mm, BASE + 8 * PAGE, PAGE);
    assert.equal(doBrk(mm, BASE + 9 * PAGE), BASE + 5 * PAGE, "another area is in the way");
    const before = nrFreePages();
    assert.equal(doBrk(mm, BASE + 1), BASE + 1);
    assert.equal(nrFreePages(), before + 1);
    assert.equal(areas(mm), "0..1@0 8..9@8");
    assert.equal(handleMmFault(mm, addVirt(BASE, PAGE), "read"), EFAULT);
    assert.equal(doBrk(mm, BASE - 1), BASE + 1, "not below its start");
  });
});

test("a stack grows down to the page that is touched, keeps its guard gap, and ends at its limit", () => {
  withMm(() => {
    const mm = mmAlloc();
    const top = 0x7000_0000_0000 as VirtAddr;
    const stack = doMmap(mm, addVirt(top, -PAGE), PAGE, RW, ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, NULL, 0);
    assert.equal(stack, top - PAGE);
    touch(mm, top - 5 * PAGE);
    const vma = findVma(mm, addVirt(top, -PAGE));
    assert.equal(VmArea.at(vma).start, top - 5 * PAGE);
    assert.equal(handleMmFault(mm, addVirt(top, -8 * 2 ** 20 - PAGE), "write"), EFAULT, "RLIMIT_STACK: 8 MiB");
    const below = addVirt(top, -300 * PAGE);
    map(mm, below - PAGE, PAGE);
    assert.equal(handleMmFault(mm, addVirt(below, 255 * PAGE), "write"), EFAULT, "256 pages stay free below a stack");
    assert.equal(handleMmFault(mm, addVirt(below, 256 * PAGE), "write"), 0);
  });
});

test("memory that is mapped shared is one for all who map its object, and goes with the last (MAP_SHARED | MAP_ANONYMOUS)", () => {
  withMm(() => {
    const warm = mmAlloc();
    doMmap(warm, NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, NULL, 0);
    mmput(warm);
    const before = nrFreePages();
    const mm = mmAlloc();
    const at = doMmap(mm, NULL, 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, NULL, 0);
    assert.ok(!isErr(at));
    touch(mm, at);
    const child = dupMm(mm);
    assert.ok(!isErr(child));
    const [mine, theirs] = [getUserPage(mm, at, true), getUserPage(child, at, true)];
    assert.ok(!isErr(mine) && mine === theirs);
    putUserPage(mine);
    putUserPage(mine);
    mmput(child);
    mmput(mm);
    assert.equal(nrFreePages(), before);
  });
});
