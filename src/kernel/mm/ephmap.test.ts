// Ephemeral mappings (option ephmap; spec 8, 8), on all machines: a task in the restricted address space of its process.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { isErr } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PTE_PRESENT, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { asiDestroy, asiInit } from "../asi/asi-domain.ts";
import { ASI_CLASS_KVM, ASI_CLASS_USERSPACE, Asi } from "../asi/asi-struct.ts";
import { asiEnter, asiExit, asiIsRestricted, asiRelax } from "../asi/asi-transition.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { EXIT_PAGE_FAULT, EXIT_REQUESTED, TRACE_ASI_EXIT, TRACE_WARN } from "../trace.ts";
import { ephmapInUse, isEphmapAddress } from "./ephmap.ts";
import { FAIL_FROM_THEN_ON, failAlloc } from "./fail-alloc.ts";
import { __GFP_ZERO, GFP_HIGHUSER_MOVABLE } from "./gfp.ts";
import { copyHighpage, kmapLocalPage, kunmapLocal } from "./kmap.ts";
import { EPHMAP_BASE, va } from "./layout.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { allocPages, drainAllFrees, freePages, nrFreePages } from "./page-alloc.ts";
import { type PagePtr, pageAddress } from "./page-struct.ts";
import { entryAt } from "./page-table.ts";

interface Situation {
  readonly mm: MmPtr;
  readonly domain: Ptr<"asi">;
  /** Goes to the restricted address space; the CPU stays there, relaxed. */
  readonly enter: () => void;
  readonly faults: () => number;
}

function inProcess(machine: MachineName, options: string, body: (situation: Situation) => void): void {
  const events: TraceRecord[] = [];
  let hasRun = false;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      const mm = mmAlloc();
      assert.notEqual(mm, NULL);
      kthreadUseMm(mm);
      const domain = Mm.at(mm).asi.address(ASI_CLASS_USERSPACE) as Ptr<"asi">;
      body({
        mm,
        domain,
        enter: () => {
          asiEnter(domain);
          asiRelax();
          assert.equal(asiIsRestricted(), true);
        },
        faults: () => events.filter(([event, reason]) => event === TRACE_ASI_EXIT && reason === EXIT_PAGE_FAULT).length,
      });
      asiExit(EXIT_REQUESTED);
      kthreadUnuseMm();
      mmput(mm);
      hasRun = true;
    },
  });
  runKernel(machine, image, { commandLine: `asi=on ${options}`, events });
  assert.ok(hasRun);
  assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
}

/** A page of a process that holds `value`. */
function secretPage(value: number): PagePtr {
  const page = allocPages(GFP_HIGHUSER_MOVABLE, 0);
  cpu.storeWord(pageAddress(page), value);
  return page;
}

const rootEntry = (asi: Ptr<"asi">): number => cpu.load64(entryAt(va(Asi.at(asi).pgd), EPHMAP_BASE, 4)) & PTE_PRESENT;

for (const machine of MACHINES) {
  for (const options of ["cordon.ephmap=on", "cordon.ephmap=on cordon.noflush=on"]) {
    test(`pages are read, written and copied without an exit, and a slot never shows the page before it (${options}; ${machine})`, () => {
      inProcess(machine, options, ({ mm, enter, faults }) => {
        const pages = [secretPage(11), secretPage(22), secretPage(33)] as const;
        enter();
        const first = kmapLocalPage(pages[0]);
        const second = kmapLocalPage(pages[1]);
        assert.ok(isEphmapAddress(first) && isEphmapAddress(second) && first !== second);
        assert.deepEqual([cpu.loadWord(first), cpu.loadWord(second)], [11, 22]);
        cpu.storeWord(addVirt(first, 8), 44);
        kunmapLocal(second);
        kunmapLocal(first);
        copyHighpage(pages[2], pages[0]);
        assert.deepEqual([asiIsRestricted(), faults(), ephmapInUse(mm)], [true, 0, 0]);
        const again = kmapLocalPage(pages[1]);
        assert.equal(again, first);
        assert.equal(cpu.loadWord(again), 22);
        // In the middle of the use something leaves: the address is good in the unrestricted tables too.
        asiExit(EXIT_REQUESTED);
        assert.equal(cpu.loadWord(again), 22);
        kunmapLocal(again);
        for (const [page, value] of [
          [pages[0], 11],
          [pages[1], 22],
        ] as const) {
          enter();
          const at = kmapLocalPage(page);
          assert.equal(at, first);
          assert.equal(cpu.loadWord(at), value);
          kunmapLocal(at);
          asiExit(EXIT_REQUESTED);
        }
        assert.deepEqual([cpu.loadWord(addVirt(pageAddress(pages[0]), 8)), cpu.loadWord(pageAddress(pages[2]))], [44, 11]);
        for (const page of pages) freePages(page, 0);
      });
    });
  }
}

test("the slots are in the address spaces of that process alone: no other's, and no guest's, whose class goes on by the direct map", () => {
  inProcess("residue", "cordon.ephmap=on", ({ mm, domain, enter }) => {
    const page = secretPage(5);
    const other = mmAlloc();
    const guest = asiInit(mm, ASI_CLASS_KVM);
    assert.ok(!isErr(guest) && other !== NULL);
    enter();
    kunmapLocal(kmapLocalPage(page));
    asiExit(EXIT_REQUESTED);
    const others = Mm.at(other).asi.address(ASI_CLASS_USERSPACE) as Ptr<"asi">;
    assert.deepEqual([rootEntry(domain), rootEntry(others), rootEntry(guest as Ptr<"asi">)], [1, 0, 0]);
    asiEnter(guest as Ptr<"asi">);
    asiRelax();
    assert.equal(kmapLocalPage(page), pageAddress(page));
    asiExit(EXIT_REQUESTED);
    assert.equal(kmapLocalPage(page), pageAddress(page), "unrestricted: nothing to save");
    asiDestroy(guest as Ptr<"asi">);
    mmput(other);
    freePages(page, 0);
  });
});

test("a page for a process needs no clearing in the restricted address space: it was cleared when it was freed", () => {
  for (const [option, exits] of [
    ["on", 0],
    ["off", 1],
  ] as const) {
    inProcess("residue", `cordon.ephmap=${option}`, ({ enter, faults }) => {
      const before = secretPage(7);
      freePages(before, 0);
      enter();
      const page = allocPages(GFP_HIGHUSER_MOVABLE | __GFP_ZERO, 0);
      assert.deepEqual([page, faults()], [before, exits]);
      asiExit(EXIT_REQUESTED);
      assert.equal(cpu.loadWord(pageAddress(page)), 0);
      freePages(page, 0);
    });
  }
});

test("without memory for the tables the direct map is used, and what was made is freed with the mm (S9)", () => {
  inProcess("residue", "cordon.ephmap=on", () => {
    const page = secretPage(9);
    /** Frames that are free after a process's first mapping with the nth allocation, and all behind it, failing. */
    const framesAfter = (nth: number): number => {
      const fresh = mmAlloc();
      kthreadUnuseMm();
      kthreadUseMm(fresh);
      asiEnter(Mm.at(fresh).asi.address(ASI_CLASS_USERSPACE) as Ptr<"asi">);
      asiRelax();
      failAlloc.arm(nth, FAIL_FROM_THEN_ON);
      const at: VirtAddr = kmapLocalPage(page);
      failAlloc.disarm();
      assert.equal(at === pageAddress(page), nth <= 3, "three tables");
      kunmapLocal(at);
      asiExit(EXIT_REQUESTED);
      kthreadUnuseMm();
      mmput(fresh);
      kthreadUseMm(mmAlloc()); // for the next round, and for the end of the fixture
      drainAllFrees();
      return nrFreePages();
    };
    // Each round leaves an mm: what one costs is what two rounds without a failure differ by.
    framesAfter(4);
    const cost = framesAfter(4) - framesAfter(4);
    for (let nth = 1; nth <= 3; nth++) {
      const before = framesAfter(4);
      assert.equal(before - framesAfter(nth), cost, `attempt ${nth}`);
    }
  });
});
