// Memory that is left alone at boot (mem=) and added later, at the end of a whole boot on the abstract machine.
import assert from "node:assert/strict";
import { test } from "node:test";
import { EBUSY, EEXIST, EINVAL, ENOMEM } from "../../abi/index.ts";
import { addVirt, cpu, fail, findCpuModel, NULL, PAGE_SIZE, type PhysAddr, silentObserver } from "../../hardware/index.ts";
import { ResidueMachine } from "../../residue/index.ts";
import { isMappedIn } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "../asi/asi-state.ts";
import { ASI_CLASS_USERSPACE, Asi } from "../asi/asi-struct.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { failAlloc } from "./fail-alloc.ts";
import { GFP_KERNEL, GFP_USER } from "./gfp.ts";
import { va } from "./layout.ts";
import { addMemory, offlinePages, onlinePages, removeMemory, SECTION_BYTES } from "./memory-hotplug.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { allocPages, drainAllFrees, freePages, nrFreePages } from "./page-alloc.ts";
import { type PagePtr, pageAddress, pageToPhys } from "./page-struct.ts";

const START = SECTION_BYTES as PhysAddr;

/** Runs `body` at the end of the boot of a machine of 256 MiB, of which mem= allows 128. */
function withLimit(body: () => void): void {
  let hasRun = false;
  const machine = new ResidueMachine({
    model: findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: 2 * SECTION_BYTES,
    cpus: 1,
    image: buildKernelImage({
      preset: "cordon",
      processes: [],
      puppets: new Map(),
      lateInitcall: () => {
        body();
        hasRun = true;
      },
    }),
    commandLine: "asi=on mem=128M",
    observer: silentObserver,
  });
  machine.run(() => hasRun, 200_000);
  assert.ok(hasRun);
}

/** Allocates until a frame of the added section comes. */
function pageBehind(gfp: number): PagePtr {
  for (let order = 10; ; ) {
    const page = allocPages(gfp, order);
    if (page !== NULL && pageToPhys(page) >= START) {
      freePages(page, order);
      drainAllFrees();
      return allocBehind(gfp);
    }
    if (page === NULL) order--;
    assert.ok(order >= 0, "no frame of the section");
  }
}

function allocBehind(gfp: number): PagePtr {
  let page = allocPages(gfp, 0);
  while (page !== NULL && pageToPhys(page) < START) page = allocPages(gfp, 0);
  assert.notEqual(page, NULL);
  return page;
}

test("mem= leaves memory out; adding it maps it, putting it online gives its frames to the allocator, in the restricted map as they are used", () => {
  withLimit(() => {
    const roots = [Mm.at(initMm).pgd, Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd] as const;
    const mm = mmAlloc(); // its domain's root is older than the memory
    assert.equal(isMappedIn(roots[0], va(START)), false);
    assert.equal(onlinePages(START, SECTION_BYTES), EINVAL);
    assert.equal(addMemory((START + PAGE_SIZE) as PhysAddr, SECTION_BYTES), EINVAL);
    assert.equal(addMemory((2 * START) as PhysAddr, SECTION_BYTES), EINVAL, "there is no such memory");
    assert.equal(addMemory(START, SECTION_BYTES), 0);
    assert.equal(addMemory(START, SECTION_BYTES), EEXIST);
    assert.deepEqual([isMappedIn(roots[0], va(START)), isMappedIn(roots[1], va(START))], [true, false]);
    const before = nrFreePages();
    assert.equal(onlinePages(START, SECTION_BYTES), 0);
    assert.equal(nrFreePages(), before + SECTION_BYTES / PAGE_SIZE);
    cpu.storeWord(va(START), 0x5ec4e7); // as if it held somebody's data from before
    const page = pageBehind(GFP_KERNEL);
    const domain = Asi.at(Mm.at(mm).asi.address(ASI_CLASS_USERSPACE) as never).pgd;
    assert.equal(isMappedIn(roots[1], pageAddress(page)), true);
    assert.equal(isMappedIn(domain, pageAddress(page)), true, "a domain that is older");
    assert.equal(cpu.loadWord(pageAddress(page)), 0, "cleared: nobody knew what was in it");
    mmput(mm);
  });
});

test("memory is removed when none of its frames is in use, and no address space maps it any more", () => {
  withLimit(() => {
    const roots = [Mm.at(initMm).pgd, Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd] as const;
    const frames = nrFreePages();
    assert.equal(addMemory(START, SECTION_BYTES), 0);
    assert.equal(onlinePages(START, SECTION_BYTES), 0);
    assert.equal(removeMemory(START, SECTION_BYTES), EBUSY, "online");
    const block = allocPages(GFP_USER, 10);
    const inUse: PagePtr[] = [block];
    for (let page = block; pageToPhys(page) < START; page = inUse.at(-1) ?? NULL) inUse.push(allocPages(GFP_USER, 10));
    assert.equal(offlinePages(START, SECTION_BYTES), EBUSY);
    for (const page of inUse) freePages(page, 10);
    assert.equal(offlinePages(START, SECTION_BYTES), 0);
    assert.equal(removeMemory(START, SECTION_BYTES), 0);
    for (const root of roots) assert.equal(isMappedIn(root, addVirt(va(START), SECTION_BYTES / 2)), false);
    assert.equal(nrFreePages(), frames, "page array and tables are free again");
    assert.equal(addMemory(START, SECTION_BYTES), 0, "and it can come again");
  });
});

test("whichever allocation of adding memory fails, nothing of it is there (S9)", () => {
  withLimit(() => {
    const frames = nrFreePages();
    failAlloc.arm(1);
    assert.equal(addMemory(START, SECTION_BYTES), ENOMEM);
    assert.equal(failAlloc.failed(), 1);
    assert.equal(isMappedIn(Mm.at(initMm).pgd, va(START)), false);
    assert.equal(nrFreePages(), frames);
    assert.equal(addMemory(START, SECTION_BYTES), 0);
  });
});
