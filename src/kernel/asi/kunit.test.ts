// The suite "asi" on every machine. Each case has a boot of its own; as in the published suite, one that leaves the kernel newly tainted
// (a warning) fails.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { TRACE_FLUSH, TRACE_WARN, WARNINGS } from "../trace.ts";
import { type KunitCase, kunitCases, kunitIrqWork, kunitNmi } from "./kunit.ts";

function runCase(machine: MachineName, { run, options = "" }: KunitCase, cpus: number): void {
  const events: TraceRecord[] = [];
  let hasRun = false;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    hooks: { nmi: kunitNmi, irqWork: kunitIrqWork },
    lateInitcall: () => {
      run({
        expect: assert.ok,
        flushes: (kind) => events.filter(([event, flushed]) => event === TRACE_FLUSH && flushed === kind).length,
      });
      hasRun = true;
    },
  });
  runKernel(machine, image, { commandLine: `asi=on ${options}`, cpus, events });
  assert.ok(hasRun, "the case ran to its end");
  assert.deepEqual(
    events.filter(([event]) => event === TRACE_WARN).map(([, warning]) => WARNINGS[warning]),
    [],
  );
}

for (const machine of MACHINES) {
  for (const kunitCase of kunitCases) {
    test(`${kunitCase.name} (spec 4; ${machine})`, () => runCase(machine, kunitCase, 1));
  }
}

test("the suite holds on a kernel of three CPUs", () => {
  for (const kunitCase of kunitCases) runCase("simulated, architectural", kunitCase, 3);
});
