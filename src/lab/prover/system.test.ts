import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { DEFAULT_CPU_MODEL } from "../../hardware/index.ts";
import { PRESETS } from "../../kernel/index.ts";
import { PROPERTY_NAMES } from "../properties/index.ts";
import type { Configuration } from "./configuration.ts";
import { OPERATIONS } from "./operations.ts";
import { System } from "./system.ts";
import { walk } from "./testing-walk.ts";

const CONFIGURATION: Configuration = {
  name: "test",
  model: DEFAULT_CPU_MODEL,
  preset: "cordon",
  commandLine: "asi=on",
  options: {},
  cpus: 2,
  processes: 2,
  vms: 1,
  vcpus: 1,
  operations: OPERATIONS.filter((name) => name !== "getppid by SYSCALL of 32-bit code"),
  injections: [],
  injectionsPerEvent: 0,
  switches: 0,
  failures: 0,
  depth: 0,
  searchMegabytes: 512,
  workers: 1,
  memoryMegabytes: 48,
  properties: PROPERTY_NAMES,
};

for (const preset of PRESETS) {
  test(`every operation runs and ends at an edge (preset ${preset})`, () => {
    const system = new System({ ...CONFIGURATION, preset });
    const done = walk(system, 3000, false, (choice, end) => equal(end, "edge", choice.operation));
    deepEqual(
      system.names.filter((name) => !done.has(name)),
      [],
    );
    equal(system.warning, undefined);
    if (preset === "cordon") deepEqual(system.check.checker.violations, []);
  });
}

test("each way of calling the kernel comes by its own entry", () => {
  const entries = {
    getppid: "entry_SYSCALL_64",
    "getppid by INT80": "asm_int80_emulation",
    "getppid by SYSENTER": "entry_SYSENTER_compat",
  };
  const system = new System({ ...CONFIGURATION, vms: 0, operations: Object.keys(entries) });
  for (const [operation, entry] of Object.entries(entries)) {
    const seen = new Set<string>();
    const choice = { cpu: 0, operation };
    system.begin(choice);
    system.check.onStep = (cpu) => seen.add(cpu.path.stub?.symbol ?? "none");
    equal(system.runEvent(choice), "edge");
    system.check.onStep = undefined;
    deepEqual([...seen], [entry]);
  }
});

test("a machine check that ends a guest is the host's: it is over when the guest goes on, so that another may come", () => {
  const system = new System({ ...CONFIGURATION, cpus: 1, processes: 1, operations: ["KVM_RUN running on", "machine check"] });
  for (const operation of ["KVM_RUN running on", "machine check", "machine check"]) {
    const choice = { cpu: 0, operation };
    system.begin(choice);
    equal(system.runEvent(choice), "edge");
  }
  deepEqual(system.check.checker.violations, []);
});
