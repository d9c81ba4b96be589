// The command: checks the core against the recorded vectors, or against the processor this runs on.
//
//   node dist/test/differential/run.js                         the recorded vectors, both gears
//   node dist/test/differential/run.js --native [--seed N]     fresh cases, run here and on the core (needs gcc)
//   node dist/test/differential/run.js --record                writes vectors.bin.gz from this processor (needs gcc)
//   --gear architectural|detailed    one gear only             --show N    how many differences to print (10)
//   --only TEXT    with --native: cases whose name contains TEXT
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { type Case, type Result, TIMEOUT } from "./case.ts";
import { differences, listing, type Runner } from "./compare.ts";
import { coreRunner, type Gear } from "./core-runner.ts";
import { generate, RECORDED_AMOUNT, RECORDED_SEED } from "./generate.ts";
import { buildNative, type NativeRun } from "./native.ts";
import { decodeVectors, encodeVectors, type Vectors } from "./vectors.ts";

// From dist/test/differential back to the sources.
const SOURCE = new URL("../../../test/differential/", import.meta.url);
const VECTORS = new URL("vectors.bin.gz", SOURCE);

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function runHere(cases: readonly Case[]): NativeRun {
  const native = buildNative(new URL("native.c", SOURCE).pathname);
  try {
    return native.run(cases);
  } finally {
    native.close();
  }
}

/** Cases that the clock had to stop would depend on the clock: there must be none. */
function assertAllEnded(cases: readonly Case[], results: readonly Result[]): void {
  const stuck = results.findIndex((r) => r.outcome === TIMEOUT);
  const c = cases[stuck];
  if (c !== undefined) throw new Error(`a case does not end:\n${listing(c)}`);
}

function record(): void {
  const cases = generate(RECORDED_SEED, RECORDED_AMOUNT);
  const { processor, results } = runHere(cases);
  assertAllEnded(cases, results);
  const again = encodeVectors({ processor, cases, results: runHere(cases).results });
  const file = encodeVectors({ processor, cases, results });
  if (Buffer.compare(file, again) !== 0) throw new Error("two runs on this processor differ: a case reads something undefined");
  writeFileSync(VECTORS, file);
  print(`${cases.length} cases from ${processor}: ${file.length} bytes`);
}

function check(vectors: Vectors, runner: Runner, show: number): number {
  let failed = 0;
  const start = performance.now();
  for (const [i, c] of vectors.cases.entries()) {
    const expected = vectors.results[i];
    if (expected === undefined) continue;
    const lines = differences(c, expected, runner.run(c));
    if (lines.length === 0) continue;
    failed += 1;
    if (failed <= show) print(`case ${i}, seed ${c.seed}, ${runner.name}:\n${listing(c)}\n    ${lines.join("\n    ")}`);
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  print(`${runner.name}: ${vectors.cases.length} cases, ${failed} differ from ${vectors.processor} (${seconds} s)`);
  return failed;
}

function main(): number {
  const { values } = parseArgs({
    options: {
      native: { type: "boolean" },
      record: { type: "boolean" },
      seed: { type: "string" },
      gear: { type: "string" },
      show: { type: "string" },
      only: { type: "string" },
    },
  });
  if (values.record === true) {
    record();
    return 0;
  }
  const show = Number(values.show ?? 10);
  let vectors: Vectors;
  if (values.native === true) {
    const only = values.only ?? "";
    const cases = generate(Number(values.seed ?? 1), RECORDED_AMOUNT).filter((c) => c.name.includes(only));
    vectors = { ...runHere(cases), cases };
  } else {
    vectors = decodeVectors(readFileSync(VECTORS));
  }
  const gears: readonly Gear[] =
    values.gear === "architectural" || values.gear === "detailed" ? [values.gear] : ["architectural", "detailed"];
  return gears.reduce((failed, gear) => failed + check(vectors, coreRunner(gear), show), 0);
}

process.exitCode = main() === 0 ? 0 : 1;
