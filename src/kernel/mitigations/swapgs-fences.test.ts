// The fences against wrong guesses about SWAPGS, in the text as it is patched: docs/mitigations.md, 3.8.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { addVirt, cpu, fail } from "../../hardware/index.ts";
import { kernelText } from "../boot/kernel-text.ts";

const LFENCE = [0x0f, 0xae, 0xe8];

function isFenced(site: string): boolean {
  const at = kernelText().symbols.get(`alternative:${site}:begin`) ?? fail(`no site ${site}`);
  return LFENCE.every((byte, i) => cpu.load(addVirt(at, i), 1) === byte);
}

// Command line, model, fence at entries from user mode, where kernel entries skip SWAPGS.
const CASES: readonly (readonly [string, string, boolean, boolean])[] = [
  // With page-table isolation the write of CR3 behind SWAPGS does it at entries from user mode.
  ["asi=off", "skx", false, true],
  ["asi=on", "skx", true, true],
  ["asi=off nopti", "skx", true, true],
  ["asi=on nospectre_v1", "skx", false, false],
  ["asi=on mitigations=off", "skx", false, false],
  // Without Meltdown SMAP keeps a user GS base from being used.
  ["asi=on", "clx", false, false],
];

for (const [commandLine, model, user, kernel] of CASES) {
  test(`${model}, "${commandLine}": ${user ? "" : "no "}fence from user mode, ${kernel ? "" : "no "}fence from kernel mode`, () => {
    const sites = ["asm_exc_page_fault", "asm_exc_page_fault.bad_iret", "asm_exc_nmi.user"];
    const { result } = inKernel(
      () => [...sites.map((site) => isFenced(`fence_swapgs_user:${site}`)), isFenced("fence_swapgs_kernel:asm_exc_page_fault")],
      { commandLine, model },
    );
    assert.deepEqual(result, [user, user, user, kernel]);
  });
}
