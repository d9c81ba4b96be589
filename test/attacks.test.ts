// The two attacks, and the controls that show which defence stops each: nothing else than the missing mapping, nothing else than the
// flush. Figures are those of the promise: 32 bytes of 32, or none.
import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { type CpuModel, findCpuModel } from "../src/hardware/index.ts";
import { type AttackName, type AttackResult, type ControlName, runAttack } from "../src/lab/index.ts";

const LIMIT = 200_000_000;

function model(key: string): CpuModel {
  const found = findCpuModel(key);
  ok(found !== undefined);
  return found;
}

function attack(name: AttackName, asi: boolean, more: { control?: ControlName; cpu?: string; seed?: number } = {}): AttackResult {
  const { control = "none", cpu = "skx", seed = 1 } = more;
  return runAttack({ attack: name, asi, model: model(cpu), preset: "cordon", seed, control, limit: LIMIT });
}

test("L1TF recovers the whole secret of another process when ASI is off", () => {
  const result = attack("l1tf", false);
  equal(result.recovered, 32, result.report);
  equal(result.stoppedBy, "nothing");
  ok(result.exitsWithSecretInL1d > 0);
});

test("ASI stops L1TF by its flush: the secret is in L1D at no exit of the guest (spec 2.3 step 7; S2)", () => {
  const result = attack("l1tf", true);
  equal(result.recovered, 0, result.report);
  equal(result.stoppedBy, "flushed");
  equal(result.exitsWithSecretInL1d, 0);
  ok(result.dataFlushes > 0 && result.dataFlushes <= result.enters);
});

test("without the data flush alone, L1TF succeeds although ASI is on", () => {
  equal(attack("l1tf", true, { control: "no-data-flush" }).recovered, 32);
});

test("on Cascade Lake L1TF fails without ASI, and the reason given is the CPU", () => {
  const result = attack("l1tf", false, { cpu: "clx" });
  equal(result.recovered, 0, result.report);
  equal(result.stoppedBy, "CPU not affected");
});

test("Spectre v1 recovers the whole secret when ASI is off", () => {
  const result = attack("spectre-v1", false);
  equal(result.recovered, 32, result.report);
  equal(result.isSecretMapped, true);
});

test("ASI stops Spectre v1 by the missing mapping: no fault is taken, the CPU stays restricted, nothing comes out", () => {
  const result = attack("spectre-v1", true);
  equal(result.recovered, 0, result.report);
  equal(result.stoppedBy, "not mapped");
  equal(result.isSecretMapped, false);
  ok(result.hypercalls > 5000);
  equal(result.hypercallsThatExited, 0);
});

test("mapping only the secret's page restores Spectre v1 under ASI", () => {
  equal(attack("spectre-v1", true, { control: "map-secret" }).recovered, 32);
});

test("Spectre v1 reads a nonsensitive page under ASI: its channel works there", () => {
  equal(attack("spectre-v1", true, { control: "nonsensitive-page" }).recovered, 32);
});

test("another seed is another secret, and the same seed the same run to the last cycle", () => {
  const first = attack("l1tf", false, { seed: 7 });
  equal(first.recovered, 32, first.report);
  deepEqual(attack("l1tf", false, { seed: 7 }), first);
});

test("the exploit selftest: a module loads a host secret on the hypervisor's path, the victim runs on another core, 60 runs a byte (spec 4)", () => {
  const open = attack("l1tf", false, { control: "module-loads-secret" });
  equal(open.recovered, 32, open.report);
  const closed = attack("l1tf", true, { control: "module-loads-secret" });
  // Published: it passes if fewer than 2 bytes are recovered.
  ok(closed.recovered < 2, closed.report);
  equal(closed.stoppedBy, "flushed");
  equal(closed.exitsWithSecretInL1d, 0);
});
