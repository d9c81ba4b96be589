// The tables of the user half and their mirror in the restricted address space of a process (spec 2.15; S5, S8).
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PTE_PRESENT, type VirtAddr } from "../../hardware/index.ts";
import { ASI_CLASS_USERSPACE } from "../asi/asi-struct.ts";
import { va } from "./layout.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { doMmap, doMunmap } from "./mmap.ts";
import { entryAt } from "./page-table.ts";
import { handleMmFault } from "./user-memory.ts";

const PAGE = 4096;
/** One root entry below the other. */
const HIGH = 0x7000_0000_0000 as VirtAddr;
const LOW = 0x10000000 as VirtAddr;

function map(mm: MmPtr, address: VirtAddr): void {
  assert.equal(doMmap(mm, address, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), address);
  assert.equal(handleMmFault(mm, address, "write"), 0);
}

/** Addresses of the root entries of `address`: of the mm and of its domain. */
function rootEntries(mm: MmPtr, address: VirtAddr): readonly [own: VirtAddr, restricted: VirtAddr] {
  const view = Mm.at(mm);
  return [entryAt(va(view.pgd), address, 4), entryAt(va(view.asi.get(ASI_CLASS_USERSPACE).pgd), address, 4)];
}

function isPresent(entry: VirtAddr): boolean {
  return (cpu.load64(entry) & PTE_PRESENT) !== 0;
}

test("a root entry is mirrored when the first page below it comes, and the mirror goes first when the last area below it goes (S5)", () => {
  inKernel(() => {
    const mm = mmAlloc();
    map(mm, LOW);
    map(mm, HIGH);
    const [own, restricted] = rootEntries(mm, HIGH);
    assert.equal(cpu.load64(own), cpu.load64(restricted));
    assert.equal(isPresent(own), true);
    const cleared: string[] = [];
    const store = cpu.store64.bind(cpu);
    cpu.store64 = (address, low, high) => {
      if (low === 0 && (address === own || address === restricted)) cleared.push(address === own ? "own" : "restricted");
      store(address, low, high);
    };
    assert.equal(doMunmap(mm, HIGH, PAGE), 0);
    cpu.store64 = store;
    assert.deepEqual(cleared, ["restricted", "own"]);
    assert.deepEqual(rootEntries(mm, LOW).map(isPresent), [true, true], "the other root entry stays");
    mmput(mm);
  });
});

test("one flush for all that an unmapping takes away, and none for what comes (mmu_gather)", () => {
  inKernel(() => {
    const mm = mmAlloc();
    map(mm, LOW);
    const before = Mm.at(mm).context.tlbGen;
    map(mm, addVirt(LOW, PAGE));
    assert.equal(Mm.at(mm).context.tlbGen, before, "nothing is flushed when something comes");
    assert.equal(doMunmap(mm, LOW, 2 * PAGE), 0);
    assert.equal(Mm.at(mm).context.tlbGen, before + 1, "one flush for all of it");
    mmput(mm);
  });
});
