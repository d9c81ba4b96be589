// Every allocation on the paths of kernel memory fails once (S9): what was begun is undone, so that in the end no more is missing than
// after a run in which nothing failed. Each operation begins on a machine whose tables are not there yet, so they fail too.
import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { addVirt, NULL, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import { asiMap, asiUnmap } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "../asi/asi-state.ts";
import { FAIL_FROM_THEN_ON, FAIL_ONCE, type FailMode, failAlloc } from "./fail-alloc.ts";
import { GFP_KERNEL, GFP_USER } from "./gfp.ts";
import { allocPages, allocPagesBulk, allocPagesExact, drainAllFrees, freePages, freePagesExact, nrFreePages } from "./page-alloc.ts";
import { pageAddress } from "./page-struct.ts";
import { allocPercpu, freePercpu } from "./percpu.ts";
import { setMemoryRo, setMemoryRw } from "./set-memory.ts";
import { kfree, kmalloc, kmemCacheAlloc, kmemCacheCreate, kmemCacheDestroy } from "./slab.ts";
import { moduleAlloc, moduleEnableRox, moduleFree, vfree, vmalloc, vmap } from "./vmalloc.ts";
import { VM_SENSITIVE } from "./vmap-area.ts";

interface Operation {
  readonly name: string;
  /** Does it and undoes it. @returns false when it could not be done */
  readonly run: () => boolean;
}

function giveBack(address: VirtAddr, undo: (address: VirtAddr) => void): boolean {
  if (address === NULL) return false;
  undo(address);
  return true;
}

const OPERATIONS: readonly Operation[] = [
  { name: "alloc_pages() of order 3", run: () => giveBack(allocPages(GFP_KERNEL, 3), (page) => freePages(page, 3)) },
  {
    name: "alloc_pages_exact()",
    run: () => giveBack(allocPagesExact(5 * PAGE_SIZE, GFP_KERNEL), (at) => freePagesExact(at, 5 * PAGE_SIZE)),
  },
  {
    name: "alloc_pages_bulk()",
    run: () => {
      const pages = allocPagesBulk(GFP_USER, 6);
      for (const page of pages) freePages(page, 0);
      return pages.length === 6;
    },
  },
  { name: "kmalloc()", run: () => giveBack(kmalloc(1000, GFP_KERNEL), kfree) },
  { name: "kmalloc() of pages", run: () => giveBack(kmalloc(20000, GFP_KERNEL), kfree) },
  {
    name: "kmem_cache_create()",
    run: () => {
      const cache = kmemCacheCreate(320);
      if (cache === NULL) return false;
      const isGiven = giveBack(kmemCacheAlloc(cache, GFP_KERNEL), kfree);
      kmemCacheDestroy(cache);
      return isGiven;
    },
  },
  { name: "vmalloc()", run: () => giveBack(vmalloc(6 * PAGE_SIZE), vfree) },
  { name: "vmalloc() of sensitive memory", run: () => giveBack(vmalloc(6 * PAGE_SIZE, VM_SENSITIVE), vfree) },
  {
    name: "vmap()",
    run: () => {
      const page = allocPages(GFP_KERNEL, 0);
      if (page === NULL) return false;
      const isMapped = giveBack(vmap([page, page, page]), vfree);
      freePages(page, 0);
      return isMapped;
    },
  },
  {
    name: "a module",
    run: () => {
      const text = moduleAlloc(3 * PAGE_SIZE);
      if (text === NULL) return false;
      const error = moduleEnableRox(text, 3 * PAGE_SIZE);
      moduleFree(text);
      return error === 0;
    },
  },
  {
    name: "alloc_percpu() behind the boot chunk",
    run: () => {
      const boot = allocPercpu(49152);
      if (boot === 0) return false;
      const offset = allocPercpu(3 * PAGE_SIZE);
      freePercpu(offset);
      freePercpu(boot);
      return offset !== 0;
    },
  },
  {
    name: "set_memory_ro() of a part of a large page",
    run: () => {
      const page = allocPages(GFP_KERNEL, 1);
      if (page === NULL) return false;
      const error = setMemoryRo(addVirt(pageAddress(page), PAGE_SIZE), 1) || setMemoryRw(addVirt(pageAddress(page), PAGE_SIZE), 1);
      freePages(page, 1);
      return error === 0;
    },
  },
  {
    name: "asi_map() and the unmapping of a part",
    run: () => {
      const page = allocPages(GFP_USER, 2);
      if (page === NULL) return false;
      const address = pageAddress(page);
      const error = asiMap(ASI_GLOBAL_NONSENSITIVE, address, 4 * PAGE_SIZE);
      asiUnmap(ASI_GLOBAL_NONSENSITIVE, addVirt(address, PAGE_SIZE), 2 * PAGE_SIZE);
      asiUnmap(ASI_GLOBAL_NONSENSITIVE, address, 4 * PAGE_SIZE);
      freePages(page, 2);
      return error === 0;
    },
  },
];

interface Outcome {
  /** Frames that are missing in the end: tables and slabs that stay. */
  readonly missing: number;
  /** The allocation that was to fail was reached. */
  readonly hasFailed: boolean;
}

/** On a fresh machine: once with the `nth` allocation failing (0: none), then twice without. */
function outcome(asi: boolean, operation: Operation, nth: number, mode: FailMode): Outcome {
  return withMm(
    () => {
      const before = nrFreePages();
      if (nth > 0) failAlloc.arm(nth, mode);
      operation.run();
      failAlloc.disarm();
      const hasFailed = nth > 0 && failAlloc.failed() > 0;
      assert.ok(operation.run() && operation.run(), `${operation.name} works after attempt ${nth} failed`);
      drainAllFrees();
      return { missing: before - nrFreePages(), hasFailed };
    },
    { asi },
  );
}

/** More than any of the operations makes. */
const MOST_ATTEMPTS = 60;

for (const [asi, mode] of [
  [true, FAIL_ONCE],
  [true, FAIL_FROM_THEN_ON],
  [false, FAIL_FROM_THEN_ON],
] as const) {
  test(`nothing leaks whichever allocation fails${mode === FAIL_ONCE ? "" : ", and all behind it"} (S9; ASI ${asi ? "on" : "off"})`, () => {
    for (const operation of OPERATIONS) {
      const usual = outcome(asi, operation, 0, mode).missing;
      let nth = 1;
      for (; nth < MOST_ATTEMPTS; nth++) {
        const { missing, hasFailed } = outcome(asi, operation, nth, mode);
        if (!hasFailed) break;
        assert.equal(missing, usual, `${operation.name}: attempt ${nth}`);
      }
      assert.ok(nth > 1 && nth < MOST_ATTEMPTS, `${operation.name}: ${nth} attempts`);
    }
  });
}
