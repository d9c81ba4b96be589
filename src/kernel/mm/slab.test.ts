import assert from "node:assert/strict";
import { test } from "node:test";
import { randomIntegers, withMm } from "../../../test/mm-fixture.ts";
import { addVirt, cpu, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { nrFreePages } from "./page-alloc.ts";
import { kfree, kmalloc, kmemCacheAlloc, kmemCacheCreate, kmemCacheDestroy, kzalloc } from "./slab.ts";

test("objects of any size are disjoint, zero, aligned to a cache line, and survive what happens to others", () => {
  const { SEED = "1" } = process.env;
  const seed = Number(SEED);
  const random = randomIntegers(seed);
  withMm(() => {
    const before = nrFreePages();
    const objects: { address: VirtAddr; bytes: number; mark: number }[] = [];
    for (let i = 0; i < 500; i++) {
      if (random(5) > 1) {
        const bytes = 1 + random(i % 10 === 0 ? 20000 : 1200);
        const address = kzalloc(bytes, GFP_KERNEL);
        assert.ok(address !== 0 && address % 64 === 0);
        assert.equal(cpu.load(address, 1), 0, `seed ${seed}: not zero`);
        assert.equal(cpu.load(addVirt(address, bytes - 1), 1), 0, `seed ${seed}: not zero at the end`);
        cpu.fill(address, (i % 255) + 1, bytes);
        objects.push({ address, bytes, mark: (i % 255) + 1 });
      } else {
        const [object] = objects.splice(random(objects.length), 1);
        if (object === undefined) continue;
        assert.equal(cpu.load(object.address, 1), object.mark);
        assert.equal(cpu.load(addVirt(object.address, object.bytes - 1), 1), object.mark);
        kfree(object.address);
      }
    }
    for (const object of objects) kfree(object.address);
    // MIN_PARTIAL (5) empty slabs of each cache stay: orders 0, 0, 0, 0, 1, 2, 3.
    assert.ok(before - nrFreePages() <= 5 * (4 + 2 + 4 + 8));
  });
});

test("the lowest free slot is given first, and a slab of 64 objects of 64 bytes is one page", () => {
  withMm(() => {
    const objects = Array.from({ length: 65 }, () => kmalloc(64, GFP_KERNEL));
    const [first] = objects;
    assert.ok(first !== undefined);
    for (let i = 0; i < 64; i++) assert.equal(objects[i], first + 64 * i);
    kfree(objects[40] ?? first);
    kfree(objects[7] ?? first);
    assert.equal(kmalloc(64, GFP_KERNEL), first + 64 * 7);
    assert.equal(kmalloc(1, GFP_KERNEL), first + 64 * 40);
  });
});

test("freeing twice, and freeing what is inside an object, is refused", () => {
  withMm(() => {
    const keep = kmalloc(128, GFP_KERNEL);
    const object = kmalloc(128, GFP_KERNEL);
    kfree(object);
    assert.throws(() => kfree(object), /object freed twice/);
    assert.throws(() => kfree(addVirt(keep, 64)), /inside an object/);
  });
});

test("a cache of its own gives every page back when it is destroyed", () => {
  withMm(() => {
    kfree(kmalloc(64, GFP_KERNEL)); // the slab that holds the cache's own record
    const before = nrFreePages();
    const cache = kmemCacheCreate(1000);
    const objects = Array.from({ length: 100 }, () => kmemCacheAlloc(cache, GFP_KERNEL));
    assert.equal(new Set(objects).size, 100);
    assert.throws(() => kmemCacheDestroy(cache), /is in use/);
    for (const object of objects) kfree(object);
    kmemCacheDestroy(cache);
    assert.equal(nrFreePages(), before);
  });
});
