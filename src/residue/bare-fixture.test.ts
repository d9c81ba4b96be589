import assert from "node:assert/strict";
import { test } from "node:test";
import { cpu, physAddr, virtAddr } from "../hardware/index.ts";
import { onBareMachine, withBareCpu } from "./index.ts";

const DIRECT_MAP = -0x778000000000;

test("kernel code runs on the bare CPU: the direct map and the kernel's own mapping name the same memory", () => {
  const seen = withBareCpu(64 * 2 ** 20, () => {
    cpu.storeWord(virtAddr(DIRECT_MAP + 0x2000000), -0x778000000000);
    return [cpu.loadWord(virtAddr(-0x7e000000)), cpu.load(virtAddr(-0x7e000000 + 4), 4)];
  });
  assert.deepEqual(seen, [-0x778000000000, 0xffff8880]);
});

test("an access that is not mapped is an error that names the address", () => {
  assert.throws(() => withBareCpu(64 * 2 ** 20, () => cpu.load(virtAddr(0x1000), 4)), /CR2 0x1000/);
});

test("a fill across pages and a copy over them read back", () => {
  onBareMachine({}, (machine) => {
    const at = virtAddr(DIRECT_MAP + 0x3000ff0);
    cpu.fill(at, 0xab, 32);
    cpu.copy(virtAddr(DIRECT_MAP + 0x3003ff8), at, 32);
    assert.equal(machine.memory.read32(physAddr(0x3004000)), 0xabababab);
    assert.equal(machine.memory.read8(physAddr(0x3004018)), 0);
  });
});
