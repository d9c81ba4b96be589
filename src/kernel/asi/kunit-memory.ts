// The part of the published KUnit suite "asi" that is about the rights of kernel pages: both address spaces must agree after each change.
import { addVirt, assert, LARGE_PAGE_SIZE, NULL, PAGE_SIZE, PTE_WRITE, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { initMm, Mm } from "../mm/mm-struct.ts";
import { allocPages, freePages } from "../mm/page-alloc.ts";
import { type PagePtr, pageAddress } from "../mm/page-struct.ts";
import { isPresent, lookupAddress, type Translation } from "../mm/page-table.ts";
import { setMemory4k, setMemoryRo, setMemoryRw } from "../mm/set-memory.ts";
import { vfree, vmap } from "../mm/vmalloc.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "./asi-state.ts";
import { Asi } from "./asi-struct.ts";
import type { KunitCase, KunitContext } from "./kunit.ts";

/** Order of a block that one 2 MiB entry maps. */
const PMD_ORDER = 9;
const PMD_FRAMES = LARGE_PAGE_SIZE / PAGE_SIZE;
/** As the published case: blocks that it asks for until one is mapped by a large entry in both address spaces. */
const TRIES = 100;

function unrestricted(address: VirtAddr): Translation {
  return lookupAddress(Mm.at(initMm).pgd, address);
}

function restricted(address: VirtAddr): Translation {
  return lookupAddress(Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd, address);
}

function isSameEntry(a: Translation, b: Translation): boolean {
  return isPresent(a) && isPresent(b) && a.level === b.level && a.low === b.low && a.high === b.high;
}

/** Entries of both address spaces at `address` are single pages, equal, and writable or not. */
function expectRights({ expect }: KunitContext, address: VirtAddr, isWritable: boolean, when: string): void {
  const one = unrestricted(address);
  const other = restricted(address);
  expect(one.level === 1 && isSameEntry(one, other), `${when}: equal in both address spaces`);
  expect(((one.low & PTE_WRITE) !== 0) === isWritable, `${when}: ${isWritable ? "writable" : "read-only"}`);
}

function testChangePageAttr(context: KunitContext): void {
  const page = allocPages(GFP_KERNEL, 0);
  assert(page !== NULL, () => "no memory for the test's page");
  const direct = pageAddress(page);
  assert(setMemory4k(direct, 1) === 0, () => "no memory to split");
  expectRights(context, direct, true, "at first");
  context.expect(setMemoryRo(direct, 1) === 0, "set_memory_ro()");
  expectRights(context, direct, false, "after set_memory_ro()");
  context.expect(setMemoryRw(direct, 1) === 0, "set_memory_rw()");
  expectRights(context, direct, true, "after set_memory_rw()");
  const alias = vmap([page]);
  assert(alias !== NULL, () => "no memory for vmap()");
  expectRights(context, alias, true, "the vmap address");
  context.expect(setMemoryRo(alias, 1) === 0, "set_memory_ro() by the vmap address");
  expectRights(context, alias, false, "the vmap address, read-only");
  expectRights(context, direct, false, "the direct map's alias of it");
  context.expect(setMemoryRw(alias, 1) === 0, "set_memory_rw() by the vmap address");
  expectRights(context, direct, true, "the direct map's alias again");
  vfree(alias);
  freePages(page, 0);
}

function testChangePageAttrSplitMapping(context: KunitContext): void {
  const { expect } = context;
  const blocks: PagePtr[] = [];
  let found: VirtAddr = NULL;
  for (let i = 0; i < TRIES && found === NULL; i++) {
    const block = allocPages(GFP_KERNEL, PMD_ORDER);
    if (block === NULL) break;
    blocks.push(block);
    const address = pageAddress(block);
    if (unrestricted(address).level === 2 && isSameEntry(unrestricted(address), restricted(address))) found = address;
  }
  expect(found !== NULL, "a block that a 2 MiB entry maps in both address spaces");
  if (found !== NULL) {
    expect(setMemory4k(found, 1) === 0, "set_memory_4k()");
    const { low, high } = unrestricted(found);
    for (let i = 0; i < PMD_FRAMES; i++) {
      const one = unrestricted(addVirt(found, i * PAGE_SIZE));
      expect(one.level === 1 && isSameEntry(one, restricted(addVirt(found, i * PAGE_SIZE))), `page ${i}: equal, 4 KiB`);
      expect(one.low === low + i * PAGE_SIZE && one.high === high, `page ${i}: its frame, the same rights`);
    }
  }
  for (const block of blocks) freePages(block, PMD_ORDER);
}

export const kunitMemoryCases: readonly KunitCase[] = [
  { name: "test_change_page_attr", run: testChangePageAttr },
  { name: "test_change_page_attr_split_mapping", run: testChangePageAttrSplitMapping },
];
