import assert from "node:assert/strict";
import { test } from "node:test";
import { randomIntegers, withMm } from "../../../test/mm-fixture.ts";
import {
  addVirt,
  cpu,
  isSensitiveOwner,
  OWNER_KERNEL,
  OWNER_NONE,
  type Owner,
  ownerKind,
  PAGE_SIZE,
  type Pfn,
  silentObserver,
} from "../../hardware/index.ts";
import { isMappedIn } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "../asi/asi-state.ts";
import { Asi } from "../asi/asi-struct.ts";
import { asyncFreePending } from "./async-free.ts";
import { failAlloc } from "./fail-alloc.ts";
import { __GFP_SENSITIVE, __GFP_ZERO, GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_USER } from "./gfp.ts";
import {
  allocPages,
  allocPagesBulk,
  allocPagesExact,
  asiAsyncFreeWork,
  freePages,
  freePagesExact,
  getPage,
  nrFreePages,
  pageAllocStatistics,
  putPage,
} from "./page-alloc.ts";
import { orderPages, Page, type PagePtr, PG_SENSITIVE, pageAddress, pageToPfn, virtToPage } from "./page-struct.ts";

const MIB_FRAMES = 256;

test("booting 4 GiB less 2 MiB takes a bounded number of steps, none of them per frame", () => {
  withMm(
    (machine) => {
      const { steps } = machine.cpu(0);
      assert.ok(steps < 12000, `${steps} steps`);
      // All frames but: 1 MiB firmware, 4 MiB image (16..18, 32..34), the 64 KiB unit, the pool of tables, the page array (64 bytes a frame) with the maps.
      const frames = 1024 * 1024 - 512;
      const held = frames - nrFreePages();
      assert.ok(held > 5 * MIB_FRAMES + frames / 64 && held < 10 * MIB_FRAMES + frames / 64, `${held} frames are not free`);
    },
    { memoryBytes: 4 * 2 ** 30 - 2 ** 21 },
  );
});

test("blocks are aligned to their size, do not overlap, and freeing all of them in any order gives the memory back as it was", () => {
  const { SEED = "1" } = process.env;
  const seed = Number(SEED);
  const random = randomIntegers(seed);
  withMm((machine) => {
    const before = nrFreePages();
    machine.memory.startTracking();
    const hash = machine.memory.hash();
    const blocks: { page: PagePtr; order: number }[] = [];
    const taken = new Set<number>();
    for (let i = 0; i < 600; i++) {
      if (random(3) > 0) {
        const order = random(6);
        const page = allocPages(GFP_KERNEL, order);
        assert.notEqual(page, 0);
        const pfn = pageToPfn(page);
        assert.equal(pfn % orderPages(order), 0);
        for (let frame: number = pfn; frame < pfn + orderPages(order); frame++) {
          assert.ok(!taken.has(frame), `seed ${seed}: frame ${frame} given twice`);
          taken.add(frame);
        }
        blocks.push({ page, order });
      } else if (blocks.length > 0) {
        const [block] = blocks.splice(random(blocks.length), 1);
        if (block === undefined) continue;
        const pfn = pageToPfn(block.page);
        for (let frame: number = pfn; frame < pfn + orderPages(block.order); frame++) taken.delete(frame);
        freePages(block.page, block.order);
      }
    }
    assert.equal(nrFreePages(), before - taken.size);
    while (blocks.length > 0) {
      const [block] = blocks.splice(random(blocks.length), 1);
      if (block !== undefined) freePages(block.page, block.order);
    }
    assert.equal(nrFreePages(), before);
    assert.equal(machine.memory.hash(), hash, "the same set of free blocks is the same bytes");
  });
});

test("an allocation gives the lowest block of the smallest order that has one", () => {
  withMm(() => {
    const first = allocPages(GFP_KERNEL, 0);
    const second = allocPages(GFP_KERNEL, 0);
    const third = allocPages(GFP_KERNEL, 0);
    freePages(third, 0);
    freePages(first, 0);
    assert.ok(first < second && second < third);
    assert.equal(allocPages(GFP_KERNEL, 0), first);
  });
});

test("when memory is used up NULL comes back, and all of it can be freed again", () => {
  withMm(() => {
    const before = nrFreePages();
    const pages: PagePtr[] = [];
    for (let page = allocPages(GFP_HIGHUSER_MOVABLE, 0); page !== 0; page = allocPages(GFP_HIGHUSER_MOVABLE, 0)) pages.push(page);
    assert.equal(pages.length, before);
    assert.equal(nrFreePages(), 0);
    for (const page of pages) freePages(page, 0);
    assert.equal(nrFreePages(), before);
  });
});

/** Allocates a page, leaves a word in it, frees it, allocates again. @returns what the second owner finds in the same frame */
function leftover(first: number, second: number): number {
  const page = allocPages(first, 0);
  const last = addVirt(pageAddress(page), PAGE_SIZE - 8);
  cpu.storeWord(last, 0x5ec4e7);
  freePages(page, 0);
  asiAsyncFreeWork();
  const again = allocPages(second, 0);
  assert.equal(again, page);
  return cpu.loadWord(last);
}

test("a frame is cleared for who asks, and where a sensitive owner's becomes reachable in restricted address spaces; not otherwise (S5)", () => {
  withMm(
    () => {
      assert.equal(leftover(GFP_HIGHUSER_MOVABLE, GFP_KERNEL), 0, "sensitive to nonsensitive");
      assert.equal(leftover(GFP_KERNEL, GFP_KERNEL), 0x5ec4e7, "nonsensitive to nonsensitive");
      assert.equal(leftover(GFP_KERNEL, GFP_HIGHUSER_MOVABLE), 0x5ec4e7, "nonsensitive to sensitive");
      assert.equal(leftover(GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER_MOVABLE), 0x5ec4e7, "sensitive to sensitive");
      assert.equal(leftover(GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER_MOVABLE | __GFP_ZERO), 0, "__GFP_ZERO");
    },
    { asi: true },
  );
  withMm(() => assert.equal(leftover(GFP_HIGHUSER_MOVABLE, GFP_KERNEL), 0x5ec4e7, "without ASI nothing is restricted"));
});

test("every frame of a block that was sensitive is cleared when a part of it becomes nonsensitive (S5)", () => {
  withMm(
    () => {
      const block = allocPages(GFP_HIGHUSER_MOVABLE, 3);
      cpu.fill(pageAddress(block), 0xee, 8 * PAGE_SIZE);
      freePages(block, 3);
      for (let i = 0; i < 8; i++) {
        const page = allocPages(GFP_KERNEL, 0);
        assert.equal(cpu.loadWord(addVirt(pageAddress(page), 8 * i)), 0);
      }
    },
    { asi: true },
  );
});

test("alloc_pages_exact() maps exactly the pages it keeps, and gives the rest of the block back at once (patch 15 without its detour)", () => {
  withMm(
    () => {
      allocPages(GFP_KERNEL, 0); // the tables that its mapping needs are there
      const before = nrFreePages();
      const address = allocPagesExact(5 * PAGE_SIZE, GFP_KERNEL);
      assert.equal(nrFreePages(), before - 5);
      const mapped = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => isRestrictedlyMapped(virtToPage(addVirt(address, i * PAGE_SIZE))));
      assert.deepEqual(mapped, [true, true, true, true, true, false, false, false]);
      const sensitive = allocPagesExact(3 * PAGE_SIZE, GFP_USER);
      assert.equal(isRestrictedlyMapped(virtToPage(sensitive)), false);
      freePagesExact(address, 5 * PAGE_SIZE);
      freePagesExact(sensitive, 3 * PAGE_SIZE);
      asiAsyncFreeWork();
      assert.equal(nrFreePages(), before);
      assert.equal(isRestrictedlyMapped(virtToPage(address)), false);
    },
    { asi: true },
  );
});

test("the bulk allocator gives what there is, each page in its own state", () => {
  withMm(
    () => {
      const [one] = allocPagesBulk(GFP_USER, 1);
      assert.ok(one !== undefined && (Page.at(one).flags & PG_SENSITIVE) !== 0);
      const { sensitive, free } = pageAllocStatistics();
      const pages = allocPagesBulk(GFP_USER, free + 10);
      assert.equal(pages.length, free);
      assert.deepEqual([pageAllocStatistics().free, pageAllocStatistics().sensitive], [0, sensitive + free]);
    },
    { asi: true },
  );
});

test("a page lives as long as its last reference, and a second free is refused", () => {
  withMm(() => {
    const before = nrFreePages();
    const page = allocPages(GFP_KERNEL, 2);
    getPage(page);
    putPage(page);
    assert.equal(nrFreePages(), before - 4);
    putPage(page);
    assert.equal(nrFreePages(), before);
    assert.throws(() => freePages(page, 2), /page freed twice/);
    assert.throws(() => getPage(page), /get_page\(\) of a free page/);
  });
});

test("the ground truth hears whose a frame is, and that it is nobody's when it is freed", () => {
  const labels = new Map<number, Owner>();
  withMm(
    () => {
      const sensitive = pageToPfn(allocPages(GFP_KERNEL | __GFP_SENSITIVE, 0));
      const plain = allocPages(GFP_KERNEL, 1);
      const label = (pfn: number): Owner => labels.get(pfn) ?? OWNER_NONE;
      assert.deepEqual([ownerKind(label(sensitive)), isSensitiveOwner(label(sensitive))], [OWNER_KERNEL, true]);
      assert.deepEqual([ownerKind(label(pageToPfn(plain) + 1)), isSensitiveOwner(label(pageToPfn(plain) + 1))], [OWNER_KERNEL, false]);
      freePages(plain, 1);
      assert.equal(label(pageToPfn(plain)), OWNER_NONE);
    },
    { observer: { ...silentObserver, frameOwner: (pfn: Pfn, label: Owner) => labels.set(pfn, label) } },
  );
});

const isRestrictedlyMapped = (page: PagePtr): boolean => isMappedIn(Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd, pageAddress(page));

test("test_alloc_pages_sensitivity: a sensitive page is absent from the restricted direct map, a GFP_KERNEL page is present (spec 4)", () => {
  withMm(
    () => {
      assert.equal(isRestrictedlyMapped(allocPages(GFP_KERNEL | __GFP_SENSITIVE, 0)), false);
      assert.equal(isRestrictedlyMapped(allocPages(GFP_HIGHUSER_MOVABLE, 0)), false);
      assert.equal(isRestrictedlyMapped(allocPages(GFP_KERNEL, 0)), true);
    },
    { asi: true },
  );
});

test("a freed nonsensitive page waits for its restricted mapping to go before its frame is free (spec 2.14, P14)", () => {
  withMm(
    () => {
      const page = allocPages(GFP_KERNEL, 0);
      const before = nrFreePages();
      cpu.storeWord(pageAddress(page), 1);
      freePages(page, 0);
      assert.equal(nrFreePages(), before, "queued");
      assert.equal(asyncFreePending(), 1);
      assert.equal(isRestrictedlyMapped(page), true);
      asiAsyncFreeWork();
      assert.equal(nrFreePages(), before + 1);
      assert.equal(isRestrictedlyMapped(page), false);
    },
    { asi: true },
  );
});

test("memory that only waits to be unmapped is no out-of-memory: not for who may wait, nor for who wants it nonsensitive", () => {
  withMm(
    () => {
      const last = allocPages(GFP_KERNEL, 0);
      for (let page = allocPages(GFP_HIGHUSER_MOVABLE, 0); page !== 0; page = allocPages(GFP_HIGHUSER_MOVABLE, 0));
      cpu.storeWord(pageAddress(last), 7);
      freePages(last, 0);
      assert.equal(allocPages(__GFP_SENSITIVE, 0), 0, "sensitive and may not wait: its frame is still mapped");
      assert.equal(allocPages(GFP_ATOMIC, 1), 0, "no block of that order waits");
      assert.equal(allocPages(GFP_ATOMIC | __GFP_ZERO, 0), last, "the queued page is mapped already");
      assert.equal(cpu.loadWord(pageAddress(last)), 0);
      assert.equal(isRestrictedlyMapped(last), true);
      freePages(last, 0);
      assert.equal(allocPages(GFP_HIGHUSER_MOVABLE, 0), last);
      assert.equal(isRestrictedlyMapped(last), false);
      assert.deepEqual(pageAllocStatistics().queued, 0);
    },
    { asi: true },
  );
});

test("a block whose mapping fails half way is not given out, and not free before what was mapped is gone (S5, S9)", () => {
  withMm(
    () => {
      // The first page of each 2 MiB of the direct map needs a table in the restricted tables: fill up to such a border.
      let page = allocPages(GFP_HIGHUSER_MOVABLE, 0);
      while (pageToPfn(page) % 512 !== 510) page = allocPages(GFP_HIGHUSER_MOVABLE, 0);
      const before = nrFreePages();
      failAlloc.arm(2); // 1: the block, 2: the table
      assert.equal(allocPages(GFP_KERNEL, 0), 0);
      assert.equal(failAlloc.failed(), 1);
      asiAsyncFreeWork();
      assert.equal(nrFreePages(), before);
      assert.notEqual(allocPages(GFP_KERNEL, 0), 0);
    },
    { asi: true },
  );
});

test("observers hear what is handed out and taken back", () => {
  const heard: string[] = [];
  withMm(
    () => {
      heard.length = 0;
      const address = pageAddress(allocPages(GFP_KERNEL, 1));
      freePages(address, 1);
      assert.deepEqual(heard, [`+ pages ${address} 8192`, `- pages ${address} 8192`]);
    },
    {
      observer: {
        ...silentObserver,
        allocated: (kind, address, bytes) => heard.push(`+ ${kind} ${address} ${bytes}`),
        freed: (kind, address, bytes) => heard.push(`- ${kind} ${address} ${bytes}`),
      },
    },
  );
});
