import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import { DEFAULT_CPU_MODEL } from "../../hardware/index.ts";
import { PRESETS } from "../../kernel/index.ts";
import { PROPERTY_NAMES } from "../properties/index.ts";
import type { Configuration } from "./configuration.ts";
import { OPERATIONS } from "./operations.ts";
import { type EventChoice, System } from "./system.ts";

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
  operations: OPERATIONS,
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

/** What can begin now. */
function choicesOf(system: System): readonly EventChoice[] {
  const choices: EventChoice[] = [];
  system.choices(choices);
  return choices;
}

/** Every operation that is ever possible within `depth` events, each executed from the first state that offers it. */
function reach(system: System, wanted: ReadonlySet<string>, visit: (choice: EventChoice) => void): Set<string> {
  const done = new Set<string>();
  const walk = (depth: number): void => {
    for (const choice of choicesOf(system)) {
      const isNew = !done.has(choice.operation);
      if (!isNew && depth === 0) continue;
      const mark = system.machine.mark();
      system.begin(choice);
      equal(system.runEvent(choice), "edge", choice.operation);
      if (isNew) visit(choice);
      done.add(choice.operation);
      if (depth > 0 && [...wanted].some((name) => !done.has(name))) walk(depth - 1);
      system.machine.rewind(mark);
    }
  };
  for (let depth = 0; depth <= 3 && [...wanted].some((name) => !done.has(name)); depth++) walk(depth);
  return done;
}

for (const preset of PRESETS) {
  test(`every operation runs and ends at an edge (preset ${preset})`, () => {
    const system = new System({ ...CONFIGURATION, preset });
    const done = reach(system, new Set(system.names.slice(1)), () => undefined);
    deepEqual(
      system.names.slice(1).filter((name) => !done.has(name)),
      [],
    );
  });
}
