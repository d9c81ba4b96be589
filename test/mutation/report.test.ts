// Results that are kept, the order of witnesses, the counts of what is executed, the score and the report.
import { deepEqual, equal, match, throws } from "node:assert/strict";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Candidate } from "./collection.ts";
import { EmittedOffsets, isExecuted } from "./execution.ts";
import type { Explanation } from "./explanations.ts";
import { parseOptions, UsageError } from "./options.ts";
import { WitnessOrder } from "./planning.ts";
import { judge, meetsAims, reportText, scoreOf } from "./report.ts";
import { type Result, Results, type Verdict } from "./results.ts";
import { runWitness } from "./witness.ts";

function withFolder(run: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "cordon-mutation-"));
  try {
    run(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function resultOf(key: string, verdict: Verdict, hash = "h"): Result {
  return { key, hash, verdict, tried: 1, milliseconds: 60_000 };
}

function candidate(text: string, group: Candidate["group"] = "asi"): Candidate {
  const file = "src/kernel/asi/small.ts";
  const mutant = { key: text, file, where: "f", mutation: "remove", text, line: 1, at: 0, start: 0, end: 1, replacement: "" } as const;
  return { mutant, group, hash: "h", output: "", original: "", text: "", offset: 0 };
}

test("results are found again after a kill, a torn last line is left out, and a changed source has none", () => {
  withFolder((folder) => {
    const path = join(folder, "build", "results.jsonl");
    const first = new Results(path);
    first.add(resultOf("one", "killed"));
    first.add(resultOf("two", "survived"));
    appendFileSync(path, '\n{"key":"three","ha');
    const second = new Results(path);
    equal(second.of("one", "h")?.verdict, "killed");
    equal(second.of("two", "h")?.verdict, "survived");
    equal(second.of("three", "h"), undefined);
    equal(second.of("one", "another"), undefined);
    second.add({ ...resultOf("two", "killed"), witness: "late.test.js" });
    const third = new Results(path);
    equal(third.of("two", "h")?.verdict, "killed");
    equal(third.lastWitness("two"), "late.test.js");
  });
});

test("the innermost block decides what is executed, and one process that executes it is enough", () => {
  const counts = { hash: "", blocks: [0, 100, 1, 10, 50, 0, 20, 30, 1] };
  deepEqual(
    [5, 15, 25, 99, 100].map((offset) => isExecuted(counts, offset)),
    [true, false, true, true, false],
  );
  const two = { hash: "", blocks: [0, 100, 0, -1, -1, -1, 0, 100, 0, 40, 60, 1] };
  deepEqual(
    [5, 45].map((offset) => isExecuted(two, offset)),
    [false, true],
  );
});

test("a source map leads from a place in the source to its offset in the output", () => {
  // Line 1 of the source, columns 0 and 4, stand at line 2 of the output, columns 0 and 2.
  const offsets = new EmittedOffsets(JSON.stringify({ mappings: ";AACA,EAAI" }), "x\nabcdef\n");
  deepEqual([offsets.offsetOf(1, 0), offsets.offsetOf(1, 4), offsets.offsetOf(1, 9), offsets.offsetOf(7, 0)], [2, 4, 4, undefined]);
});

test("the last witness comes first, then what refutes most for its time", () => {
  const order = new WitnessOrder();
  const cost = (name: string): number => (name === "slow" ? 10_000 : 1000);
  const sorted = (last?: string): readonly string[] => order.order(["quick", "slow", "other"], "src/f.ts", "f", last, cost);
  deepEqual(sorted(), ["other", "quick", "slow"]);
  deepEqual(sorted("slow"), ["slow", "other", "quick"]);
  for (let i = 0; i < 20; i++) order.record("other", "src/f.ts", "f", false);
  order.record("quick", "src/f.ts", "f", true);
  deepEqual(sorted(), ["quick", "slow", "other"]);
});

test("equivalents are taken out of the score, tests that are missing are not", () => {
  const explain = (text: string, kind: Explanation["kind"]): Explanation => ({
    file: "src/kernel/asi/small.ts",
    where: "f",
    mutation: "*",
    text,
    kind,
    why: "because",
  });
  const candidates = [candidate("killed"), candidate("equal"), candidate("missing"), candidate("hung"), candidate("later")];
  const verdicts: Readonly<Record<string, Verdict>> = { killed: "killed", equal: "survived", missing: "survived", hung: "timeout" };
  const judged = judge(
    candidates,
    ({ mutant }) => {
      const verdict = verdicts[mutant.key];
      return verdict === undefined ? undefined : resultOf(mutant.key, verdict);
    },
    [explain("equal", "equivalent"), explain("missing", "missing test"), explain("killed", "equivalent")],
  );
  const score = scoreOf(judged);
  deepEqual([score.mutants, score.run, score.refuted, score.excused, score.open], [5, 4, 2, 1, 1]);
  equal(score.percent.toFixed(1), "66.7");
  equal(meetsAims(judged, ["asi"]), false);
  equal(
    meetsAims(
      judged.filter(({ candidate: one }) => one.mutant.key !== "missing"),
      ["asi"],
    ),
    true,
  );
  const text = reportText({ candidates, invalid: 2, equal: 3 }, judged);
  match(text, /4 of 5 mutants run, in 4 minutes/);
  match(text, /3 that change nothing in the program, 2 that are no program/);
  match(text, /- f: remove `equal`: equivalent: because/);
  match(text, /- f: remove `missing`: missing test: because/);
});

test("a command that the options do not make is bad usage", () => {
  deepEqual(parseOptions([]).groups, ["seed", "asi", "entry"]);
  deepEqual(parseOptions(["--seed-hunks", "--sample", "5", "--jobs", "1"]).groups, ["seed"]);
  deepEqual(parseOptions(["--only", "nmi.ts", "--only", "fred.ts"]).only, ["nmi.ts", "fred.ts"]);
  for (const wrong of [["--sample", "0"], ["--jobs"], ["--budget", "61"], ["--only"], ["--sead-hunks"], ["--seed-hunks", "--kvm"]]) {
    throws(() => parseOptions(wrong), UsageError);
  }
});

test("a witness that fails, one that passes and one that does not end are told apart", async () => {
  const folder = mkdtempSync(join(tmpdir(), "cordon-witness-"));
  try {
    const run = async (body: string, limit: number): Promise<string> => {
      writeFileSync(join(folder, "w.test.mjs"), `import { test } from "node:test"; test("t", () => { ${body} });`);
      const { outcome, by } = await runWitness(folder, { name: "w", args: ["w.test.mjs"] }, limit);
      return `${outcome} ${by}`;
    };
    equal(await run("", 20_000), "passed ");
    equal(await run('throw new Error("x");', 20_000), "failed t");
    equal(await run("for (;;);", 1000), "hung no end within 1 s");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
