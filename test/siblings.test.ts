// The kernel on two threads of one core: it finds them by CPUID leaf 0xB, both come online, and share what a core has.
import assert from "node:assert/strict";
import { test } from "node:test";
import { EINVAL, EPERM } from "../src/abi/index.ts";
import { buildKernelImage } from "../src/kernel/index.ts";
import { isSmtActive, isSmtPossible } from "../src/kernel/mitigations/cpu-features.ts";
import { MITIGATION_FILES } from "../src/kernel/mitigations/report-files.ts";
import { cpuUp } from "../src/kernel/power/non-boot-cpus.ts";
import { runKernel } from "./kernel-machines.ts";

interface Seen {
  readonly isPossible: boolean;
  readonly isActive: boolean;
  /** What /sys/devices/system/cpu/asi says of siblings. */
  readonly report: string | undefined;
  readonly control: string | undefined;
  /** Of bringing CPU 1 up, which is there already or may not be. */
  readonly up: number;
}

function siblingsLine(): string | undefined {
  const text = MITIGATION_FILES.get("/sys/devices/system/cpu/asi")?.show() ?? "";
  return text.split("\n").find((line) => line.startsWith("siblings: "));
}

function seen(threadsPerCore: number, cpus: number, words = ""): Seen | undefined {
  let found: Seen | undefined;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      found = {
        isPossible: isSmtPossible(),
        isActive: isSmtActive(),
        report: siblingsLine(),
        control: MITIGATION_FILES.get("/sys/devices/system/cpu/smt/control")?.show(),
        up: cpuUp(1),
      };
    },
  });
  runKernel("simulated, detailed", image, { commandLine: `asi=on ${words}`, cpus, threadsPerCore, until: () => found !== undefined });
  return found;
}

test("two threads of a core are siblings; two cores are not; one thread of a core that has two is alone", () => {
  assert.deepEqual(seen(2, 2), {
    isPossible: true,
    isActive: true,
    report: "siblings: Not covered: what one leaves in the core's caches and buffers the other may sample",
    control: "on\n",
    up: EINVAL,
  });
  assert.deepEqual(seen(1, 2), { isPossible: false, isActive: false, report: undefined, control: "notsupported\n", up: EINVAL });
  assert.deepEqual(seen(2, 1), { isPossible: true, isActive: false, report: "siblings: None online", control: "on\n", up: EINVAL });
});

test("core_sched is in force and reported where two threads are online, and asking for it with what it lacks is answered", () => {
  const covered = "siblings: Covered: one domain at a time on a core, the other thread stopped or quiet";
  assert.equal(seen(2, 2, "cordon.core_sched=on")?.report, covered);
  assert.match(seen(2, 2, "cordon.core_sched=on asi_userspace=off")?.report ?? "", /Not covered/);
});

for (const [words, control] of [
  ["nosmt", "off\n"],
  ["l1tf=full", "off\n"],
  ["nosmt=force", "forceoff\n"],
] as const) {
  test(`with ${words} a core's second thread is not started, and cannot be`, () => {
    assert.deepEqual(seen(2, 2, words), { isPossible: true, isActive: false, report: "siblings: None online", control, up: EPERM });
  });
}

test("nosmt leaves CPUs that are no siblings alone", () => {
  assert.deepEqual(seen(1, 2, "nosmt")?.up, EINVAL);
});
