// Restricted mappings and the TLB, and what is done when two CPUs make the same table.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { withMm } from "../../../test/mm-fixture.ts";
import { isErr } from "../../abi/index.ts";
import { cpu, entryHigh, entryLow, NULL, PAGE_SIZE, type PhysAddr, type Ptr } from "../../hardware/index.ts";
import { __GFP_ZERO, GFP_KERNEL } from "../mm/gfp.ts";
import { VMALLOC_START, va } from "../mm/layout.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { allocPages, freePages, nrFreePages } from "../mm/page-alloc.ts";
import { pageToPhys } from "../mm/page-struct.ts";
import { entryAlloc, entryAt, KERNPG_TABLE } from "../mm/page-table.ts";
import { vfree, vmMapRam } from "../mm/vmalloc.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { EXIT_REQUESTED } from "../trace.ts";
import { asiDestroy, asiInit } from "./asi-domain.ts";
import { asiMap, asiUnmap } from "./asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "./asi-state.ts";
import { ASI_CLASS_KVM } from "./asi-struct.ts";
import { asiEnter, asiExit, asiIsRestricted, asiRelax } from "./asi-transition.ts";

test("asi_unmap(): a CPU that rests in a domain has no translation of the range when it returns (patch 11; S8)", () => {
  inKernel(() => {
    const mm = mmAlloc();
    kthreadUseMm(mm);
    const domain = asiInit(mm, ASI_CLASS_KVM);
    assert.ok(!isErr(domain));
    const page = allocPages(GFP_KERNEL, 0);
    const address = vmMapRam([page]);
    assert.notEqual(address, NULL);
    assert.equal(asiMap(ASI_GLOBAL_NONSENSITIVE, address, PAGE_SIZE), 0);
    asiEnter(domain as Ptr<"asi">); // not an error
    asiRelax();
    cpu.loadWord(address);
    assert.equal(asiIsRestricted(), true, "mapped: no exit");
    asiUnmap(ASI_GLOBAL_NONSENSITIVE, address, PAGE_SIZE);
    assert.equal(asiIsRestricted(), true);
    cpu.loadWord(address);
    assert.equal(asiIsRestricted(), false, "a fault, which leaves");
    asiExit(EXIT_REQUESTED);
    vfree(address);
    freePages(page, 0);
    asiDestroy(domain as Ptr<"asi">);
    kthreadUnuseMm();
    mmput(mm);
  });
});

test("of two CPUs that make the same table the loser frees its page and goes on with the winner's (patch 9; S9)", () => {
  withMm(() => {
    const newTable = (): PhysAddr => pageToPhys(allocPages(GFP_KERNEL | __GFP_ZERO, 0));
    const root = newTable();
    const winner = newTable();
    const entry = entryAt(va(root), VMALLOC_START, 4);
    const before = nrFreePages();
    const freed: PhysAddr[] = [];
    const allocate = (): PhysAddr => {
      const table = newTable();
      // The other CPU, between our look at the entry and our write to it.
      cpu.store64(entry, entryLow(winner, KERNPG_TABLE), entryHigh(winner, 0));
      return table;
    };
    const found = entryAlloc(root, VMALLOC_START, 3, KERNPG_TABLE, allocate, (table) => {
      freed.push(table);
      freePages(va(table), 0);
    });
    assert.equal(found, entryAt(va(winner), VMALLOC_START, 3));
    assert.equal(cpu.load64(entry), entryLow(winner, KERNPG_TABLE));
    assert.deepEqual([freed.length, nrFreePages()], [1, before]);
  });
});
