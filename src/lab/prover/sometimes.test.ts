import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { expectedOccurrences, missingOccurrences, namedConfiguration, System } from "./index.ts";
import { walk } from "./testing-walk.ts";

const EVENTS = 400;

for (const name of ["standard", "small-memory", "kvm-exits", "no-pcid", "pti-alone", "userspace-off"]) {
  test(`what the properties guard against does come up (${name})`, () => {
    const configuration = namedConfiguration(name);
    const system = new System(configuration);
    equal(system.check.checker.occurred.size, 0);
    walk(system, EVENTS, true);
    deepEqual(missingOccurrences(configuration, system.check.checker.occurred.keys()), []);
  });
}

test("a system that can do nothing lacks what makes a proof one", () => {
  const configuration = namedConfiguration("standard");
  const missing = missingOccurrences(configuration, []);
  deepEqual(missing, expectedOccurrences(configuration));
  for (const property of ["S1", "S2", "S3", "S4", "S5", "S7", "S8", "S9", "S10"])
    ok(
      missing.some((one) => one.startsWith(`${property}:`)),
      property,
    );
});

test("only the situations of the properties that are judged are expected", () => {
  const configuration = { ...namedConfiguration("standard"), properties: ["S3"] as const };
  ok(expectedOccurrences(configuration).every((one) => one.startsWith("S3:")));
});
