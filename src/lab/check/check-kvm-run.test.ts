import assert from "node:assert/strict";
import { test } from "node:test";
import { fail, findCpuModel } from "../../hardware/index.ts";
import { checkKvmRun, GUEST_CHOICES, KvmRunFixture } from "./index.ts";

/** Nothing but ASI: the flush of KVM itself would hide what ASI forgets. */
const COMMAND_LINE = "asi=on mitigations=off kvm-intel.vmentry_l1d_flush=never";
const skx = findCpuModel("skx") ?? fail("no CPU model skx");

/** Every seventh step: all steps are explored by `cordon check`. */
const STRIDE = 7;

test("one KVM_RUN with an NMI, an interrupt or the end of the time slice before its steps keeps S1 to S10 (preset cordon)", () => {
  const report = checkKvmRun({ model: skx, preset: "cordon", commandLine: COMMAND_LINE, stride: STRIDE });
  assert.deepEqual(report.violations, []);
  assert.deepEqual([...report.warnings], []);
  assert.deepEqual([...report.steps.keys()], [...GUEST_CHOICES]);
  for (const situation of [
    "S10: a domain owed no control flush while a predictor held training",
    "S10: a domain owed no data flush while L1D held data",
    "S1: the restricted kernel ran with its own guest's training",
    "S2: a guest was entered with data in L1D that it may see",
    "S3: a guest was entered",
    "S3: user code was entered",
    "S4: a handler nested in such a window",
    "S4: a step between two domains",
    "S4: a step inside the window of enter",
    "S4: a step inside the window of exit",
    "S5: a domain's tables were audited",
    "S5: a sensitive frame appeared and was looked for in restricted tables",
    "S7: a guest was entered after a handler had nested in its critical section",
  ]) {
    assert.ok(report.occurred.has(situation), situation);
  }
});

test("law 3: a KVM_RUN suspended at each of its steps in turn leaves the same memory", () => {
  const fixture = new KvmRunFixture({ model: skx, preset: "cordon", commandLine: COMMAND_LINE });
  let steps = 0;
  fixture.run("VMCALL", false, (step) => {
    steps = step + 1;
  });
  const expected = fixture.machine.memory.hash();
  for (let at = 0; at < steps; at++) {
    let isDone = false;
    fixture.run("VMCALL", false, (step) => {
      if (step !== at || isDone) return;
      isDone = true;
      fixture.cpu.suspendAtNextStep();
    });
    assert.equal(fixture.machine.memory.hash(), expected, `suspended before step ${at} of ${steps}`);
  }
});

test("an NMI before each step that the handler of another one adds keeps S1 to S10 (preset cordon)", () => {
  const report = checkKvmRun({
    model: skx,
    preset: "cordon",
    commandLine: COMMAND_LINE,
    choices: ["HLT"],
    injections: ["NMI, sensitive"],
    stride: 23,
    isPaired: true,
  });
  assert.deepEqual(report.violations, []);
});

test("as posted, a process's training stays when its mm is switched away: S1 and S10 are violated (preset rfc-v2)", () => {
  const report = checkKvmRun({
    model: skx,
    preset: "rfc-v2",
    commandLine: `${COMMAND_LINE} asi_userspace=off`,
    choices: ["HLT"],
    injections: [],
  });
  // User code without a domain leaves no taints there, so that the switch to another mm derives none (spec 2.5).
  assert.deepEqual(
    report.violations.map(({ injection, violation: { property, structure, owner } }) => [injection, property, structure, owner]),
    // Of the second process: the first mm is the one for patching text.
    [
      ["none", "S10", "branch target buffer", "mm 3 (sensitive)"],
      ["none", "S1", "branch target buffer", "mm 3 (sensitive)"],
    ],
  );
});
