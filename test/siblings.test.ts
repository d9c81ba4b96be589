// The kernel on two threads of one core: it finds them by CPUID leaf 0xB, both come online, and share what a core has.
import assert from "node:assert/strict";
import { test } from "node:test";
import { buildKernelImage } from "../src/kernel/index.ts";
import { isSmtActive, isSmtPossible } from "../src/kernel/mitigations/cpu-features.ts";
import { MITIGATION_FILES } from "../src/kernel/mitigations/report-files.ts";
import { runKernel } from "./kernel-machines.ts";

interface Seen {
  readonly isPossible: boolean;
  readonly isActive: boolean;
  /** What /sys/devices/system/cpu/asi says of siblings. */
  readonly report: string | undefined;
}

function siblingsLine(): string | undefined {
  const text = MITIGATION_FILES.get("/sys/devices/system/cpu/asi")?.show() ?? "";
  return text.split("\n").find((line) => line.startsWith("siblings: "));
}

function seen(threadsPerCore: number, cpus: number): Seen | undefined {
  let found: Seen | undefined;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      found = { isPossible: isSmtPossible(), isActive: isSmtActive(), report: siblingsLine() };
    },
  });
  runKernel("simulated, detailed", image, { commandLine: "asi=on", cpus, threadsPerCore, until: () => found !== undefined });
  return found;
}

test("two threads of a core are siblings; two cores are not; one thread of a core that has two is alone", () => {
  assert.deepEqual(seen(2, 2), {
    isPossible: true,
    isActive: true,
    report: "siblings: Not covered: what one leaves in the core's caches and buffers the other may sample",
  });
  assert.deepEqual(seen(1, 2), { isPossible: false, isActive: false, report: undefined });
  assert.deepEqual(seen(2, 1), { isPossible: true, isActive: false, report: "siblings: None online" });
});
