// The cases of the published KUnit suite "mermap", against the ephemeral mappings that stand for it here (mm/ephmap.ts). They run with option
// ephmap, in the restricted address space of a process, which is the only place that has such mappings.
import { addVirt, assert, cpu, NULL, PAGE_SIZE, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { ephmapInUse, isEphmapAddress } from "../mm/ephmap.ts";
import { GFP_HIGHUSER_MOVABLE } from "../mm/gfp.ts";
import { kmapLocalPage, kunmapLocal } from "../mm/kmap.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { allocPages, freePages } from "../mm/page-alloc.ts";
import { type PagePtr, pageAddress } from "../mm/page-struct.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { EXIT_REQUESTED } from "../trace.ts";
import { isMappedIn } from "./asi-map.ts";
import { ASI_CLASS_USERSPACE, Asi } from "./asi-struct.ts";
import { asiEnter, asiExit, asiIsRestricted, asiRelax } from "./asi-transition.ts";
import type { KunitCase, KunitContext } from "./kunit.ts";

const OPTIONS = "cordon.ephmap=on";

interface Situation {
  readonly mm: MmPtr;
  readonly domain: Ptr<"asi">;
  /** Sensitive pages; page i begins with the word i + 1 and ends with i + 101. */
  readonly pages: readonly PagePtr[];
}

/** Runs `body` while the CPU rests in a process's domain; what `body` touches of the pages by their direct-map addresses would leave it. */
function inProcess(pageCount: number, body: (situation: Situation) => void): void {
  const mm = mmAlloc();
  assert(mm !== NULL, () => "no memory for the test's mm");
  kthreadUseMm(mm);
  const pages: PagePtr[] = [];
  for (let i = 0; i < pageCount; i++) {
    const page = allocPages(GFP_HIGHUSER_MOVABLE, 0);
    assert(page !== NULL, () => "no memory for the test's page");
    cpu.storeWord(pageAddress(page), i + 1);
    cpu.storeWord(addVirt(pageAddress(page), PAGE_SIZE - 8), i + 101);
    pages.push(page);
  }
  const domain = Mm.at(mm).asi.address(ASI_CLASS_USERSPACE) as Ptr<"asi">; // an element of that array
  asiEnter(domain);
  asiRelax();
  body({ mm, domain, pages });
  asiExit(EXIT_REQUESTED);
  for (const page of pages) freePages(page, 0);
  kthreadUnuseMm();
  mmput(mm);
}

/** A mapping shows its page, for reading and writing, and is gone afterwards. */
function testBasicAlloc({ expect }: KunitContext): void {
  inProcess(1, ({ mm, domain, pages }) => {
    for (const page of pages) {
      const at = kmapLocalPage(page);
      expect(isEphmapAddress(at), "an ephemeral address");
      expect(isMappedIn(Mm.at(mm).pgd, at) && isMappedIn(Asi.at(domain).pgd, at), "mapped in both address spaces");
      expect(cpu.loadWord(at) === 1, "it shows the page");
      cpu.storeWord(addVirt(at, 8), 77);
      kunmapLocal(at);
      expect(asiIsRestricted(), "none of this left the restricted address space");
      expect(!isMappedIn(Mm.at(mm).pgd, at) && !isMappedIn(Asi.at(domain).pgd, at), "gone from both");
      expect(cpu.loadWord(addVirt(pageAddress(page), 8)) === 77, "what was written is in the page");
    }
  });
}

/** All of the page is mapped and nothing beside it. */
function testSize({ expect }: KunitContext): void {
  inProcess(1, ({ domain, pages }) => {
    for (const page of pages) {
      const at = kmapLocalPage(page);
      expect(cpu.loadWord(at) === 1 && cpu.loadWord(addVirt(at, PAGE_SIZE - 8)) === 101, "the first and the last word");
      expect(!isMappedIn(Asi.at(domain).pgd, addVirt(at, PAGE_SIZE)), "nothing behind it");
      kunmapLocal(addVirt(at, PAGE_SIZE - 8));
      expect(!isMappedIn(Asi.at(domain).pgd, at), "any address within the page gives it back");
    }
  });
}

/** Several at once are disjoint; each goes alone. When the slots are used up the direct map serves. */
function testMultipleAllocs({ expect }: KunitContext): void {
  inProcess(4, ({ mm, pages }) => {
    const mapped: VirtAddr[] = pages.map((page) => kmapLocalPage(page));
    expect(new Set(mapped).size === pages.length && mapped.every(isEphmapAddress), "disjoint");
    for (const [i, at] of mapped.entries()) expect(cpu.loadWord(at) === i + 1, `mapping ${i} shows its page`);
    expect(ephmapInUse(mm) === pages.length, "all are in use");
    for (const [i, at] of mapped.entries()) {
      kunmapLocal(at);
      for (const [j, other] of mapped.entries()) if (j > i) expect(cpu.loadWord(other) === j + 1, `mapping ${j} after ${i} went`);
    }
    expect(ephmapInUse(mm) === 0 && asiIsRestricted(), "none is left, restricted throughout");
  });
}

/** An address that was given back and out again shows the new page: no TLB knows the old one. */
function testTlbFlushed({ expect }: KunitContext): void {
  inProcess(3, ({ pages }) => {
    const seen = new Set<VirtAddr>();
    for (const [i, page] of pages.entries()) {
      const at = kmapLocalPage(page);
      seen.add(at);
      expect(cpu.loadWord(at) === i + 1, `page ${i}, not the one before it`);
      kunmapLocal(at);
    }
    expect(seen.size === 1 && asiIsRestricted(), "the same address each time, restricted throughout");
  });
}

export const kunitMermapCases: readonly KunitCase[] = [
  { name: "test_basic_alloc", run: testBasicAlloc, options: OPTIONS },
  { name: "test_size", run: testSize, options: OPTIONS },
  { name: "test_multiple_allocs", run: testMultipleAllocs, options: OPTIONS },
  { name: "test_tlb_flushed", run: testTlbFlushed, options: OPTIONS },
];
