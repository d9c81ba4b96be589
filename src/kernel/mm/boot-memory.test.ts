import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { addVirt, CR4_PCIDE, cpu, type PhysAddr, PTE_NX_HIGH, PTE_WRITE, type VirtAddr } from "../../hardware/index.ts";
import { KERNEL_DATA_BASE, KERNEL_DATA_BYTES, KERNEL_TEXT_BASE } from "../static-data.ts";
import { KERNEL_TEXT_BYTES } from "./boot-memory.ts";
import { GFP_HIGHUSER_MOVABLE } from "./gfp.ts";
import { pa, VMEMMAP_START, va } from "./layout.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { allocPages } from "./page-alloc.ts";
import { pageToPfn } from "./page-struct.ts";
import { isPresent, lookupAddress, translate } from "./page-table.ts";

interface Leaf {
  readonly level: number;
  readonly writable: boolean;
  readonly executable: boolean;
  readonly frame: number;
}

function leaf(address: VirtAddr): Leaf | undefined {
  const found = lookupAddress(Mm.at(initMm).pgd, address);
  if (!isPresent(found)) return undefined;
  const { level, low, high } = found;
  return { level, writable: (low & PTE_WRITE) !== 0, executable: (high & PTE_NX_HIGH) === 0, frame: translate(found, address) };
}

const MIB = 2 ** 20;

test("text is executable and not writable, data and the direct map are the opposite, all in 2 MiB pages", () => {
  withMm(() => {
    const rx = { level: 2, writable: false, executable: true };
    const rw = { level: 2, writable: true, executable: false };
    assert.deepEqual(leaf(addVirt(KERNEL_TEXT_BASE, 0x1234)), { ...rx, frame: 16 * MIB + 0x1234 });
    assert.equal(leaf(addVirt(KERNEL_TEXT_BASE, KERNEL_TEXT_BYTES)), undefined);
    assert.deepEqual(leaf(addVirt(KERNEL_DATA_BASE, 8)), { ...rw, frame: 32 * MIB + 8 });
    assert.equal(leaf(addVirt(KERNEL_DATA_BASE, KERNEL_DATA_BYTES)), undefined);
    assert.deepEqual(leaf(va((50 * MIB + 5) as PhysAddr)), { ...rw, frame: 50 * MIB + 5 });
    assert.equal(leaf(VMEMMAP_START)?.level, 2);
    assert.equal(leaf(0 as VirtAddr), undefined, "nothing of the early tables is left");
    assert.notEqual(cpu.readCr4() & CR4_PCIDE, 0);
  });
});

test("memory that ends inside 2 MiB is mapped to its end in 4 KiB pages, and no further", () => {
  withMm(
    () => {
      assert.equal(leaf(va((65 * MIB + 8191) as PhysAddr))?.level, 1);
      assert.equal(leaf(va((65 * MIB + 8192) as PhysAddr)), undefined);
      assert.equal(leaf(va((64 * MIB - 1) as PhysAddr))?.level, 2);
    },
    { memoryBytes: 65 * MIB + 8192 },
  );
});

test("__pa() of the direct map, text and data is what the tables say", () => {
  withMm(() => {
    for (const address of [va(12345 as PhysAddr), addVirt(KERNEL_TEXT_BASE, 77), addVirt(KERNEL_DATA_BASE, 99)]) {
      assert.equal(pa(address), leaf(address)?.frame);
    }
  });
});

test("firmware's memory, the image and the page array are never handed out", () => {
  withMm(() => {
    const array = lookupAddress(Mm.at(initMm).pgd, VMEMMAP_START);
    const first = translate(array, VMEMMAP_START);
    for (let page = allocPages(GFP_HIGHUSER_MOVABLE, 0); page !== 0; page = allocPages(GFP_HIGHUSER_MOVABLE, 0)) {
      const at = pageToPfn(page) * 4096;
      // The image's sections: text at 16 MiB, data at 32 MiB, of 2 MiB each.
      const isImage = (at >= 16 * MIB && at < 18 * MIB) || (at >= 32 * MIB && at < 34 * MIB);
      assert.ok(at >= MIB && !isImage && (at < first || at >= first + 2 * MIB), `${at}`);
    }
  });
});
