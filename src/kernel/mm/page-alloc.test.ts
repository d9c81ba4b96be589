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
import { __GFP_SENSITIVE, GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "./gfp.ts";
import { allocPages, asiAsyncFreeWork, freePages, getPage, nrFreePages, putPage } from "./page-alloc.ts";
import { orderPages, type PagePtr, pageAddress, pageToPfn } from "./page-struct.ts";

const MIB_FRAMES = 256;

test("booting 4 GiB less 2 MiB takes a bounded number of steps, none of them per frame", () => {
  withMm(
    (machine) => {
      const { steps } = machine.cpu(0);
      assert.ok(steps < 12000, `${steps} steps`);
      // All frames but: 1 MiB firmware, 18 MiB image (16..34), the 64 KiB unit, the pool of tables, the page array (64 bytes a frame) with the maps.
      const frames = 1024 * 1024 - 512;
      const held = frames - nrFreePages();
      assert.ok(held > 19 * MIB_FRAMES + frames / 64 && held < 24 * MIB_FRAMES + frames / 64, `${held} frames are not free`);
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

test("a freed page is zero before anybody gets it again", () => {
  withMm(() => {
    const page = allocPages(GFP_HIGHUSER_MOVABLE, 0);
    const last = addVirt(pageAddress(page), PAGE_SIZE - 8);
    cpu.storeWord(last, 0x5ec4e7);
    freePages(page, 0);
    assert.equal(allocPages(GFP_KERNEL, 0), page);
    assert.equal(cpu.loadWord(last), 0);
  });
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
      assert.equal(cpu.loadWord(pageAddress(page)), 0, "cleared already");
      asiAsyncFreeWork();
      assert.equal(nrFreePages(), before + 1);
      assert.equal(isRestrictedlyMapped(page), false);
    },
    { asi: true },
  );
});

test("an allocation that may block does the queued work when memory runs out, one that may not fails", () => {
  withMm(
    () => {
      const last = allocPages(GFP_KERNEL, 0);
      for (let page = allocPages(GFP_HIGHUSER_MOVABLE, 0); page !== 0; page = allocPages(GFP_HIGHUSER_MOVABLE, 0));
      freePages(last, 0);
      assert.equal(allocPages(__GFP_SENSITIVE, 0), 0);
      assert.equal(allocPages(GFP_HIGHUSER_MOVABLE, 0), last);
    },
    { asi: true },
  );
});
