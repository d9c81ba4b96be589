import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { addVirt, cpu, NULL, PER_CPU_STATIC_BYTES, PTE_NX_HIGH, PTE_WRITE, type VirtAddr } from "../../hardware/index.ts";
import { isMappedIn } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "../asi/asi-state.ts";
import { Asi } from "../asi/asi-struct.ts";
import { GFP_ATOMIC, GFP_USER } from "./gfp.ts";
import { MODULES_VADDR, VMALLOC_START } from "./layout.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { allocPages, drainAllFrees, freePages, nrFreePages } from "./page-alloc.ts";
import { Page, PG_SENSITIVE, pageAddress, physToPage } from "./page-struct.ts";
import { frameOf, isPresent, lookupAddress } from "./page-table.ts";
import { allocPercpu, freePercpu, nrCpuIds, perCpuBase } from "./percpu.ts";
import { moduleAlloc, moduleEnableRox, moduleFree, vfree, vmalloc, vmap, vmMapRam } from "./vmalloc.ts";
import { LAZY_MAX_PAGES, lazyVmapPages, purgeVmapAreas, VM_SENSITIVE } from "./vmap-area.ts";

const PAGE = 4096;
const restricted = (address: VirtAddr): boolean => isMappedIn(Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd, address);
const unrestricted = (address: VirtAddr): boolean => isPresent(lookupAddress(Mm.at(initMm).pgd, address));

test("areas are handed out upwards, each with a page behind it that is not mapped, and a gap is used again", () => {
  withMm(() => {
    const first = vmalloc(3 * PAGE);
    const second = vmalloc(PAGE);
    assert.equal(first, VMALLOC_START);
    assert.equal(second, VMALLOC_START + 4 * PAGE);
    assert.equal(unrestricted(addVirt(first, 3 * PAGE)), false);
    cpu.storeWord(addVirt(first, 3 * PAGE - 8), 9);
    const before = nrFreePages();
    vfree(first);
    assert.equal(unrestricted(first), false);
    assert.deepEqual([nrFreePages(), lazyVmapPages()], [before, 3], "no flush yet: the frames are not free");
    const third = vmalloc(2 * PAGE);
    assert.equal(third, addVirt(second, 2 * PAGE), "nor are the addresses");
    purgeVmapAreas();
    assert.deepEqual([nrFreePages(), lazyVmapPages()], [before + 1, 0]);
    assert.equal(vmalloc(2 * PAGE), first);
    assert.equal(cpu.loadWord(addVirt(first, 2 * PAGE - 8)), 0);
  });
});

test("vmalloc memory is nonsensitive by its own address, and its frames stay out of the restricted direct map (spec 2.14, P17)", () => {
  withMm(
    () => {
      const address = vmalloc(2 * PAGE);
      assert.equal(restricted(address), true);
      assert.equal(restricted(addVirt(address, PAGE)), true);
      const page = physToPage(frameOf(lookupAddress(Mm.at(initMm).pgd, address)));
      assert.equal(restricted(pageAddress(page)), false);
      vfree(address);
      assert.equal(restricted(address), false);
    },
    { asi: true },
  );
});

test("with VM_SENSITIVE neither the alias nor the frames are nonsensitive (the flag that patch 17 describes)", () => {
  withMm(
    () => {
      const address = vmalloc(PAGE, VM_SENSITIVE);
      const page = physToPage(frameOf(lookupAddress(Mm.at(initMm).pgd, address)));
      assert.deepEqual([unrestricted(address), restricted(address), restricted(pageAddress(page))], [true, false, false]);
      assert.notEqual(Page.at(page).flags & PG_SENSITIVE, 0);
      const [nonsensitive, sensitive] = [vmap([page]), vmap([page], VM_SENSITIVE)];
      assert.deepEqual([restricted(nonsensitive), restricted(sensitive)], [true, false]);
    },
    { asi: true },
  );
});

test("freed areas are flushed together once enough of them wait, and before an allocation fails", () => {
  withMm(
    () => {
      const areas = Array.from({ length: LAZY_MAX_PAGES + 1 }, () => vmalloc(PAGE));
      for (const area of areas.slice(0, -1)) vfree(area);
      assert.equal(lazyVmapPages(), LAZY_MAX_PAGES);
      const [first] = areas;
      assert.equal(restricted(first ?? NULL), false, "gone from the tables at once");
      while (allocPages(GFP_ATOMIC | GFP_USER, 0) !== NULL && lazyVmapPages() > 0);
      assert.equal(lazyVmapPages(), 0, "memory was short");
    },
    { asi: true },
  );
});

test("vunmap() has flushed when it returns: the frames are the caller's", () => {
  withMm(() => {
    const page = allocPages(GFP_USER, 0);
    const address = vmap([page]);
    cpu.storeWord(address, 1); // the TLB has it
    vfree(address);
    assert.equal(lazyVmapPages(), 0);
    assert.throws(() => cpu.loadWord(address));
    assert.equal(vmap([page]), address);
  });
});

test("a module's text lies within reach of the kernel's, is nonsensitive, executable and writable nowhere; freeing it resets the rights", () => {
  withMm(
    () => {
      const text = moduleAlloc(2 * PAGE);
      assert.equal(text, MODULES_VADDR);
      cpu.storeWord(text, 0xc3);
      assert.equal(moduleEnableRox(text, 2 * PAGE), 0);
      const page = physToPage(frameOf(lookupAddress(Mm.at(initMm).pgd, text)));
      for (const root of [Mm.at(initMm).pgd, Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd]) {
        const { low, high } = lookupAddress(root, text);
        assert.deepEqual([low & PTE_WRITE, high & PTE_NX_HIGH], [0, 0]);
      }
      const direct = (): number => lookupAddress(Mm.at(initMm).pgd, pageAddress(page)).low & PTE_WRITE;
      assert.equal(direct(), 0);
      moduleFree(text);
      assert.equal(direct(), PTE_WRITE);
      drainAllFrees();
      assert.deepEqual([unrestricted(text), restricted(text)], [false, false]);
      freePages(allocPages(GFP_USER, 0), 0);
    },
    { asi: true },
  );
});

test("vm_map_ram() maps pages in the unrestricted address space alone, vmap() in both (spec 2.14)", () => {
  withMm(
    () => {
      const pages = [allocPages(GFP_USER, 0), allocPages(GFP_USER, 0)];
      const ram = vmMapRam(pages);
      const mapped = vmap(pages);
      assert.deepEqual([unrestricted(ram), restricted(ram)], [true, false]);
      assert.deepEqual([unrestricted(mapped), restricted(mapped)], [true, true]);
      cpu.storeWord(addVirt(ram, PAGE), 5);
      assert.equal(cpu.loadWord(addVirt(mapped, PAGE)), 5);
      const before = nrFreePages();
      vfree(ram);
      vfree(mapped);
      assert.ok(nrFreePages() <= before, "the frames are the caller's");
    },
    { asi: true },
  );
});

test("test_percpu_alloc: static and dynamic per-CPU memory is present in both address spaces (spec 4)", () => {
  withMm(
    () => {
      const offset = allocPercpu(2 * PAGE);
      assert.ok(offset >= PER_CPU_STATIC_BYTES);
      for (let id = 0; id < nrCpuIds(); id++) {
        for (const at of [0, PER_CPU_STATIC_BYTES - 8, offset, offset + 2 * PAGE - 8]) {
          assert.equal(unrestricted(addVirt(perCpuBase(id), at)), true);
          assert.equal(restricted(addVirt(perCpuBase(id), at)), true);
        }
      }
    },
    { asi: true },
  );
});

test("dynamic per-CPU memory is given lowest first, and cleared when it is freed", () => {
  withMm(() => {
    const first = allocPercpu(100);
    const second = allocPercpu(64);
    assert.equal(second, first + 128);
    cpu.storeWord(addVirt(perCpuBase(0), first), 3);
    freePercpu(first);
    assert.equal(allocPercpu(65), first);
    assert.equal(cpu.loadWord(addVirt(perCpuBase(0), first)), 0);
    freePercpu(first);
    freePercpu(second);
    assert.equal(allocPercpu(49152), first);
    freePercpu(first);
    assert.throws(() => freePercpu(first), /not allocated/);
  });
});

test("per-CPU memory that the boot chunk has no room for comes from a chunk behind it, nonsensitive, and leaves with the last object (P18)", () => {
  withMm(
    () => {
      const all = allocPercpu(49152);
      const before = nrFreePages();
      const offset = allocPercpu(2 * PAGE);
      const other = allocPercpu(100);
      assert.equal(other, offset + 2 * PAGE);
      const base = perCpuBase(0);
      for (const at of [0, 2 * PAGE - 8, 2 * PAGE]) {
        const address = addVirt(base, offset + at);
        assert.deepEqual([unrestricted(address), restricted(address)], [true, true]);
        assert.equal(cpu.loadWord(address), 0);
        cpu.storeWord(address, 9);
      }
      assert.equal(unrestricted(addVirt(base, offset + 3 * PAGE)), false, "pages that nobody asked for are not there");
      freePercpu(offset);
      assert.equal(cpu.loadWord(addVirt(base, other)), 9);
      freePercpu(other);
      assert.deepEqual([unrestricted(addVirt(base, offset)), restricted(addVirt(base, offset))], [false, false]);
      drainAllFrees();
      // The tables that mapped it stay: one of each kind in both address spaces, mapped themselves; and a slab for the chunk's record.
      assert.ok(before - nrFreePages() <= 6, `${before - nrFreePages()} frames`);
      freePercpu(all);
      assert.equal(allocPercpu(65537), 0, "more than a unit");
    },
    { asi: true },
  );
});

test("vmalloc() that runs out of memory takes nothing", () => {
  withMm(() => {
    vfree(vmalloc(PAGE)); // its tables exist
    drainAllFrees();
    const before = nrFreePages();
    assert.equal(vmalloc((before + 1) * PAGE), NULL);
    assert.ok(before - nrFreePages() < 40, "tables of the vmalloc area stay");
    assert.equal(vmalloc(PAGE), VMALLOC_START);
  });
});
