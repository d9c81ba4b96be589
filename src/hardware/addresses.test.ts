import { equal, throws } from "node:assert/strict";
import { test } from "node:test";
import { addVirt, cr3, cr3Pcid, cr3Root, fromHalves, hex, high32, low32, pageDown, pageUp, pcid, physAddr, virtAddr } from "./addresses.ts";
import { entryFrame, entryHigh, entryLow, PTE_NX_HIGH, PTE_PRESENT, PTE_WRITE, pgdIndex, tableIndex } from "./page-table.ts";

// The direct map of Linux on x86-64 with 4-level paging starts at 0xffff888000000000 (Documentation/arch/x86/x86_64/mm.rst).
const PAGE_OFFSET = virtAddr(-0x778000000000);

test("a kernel address is printed in the usual hex and splits into the halves that the hardware holds", () => {
  equal(hex(PAGE_OFFSET), "0xffff888000000000");
  equal(hex(addVirt(PAGE_OFFSET, 0x1000)), "0xffff888000001000");
  equal(high32(PAGE_OFFSET), 0xffff8880);
  equal(low32(addVirt(PAGE_OFFSET, 0xdeadbeef)), 0xdeadbeef);
  equal(fromHalves(0xdeadbeef, 0xffff8880), PAGE_OFFSET + 0xdeadbeef);
});

test("table indices of the direct map and of kernel text are those of the 4-level layout", () => {
  equal(pgdIndex(PAGE_OFFSET), 273);
  equal(pgdIndex(virtAddr(-0x7f000000)), 511);
  equal(tableIndex(virtAddr(-0x7f000000), 3), 510);
  equal(tableIndex(virtAddr(-0x7f000000), 2), 8);
});

test("pageDown and pageUp work in both halves and above 4 GiB", () => {
  equal(hex(pageDown(addVirt(PAGE_OFFSET, 0x1fff))), "0xffff888000001000");
  equal(pageUp(0x1_0000_0001), 0x1_0000_1000);
});

test("a CR3 value keeps root and PCID apart", () => {
  const value = cr3(physAddr(0x12_3456_7000), pcid(0x201));
  equal(cr3Root(value), 0x12_3456_7000);
  equal(cr3Pcid(value), 0x201);
});

test("an entry's halves give back its frame above 4 GiB, with NX and flags around it", () => {
  const frame = physAddr(0x23_4567_8000);
  const low = entryLow(frame, PTE_PRESENT | PTE_WRITE);
  const high = entryHigh(frame, PTE_NX_HIGH);
  equal(low, 0x45678003);
  equal(high, 0x80000023);
  equal(entryFrame(low, high), frame);
});

test("addresses out of range are refused with their value", () => {
  throws(() => virtAddr(2 ** 47), /not a canonical virtual address: 140737488355328/);
  throws(() => physAddr(-1), /not a physical address: -1/);
  throws(() => pcid(4096), /not a PCID: 4096/);
  throws(() => cr3(physAddr(0x1800), pcid(1)), /CR3 root not page aligned/);
});
