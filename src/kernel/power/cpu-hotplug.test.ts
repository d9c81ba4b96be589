// CPUs go offline and come back: what ran on them goes on elsewhere, and there again.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MACHINES, runKernel } from "../../../test/kernel-machines.ts";
import { EBUSY, EINVAL } from "../../abi/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { nrFreePages } from "../mm/page-alloc.ts";
import { onlineCpus } from "../mm/percpu.ts";
import { TRACE_WARN } from "../trace.ts";
import { cpuDown, cpuUp } from "./non-boot-cpus.ts";

for (const machine of MACHINES) {
  test(`a CPU goes and comes back, again and again, and no page is lost (${machine})`, () => {
    let results: readonly number[] = [];
    let masks: readonly number[] = [];
    let lost = -1;
    const image = buildKernelImage({
      preset: "cordon",
      processes: [],
      puppets: new Map(),
      lateInitcall: () => {
        results = [cpuDown(0), cpuDown(7), cpuUp(1)];
        const before = nrFreePages();
        const seen: number[] = [];
        for (let round = 0; round < 3; round++) {
          assert.equal(cpuDown(2), 0);
          assert.equal(cpuDown(1), 0);
          seen.push(onlineCpus());
          assert.equal(cpuUp(1), 0);
          seen.push(onlineCpus());
          assert.equal(cpuUp(2), 0);
        }
        masks = seen;
        lost = before - nrFreePages();
      },
    });
    const { events } = runKernel(machine, image, { commandLine: "asi=on", cpus: 3 });
    assert.deepEqual(results, [EBUSY, EINVAL, EINVAL]);
    assert.deepEqual(masks, [1, 3, 1, 3, 1, 3]);
    assert.equal(lost, 0);
    assert.equal(events.filter(([event]) => event === TRACE_WARN).length, 0);
  });
}
