import assert from "node:assert/strict";
import { test } from "node:test";
import { randomIntegers } from "../../../test/mm-fixture.ts";
import { addVirt } from "../../hardware/index.ts";
import { withBareCpu } from "../../residue/index.ts";
import { clearBlockFree, freeMapLayout, isBlockFree, lowestFreeBlock, setBlockFree } from "./free-map.ts";
import { PAGE_OFFSET } from "./layout.ts";

const MAPS = addVirt(PAGE_OFFSET, 0x2400000);

test("the maps of 1 GiB: order 0 has 2^18 bits in 4 levels, and all maps take little more than 2 bits a frame", () => {
  const layout = freeMapLayout(2 ** 18);
  assert.equal(layout.levels[0]?.length, 4); // 8192 words, 256, 8, 1
  assert.equal(layout.levels[10]?.length, 2); // 256 blocks: 8 words, 1
  assert.ok(layout.bytes > 2 ** 16 && layout.bytes < 2 ** 16 * 1.05, `${layout.bytes}`);
});

test("the lowest free block is found among any set of them (against a plain set)", () => {
  const { SEED = "1" } = process.env;
  const seed = Number(SEED);
  const random = randomIntegers(seed);
  withBareCpu(64 * 2 ** 20, () => {
    const layout = freeMapLayout(70000);
    const free = new Set<number>();
    for (let i = 0; i < 3000; i++) {
      const block = random(70000);
      if (free.delete(block)) clearBlockFree(MAPS, layout, 0, block);
      else {
        free.add(block);
        setBlockFree(MAPS, layout, 0, block);
      }
      if (i % 50 === 0) {
        assert.equal(lowestFreeBlock(MAPS, layout, 0), free.size === 0 ? -1 : Math.min(...free), `seed ${seed}, step ${i}`);
        assert.equal(isBlockFree(MAPS, layout, 0, block), free.has(block));
      }
    }
    for (const block of free) clearBlockFree(MAPS, layout, 0, block);
    assert.equal(lowestFreeBlock(MAPS, layout, 0), -1);
  });
});
