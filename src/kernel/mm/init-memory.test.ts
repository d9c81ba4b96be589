// On the abstract machine, at the end of a whole boot: the frames are in use by then.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { addVirt, NULL, type PhysAddr, pfnOf } from "../../hardware/index.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "../asi/asi-state.ts";
import { Asi } from "../asi/asi-struct.ts";
import { KERNEL_TEXT_BASE, KERNEL_TEXT_PHYSICAL } from "../static-data.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { INIT_END, initBegin } from "./init-memory.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { allocPages } from "./page-alloc.ts";
import { pageToPfn } from "./page-struct.ts";
import { isPresent, lookupAddress } from "./page-table.ts";

test("after boot the init part of the image is free memory, and is text in no address space", () => {
  inKernel(() => {
    const roots = [Mm.at(initMm).pgd, Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd];
    for (const root of roots) {
      assert.equal(isPresent(lookupAddress(root, KERNEL_TEXT_BASE)), true);
      assert.equal(isPresent(lookupAddress(root, addVirt(initBegin(), -1))), true);
      assert.equal(isPresent(lookupAddress(root, initBegin())), false);
      assert.equal(isPresent(lookupAddress(root, addVirt(INIT_END, -1))), false);
    }
    const first = pfnOf((KERNEL_TEXT_PHYSICAL + (initBegin() - KERNEL_TEXT_BASE)) as PhysAddr);
    const end = pfnOf((KERNEL_TEXT_PHYSICAL + (INIT_END - KERNEL_TEXT_BASE)) as PhysAddr);
    const given = new Set<number>();
    for (let page = allocPages(GFP_KERNEL, 0); page !== NULL; page = allocPages(GFP_KERNEL, 0)) given.add(pageToPfn(page));
    assert.deepEqual([given.has(first - 1), given.has(first), given.has(end - 1)], [false, true, true]);
  });
});
