// The options beyond the posted series, each explored as preset cordon is: an interrupt, an NMI whose handler touches sensitive memory, or
// the end of the time slice before the steps of a KVM_RUN and of the way back to user mode.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fail, findCpuModel } from "../../hardware/index.ts";
import { type CheckConfig, checkKvmRun } from "./index.ts";

/** Nothing but ASI: the flush of KVM itself would hide what ASI forgets. */
const COMMAND_LINE = "asi=on kvm-intel.vmentry_l1d_flush=never";
const skx = findCpuModel("skx") ?? fail("no CPU model skx");
const STRIDE = 19;

function explore(options: string, more: Partial<CheckConfig> = {}): void {
  const report = checkKvmRun({
    model: skx,
    preset: "cordon",
    commandLine: `${COMMAND_LINE} ${options}`,
    stride: STRIDE,
    choices: ["HLT", "external interrupt"],
    injections: ["NMI, sensitive", "interrupt", "end of the time slice"],
    ...more,
  });
  assert.deepEqual(report.violations, []);
  assert.deepEqual([...report.warnings], []);
  assert.ok((report.occurred.get("S3: a guest was entered") ?? 0) > 0);
}

for (const options of [
  "cordon.exit_after_run=off",
  "cordon.exit_after_run=off asi_userspace=off",
  "cordon.switch_restricted=on",
  "cordon.protect_user_data=off",
  "cordon.rsb_taint=on",
  "cordon.noflush=on",
  "cordon.domain_per_vm=on",
]) {
  test(`S1 to S10 hold with ${options}`, () => explore(options));
}

for (const [model, line] of [
  ["skx", ""],
  ["skx", "l1tf=off"],
  ["clx", "tsx=on"],
] as const) {
  test(`S1 to S10 hold with cordon.flush_taints=on: nothing is flushed but what transitions owe (${model}, "${line}")`, () => {
    // All that would flush besides is what the option turns off, and what it must not lean on.
    const commandLine = `asi=on spectre_v2=off vmscape=off ${line} cordon.flush_taints=on`;
    explore("", { model: findCpuModel(model) ?? fail("no such model"), commandLine });
  });
}

test("S1 to S10 hold with all of them", () => {
  explore(
    "cordon.exit_after_run=off cordon.switch_restricted=on cordon.protect_user_data=off cordon.rsb_taint=on cordon.noflush=on cordon.domain_per_vm=on",
  );
});

test("two VMs of one process, each with a domain of its own, see nothing of one another (S1, S2; domain_per_vm)", () => {
  // Nothing in between that would flush for another reason: no exit at the end of the first one's run, no data of the monitor's that counts.
  explore("cordon.domain_per_vm=on cordon.protect_user_data=off cordon.exit_after_run=off", { hasTwins: true });
});
