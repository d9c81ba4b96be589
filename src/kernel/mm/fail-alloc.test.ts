import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { NULL } from "../../hardware/index.ts";
import { FAIL_FROM_THEN_ON, FAIL_NEVER, failAlloc } from "./fail-alloc.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { allocPages, freePages, nrFreePages } from "./page-alloc.ts";
import { allocPercpu } from "./percpu.ts";
import { kfree, kmalloc } from "./slab.ts";
import { vfree, vmalloc, vmap } from "./vmalloc.ts";

test("the nth attempt fails and no other", () => {
  withMm(() => {
    failAlloc.arm(3);
    const pages = [0, 0, 0, 0, 0].map(() => allocPages(GFP_KERNEL, 0));
    assert.deepEqual(
      pages.map((page) => page === NULL),
      [false, false, true, false, false],
    );
    assert.deepEqual([failAlloc.attempts(), failAlloc.failed()], [3, 1]);
  });
});

test("with FAIL_FROM_THEN_ON all that follow fail too, until it is disarmed", () => {
  withMm(() => {
    kmalloc(64, GFP_KERNEL); // makes the slab: from now on one attempt an object
    failAlloc.arm(2, FAIL_FROM_THEN_ON);
    assert.notEqual(kmalloc(64, GFP_KERNEL), NULL);
    for (let i = 0; i < 3; i++) assert.equal(allocPages(GFP_KERNEL, 0), NULL);
    assert.equal(allocPercpu(64), 0);
    failAlloc.disarm();
    assert.notEqual(allocPages(GFP_KERNEL, 0), NULL);
    assert.equal(failAlloc.failed(), 4);
  });
});

/** Fails each attempt of `body` in turn: it must say NULL and leave as many free frames as before. @returns how many attempts there were */
function failEach(body: () => number, undo: (result: number) => void): number {
  undo(body()); // slabs and tables that stay are made
  failAlloc.arm(FAIL_NEVER);
  undo(body());
  const attempts = failAlloc.attempts();
  for (let nth = 1; nth <= attempts; nth++) {
    const before = nrFreePages();
    failAlloc.arm(nth);
    const result = body();
    assert.equal(failAlloc.failed(), 1, `attempt ${nth} came`);
    assert.equal(result, 0, `attempt ${nth}`);
    assert.equal(nrFreePages(), before, `attempt ${nth} leaks`);
  }
  return attempts;
}

test("vmalloc() and vmap() unwind whichever of their allocations fails (S9)", () => {
  for (const asi of [false, true]) {
    withMm(
      () => {
        // The area, its record, three frames.
        assert.equal(
          failEach(
            () => vmalloc(3 * 4096),
            (address) => vfree(address as never),
          ),
          5,
        );
        const pages = [allocPages(GFP_KERNEL, 0), allocPages(GFP_KERNEL, 0)];
        failEach(
          () => vmap(pages),
          (address) => vfree(address as never),
        );
        for (const page of pages) freePages(page, 0);
        kfree(kmalloc(64, GFP_KERNEL));
      },
      { asi },
    );
  }
});
