// The core against the recorded results of a real processor: see README.md. Run alone: node --test dist/test/differential/
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { differences, listing } from "./compare.ts";
import { coreRunner, type Gear } from "./core-runner.ts";
import { decodeVectors } from "./vectors.ts";

const vectors = decodeVectors(readFileSync(new URL("../../../test/differential/vectors.bin.gz", import.meta.url)));

test("at least 100,000 cases are recorded, and the file names the processor", () => {
  assert.ok(vectors.cases.length >= 100_000, `${vectors.cases.length} cases`);
  assert.match(vectors.processor, /CPUID\.1\.EAX [0-9a-f]{8}/);
});

for (const gear of ["architectural", "detailed"] as const satisfies readonly Gear[]) {
  test(`the ${gear} gear leaves the same registers, flags, memory and faults as ${vectors.processor}`, () => {
    const runner = coreRunner(gear);
    const failed: string[] = [];
    for (const [i, c] of vectors.cases.entries()) {
      const expected = vectors.results[i];
      assert.ok(expected !== undefined);
      const lines = differences(c, expected, runner.run(c));
      if (lines.length > 0) failed.push(`case ${i}:\n${listing(c)}\n    ${lines.join("\n    ")}`);
    }
    assert.equal(
      failed.length,
      0,
      `${failed.length} of ${vectors.cases.length} cases differ; the first:\n${failed.slice(0, 3).join("\n")}`,
    );
  });
}
