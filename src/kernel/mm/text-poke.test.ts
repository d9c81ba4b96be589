// Static keys that are patched while the kernel runs: on all machines, from inside a restricted address space too.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, runKernel } from "../../../test/kernel-machines.ts";
import { isErr } from "../../abi/index.ts";
import { cpu, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { asiDestroy, asiInit } from "../asi/asi-domain.ts";
import { ASI_CLASS_KVM } from "../asi/asi-struct.ts";
import { asiEnter, asiExit, asiIsRestricted, asiRelax } from "../asi/asi-transition.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { testStaticKey } from "../jump-label.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { EXIT_REQUESTED, EXIT_SWITCH_MM, TRACE_ASI_EXIT, TRACE_WARN } from "../trace.ts";
import { getCurrentCr3Fast } from "./cr3.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { initMm, Mm } from "./mm-struct.ts";
import { isPresent, lookupAddress } from "./page-table.ts";

for (const machine of MACHINES) {
  test(`a static key is patched while the CPU is restricted: the switch leaves first, and CR3 is what is expected afterwards (patch 19; ${machine})`, () => {
    const events: TraceRecord[] = [];
    let hasRun = false;
    const image = buildKernelImage({
      preset: "cordon",
      processes: [],
      puppets: new Map(),
      lateInitcall: () => {
        const mm = mmAlloc();
        kthreadUseMm(mm);
        const domain = asiInit(mm, ASI_CLASS_KVM);
        assert.ok(!isErr(domain));
        const seen: boolean[] = [];
        for (let i = 0; i < 8; i++) {
          asiEnter(domain as Ptr<"asi">);
          asiRelax();
          assert.equal(asiIsRestricted(), true);
          testStaticKey.set(i % 2 === 0);
          seen.push(testStaticKey.isEnabled());
          assert.equal(asiIsRestricted(), false);
          assert.equal(cpu.readCr3(), getCurrentCr3Fast(), "CR3 is that of the mm, whatever its ASID is now");
        }
        assert.deepEqual(seen, [true, false, true, false, true, false, true, false]);
        asiExit(EXIT_REQUESTED);
        asiDestroy(domain as Ptr<"asi">);
        kthreadUnuseMm();
        mmput(mm);
        hasRun = true;
      },
    });
    runKernel(machine, image, { commandLine: "asi=on", cpus: 2, events });
    assert.ok(hasRun);
    assert.equal(events.filter(([event, reason]) => event === TRACE_ASI_EXIT && reason === EXIT_SWITCH_MM).length, 8);
    assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
  });
}

test("kernel text stays read-only at its own address; the writable alias is gone when the poke returns", () => {
  let hasRun = false;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      testStaticKey.set(true);
      const at = symbolAddress("static_branch_test_static_key");
      assert.equal(cpu.load(at, 1), 0xeb);
      assert.equal(lookupAddress(Mm.at(initMm).pgd, at).low & 2, 0);
      assert.equal(isPresent(lookupAddress(Mm.at(initMm).pgd, 0x7f00_0000_0000 as VirtAddr)), false);
      hasRun = true;
    },
  });
  runKernel("residue", image, { commandLine: "asi=on" });
  assert.ok(hasRun);
});
