import assert from "node:assert/strict";
import { test } from "node:test";
import { checkUserspace, USER_EVENTS } from "./index.ts";
import type { EpisodeConfig } from "./script.ts";

const CONFIG: EpisodeConfig = {
  preset: "cordon",
  model: "skx",
  commandLine: "asi=on kvm-intel.vmentry_l1d_flush=never",
  cpus: 1,
  memoryMegabytes: 48,
  processes: 2,
};
/** A few steps of each event: all of them take minutes. */
const STRIDE = 151;

for (const preset of ["cordon", "cordon-fast"] as const) {
  test(`single events of processes with an NMI, an interrupt or a suspension before their steps keep S1 to S10 (preset ${preset})`, () => {
    const report = checkUserspace({
      config: { ...CONFIG, preset },
      injections: ["nmi sensitive", "irq sensitive", "suspend"],
      stride: STRIDE,
    });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(
      [...report.steps.keys()],
      USER_EVENTS.map(({ name }) => name),
    );
  });
}

test("as posted, what user code without a domain trained and left is forgotten when another mm is loaded (preset rfc-v2)", () => {
  const report = checkUserspace({
    config: { ...CONFIG, preset: "rfc-v2", commandLine: `${CONFIG.commandLine} asi_userspace=off` },
    events: USER_EVENTS.filter(({ name }) => name.startsWith("context switch") || name.startsWith("KVM_RUN")),
    injections: [],
  });
  assert.deepEqual(
    report.findings.map(({ event, message }) => [event, message.slice(0, message.indexOf(" "))]),
    [["KVM_RUN and the return to user mode", "S10"]],
  );
});
