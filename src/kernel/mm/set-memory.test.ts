import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { EFAULT, ENOMEM } from "../../abi/index.ts";
import { addVirt, cpu, PAGE_SIZE, type PhysAddr, PTE_NX_HIGH, PTE_PRESENT, PTE_WRITE, type VirtAddr } from "../../hardware/index.ts";
import { asiMap, asiUnmap, isMappedIn } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "../asi/asi-state.ts";
import { Asi } from "../asi/asi-struct.ts";
import { KERNEL_DATA_BASE, KERNEL_DATA_PHYSICAL } from "../static-data.ts";
import { failAlloc } from "./fail-alloc.ts";
import { GFP_KERNEL, GFP_USER } from "./gfp.ts";
import { VMALLOC_START, va } from "./layout.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { allocPages, asiAsyncFreeWork, freePages, nrFreePages } from "./page-alloc.ts";
import { pageAddress } from "./page-struct.ts";
import { isPresent, lookupAddress, type Translation } from "./page-table.ts";
import { setMemory4k, setMemoryNp, setMemoryNx, setMemoryP, setMemoryRo, setMemoryRw, setMemoryX } from "./set-memory.ts";
import { vfree, vmap } from "./vmalloc.ts";

const unrestricted = (address: VirtAddr): Translation => lookupAddress(Mm.at(initMm).pgd, address);
const restricted = (address: VirtAddr): Translation => lookupAddress(Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd, address);
const isWritable = ({ low }: Translation): boolean => (low & PTE_WRITE) !== 0;
const isNx = ({ high }: Translation): boolean => (high & PTE_NX_HIGH) !== 0;

test("a part of a large page is split off with the rights it had; its neighbours keep theirs, and the rights are enforced at once (S8)", () => {
  withMm(
    () => {
      const address = pageAddress(allocPages(GFP_KERNEL, 0));
      const neighbour = addVirt(address, PAGE_SIZE);
      cpu.storeWord(address, 1); // the TLB has it, by the large entry
      assert.equal(unrestricted(address).level, 2);
      assert.equal(setMemoryRo(address, 1), 0);
      assert.deepEqual(
        [unrestricted(address).level, isWritable(unrestricted(address)), isWritable(restricted(address))],
        [1, false, false],
      );
      assert.deepEqual([unrestricted(neighbour).level, isWritable(unrestricted(neighbour))], [1, true]);
      assert.throws(() => cpu.storeWord(address, 2));
    },
    { asi: true },
  );
});

test("set_memory_np() leaves an entry that names no frame that exists (L1TF), gone from the restricted tables; set_memory_p() undoes it", () => {
  withMm(
    () => {
      const plain = pageAddress(allocPages(GFP_KERNEL, 0));
      const secret = pageAddress(allocPages(GFP_USER, 0));
      cpu.storeWord(plain, 77);
      for (const address of [plain, secret]) {
        assert.equal(setMemoryNp(address, 1), 0);
        const { low, high } = unrestricted(address);
        assert.equal(low & PTE_PRESENT, 0);
        assert.ok((high & 0xfffff) * 2 ** 32 + (low & 0xfffff000) > 2 ** 51, "beyond any memory");
        assert.deepEqual([restricted(address).low, restricted(address).high], [0, 0]);
        assert.throws(() => cpu.loadWord(address));
        assert.equal(setMemoryP(address, 1), 0);
      }
      assert.equal(cpu.loadWord(plain), 77);
      assert.deepEqual([isPresent(restricted(plain)), isPresent(restricted(secret))], [true, false]);
    },
    { asi: true },
  );
});

test("rights to write are those of every alias of the frame, rights to execute each address's own", () => {
  withMm(
    () => {
      const page = allocPages(GFP_KERNEL, 0);
      const direct = pageAddress(page);
      const alias = vmap([page]);
      assert.equal(setMemoryX(alias, 1), 0);
      assert.deepEqual([isNx(unrestricted(alias)), isNx(restricted(alias)), isNx(unrestricted(direct))], [false, false, true]);
      assert.equal(setMemoryNx(alias, 1), 0);
      assert.deepEqual([isNx(unrestricted(alias)), isNx(restricted(alias))], [true, true]);
      assert.equal(setMemoryRo(alias, 1), 0);
      assert.equal(isWritable(unrestricted(direct)), false);
      assert.equal(setMemoryRw(alias, 1), 0);
      assert.equal(isWritable(unrestricted(direct)), true);
      vfree(alias);
      // The direct map's alias of the kernel image. Page 300 of the data section holds nothing that this test writes.
      const image = addVirt(KERNEL_DATA_BASE, 300 * PAGE_SIZE);
      assert.equal(setMemoryRo(va((KERNEL_DATA_PHYSICAL + 300 * PAGE_SIZE) as PhysAddr), 1), 0);
      assert.deepEqual([isWritable(unrestricted(image)), isWritable(restricted(image))], [false, false]);
      assert.equal(isWritable(unrestricted(addVirt(image, PAGE_SIZE))), true);
    },
    { asi: true },
  );
});

test("a part of a large restricted leaf can be unmapped: exactly that part goes (spec 2.10, partial unmap)", () => {
  withMm(
    () => {
      const image = addVirt(KERNEL_DATA_BASE, 200 * PAGE_SIZE);
      assert.equal(restricted(image).level, 2);
      asiUnmap(ASI_GLOBAL_NONSENSITIVE, image, 2 * PAGE_SIZE);
      const mapped = [-1, 0, 1, 2].map((i) => isPresent(restricted(addVirt(image, i * PAGE_SIZE))));
      assert.deepEqual(mapped, [true, false, false, true]);
      assert.equal(unrestricted(image).level, 2);
      assert.equal(asiMap(ASI_GLOBAL_NONSENSITIVE, image, 2 * PAGE_SIZE), 0);
      assert.equal(isPresent(restricted(image)), true);
    },
    { asi: true },
  );
});

test("where there is no memory to split a restricted leaf, all of it is unmapped: that costs exits, and reaches nothing it must not", () => {
  withMm(
    () => {
      const image = addVirt(KERNEL_DATA_BASE, 200 * PAGE_SIZE);
      failAlloc.arm(1);
      asiUnmap(ASI_GLOBAL_NONSENSITIVE, image, PAGE_SIZE);
      assert.equal(failAlloc.failed(), 1);
      assert.equal(isMappedIn(Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd, KERNEL_DATA_BASE), false);
    },
    { asi: true },
  );
});

test("without memory to split nothing changes, and what is not mapped has no rights to change (S9)", () => {
  withMm(
    () => {
      const page = allocPages(GFP_KERNEL, 0);
      const before = nrFreePages();
      failAlloc.arm(1);
      assert.equal(setMemoryRo(pageAddress(page), 1), ENOMEM);
      assert.equal(isWritable(unrestricted(pageAddress(page))), true);
      assert.equal(nrFreePages(), before);
      assert.equal(setMemoryRo(addVirt(VMALLOC_START, 64 * PAGE_SIZE), 1), EFAULT);
      assert.equal(setMemory4k(pageAddress(page), 1), 0);
      freePages(page, 0);
      asiAsyncFreeWork();
      // The table that the direct map was split with stays, and the one that maps it restricted.
      assert.ok(nrFreePages() <= before);
    },
    { asi: true },
  );
});

test("the same holds without address space isolation", () => {
  withMm(() => {
    const address = pageAddress(allocPages(GFP_KERNEL, 0));
    assert.equal(setMemoryRo(address, 1), 0);
    assert.throws(() => cpu.storeWord(address, 2));
    assert.equal(setMemoryRw(address, 1), 0);
    cpu.storeWord(address, 2);
    assert.equal(cpu.loadWord(address), 2);
  });
});
