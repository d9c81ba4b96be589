// The mutants of small sources, one kind after the other, and that what is said of the kernel's own sources still names something there.
import { deepEqual, equal, match, notEqual, ok } from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { emit, emitCached } from "./emission.ts";
import { explanationOf, readExplanations } from "./explanations.ts";
import { applyMutant, type Mutant, mutantsOf } from "./mutant.ts";
import { SEED_HUNKS } from "./seed-hunks.ts";
import { groupOf, LEFT_OUT, targetFiles } from "./targets.ts";
import { treeOf, withTrees } from "./trees.ts";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

function mutantsIn(source: string): readonly Mutant[] {
  return treeOf(source, (tree) => mutantsOf("small.ts", tree));
}

function changes(source: string): readonly string[] {
  return mutantsIn(source).map((one) => `${one.mutation}: ${applyMutant(source, one).replace(/\s+/g, " ").trim()}`);
}

test("statements are removed and swapped with the next one, conditions negated", () => {
  deepEqual(changes("function f(): void { one(); if (x) { two(); three(); } }"), [
    "remove: function f(): void { if (x) { two(); three(); } }",
    "swap: function f(): void { if (x) { two(); three(); } one(); }",
    "remove: function f(): void { one(); }",
    "negate: function f(): void { one(); if (!(x)) { two(); three(); } }",
    "remove: function f(): void { one(); if (x) { three(); } }",
    "swap: function f(): void { one(); if (x) { three(); two(); } }",
    "remove: function f(): void { one(); if (x) { two(); } }",
  ]);
});

test("an error that is returned becomes 0, an operand is left out", () => {
  deepEqual(changes("function f(): number { return a && b ? ENOMEM : c | d; }"), [
    "remove: function f(): number { }",
    "drop operand: function f(): number { return b ? ENOMEM : c | d; }",
    "negate: function f(): number { return !(a && b) ? ENOMEM : c | d; }",
    "drop operand: function f(): number { return a ? ENOMEM : c | d; }",
    "error becomes 0: function f(): number { return a && b ? 0 : c | d; }",
    "drop operand: function f(): number { return a && b ? ENOMEM : d; }",
    "drop operand: function f(): number { return a && b ? ENOMEM : c; }",
  ]);
});

test("of machine code that is written as one statement each instruction is left out", () => {
  deepEqual(changes("const stub = { program: (a) => { a.push(rdx).mov(rdx, cr3).pop(rax); } };"), [
    "remove: const stub = { program: (a) => { } };",
    "drop instruction: const stub = { program: (a) => { a.mov(rdx, cr3).pop(rax); } };",
    "drop instruction: const stub = { program: (a) => { a.push(rdx).pop(rax); } };",
    "drop instruction: const stub = { program: (a) => { a.push(rdx).mov(rdx, cr3); } };",
  ]);
  deepEqual(changes("const stub = { program: (a) => { a.push(rdx); } };"), ["remove: const stub = { program: (a) => { } };"]);
});

test("declarations, types and assertions are no targets, and a variable is not used before it is declared", () => {
  const source = `
    interface T { x: number }
    function f(): void {
      assert(a || b, () => "never");
      if (c) fail("never");
      const flags = save();
      restore(flags);
    }`;
  deepEqual(
    mutantsIn(source).map(({ mutation, text }) => `${mutation} ${text}`),
    ["remove restore(flags);"],
  );
});

test("a mutant is known by where it is and what it changes, not by its line", () => {
  const source = "const handlers = { enter: () => { again(); again(); } };";
  const moved = mutantsIn(`// a comment\n\n${source}`);
  const keys = moved.map(({ key }) => key);
  deepEqual(keys, ["small.ts#handlers.enter#remove#again();", "small.ts#handlers.enter#remove#again();#2"]);
  deepEqual(
    mutantsIn(source).map(({ key }) => key),
    keys,
  );
  equal(moved[0]?.line, 3);
});

test("what does not compile, and what comes out as the same program, does not count", () => {
  const folder = mkdtempSync(join(tmpdir(), "cordon-emission-"));
  const source = "export function f(): void {\n  first();\n}\n";
  const at = (text: string): number => source.indexOf(text);
  const base = { key: "", file: "", where: "", mutation: "remove", text: "", line: 1, at: 0 } as const;
  const removed: Mutant = { ...base, start: at("first"), end: at("first") + "first();".length, replacement: "" };
  const retyped: Mutant = { ...base, start: at("void"), end: at("void") + "void".length, replacement: "undefined" };
  const broken: Mutant = { ...base, start: at("first"), end: at("first") + "first();".length, replacement: "if (" };
  try {
    const emission = emit(ROOT, join(folder, "scratch"), source, [removed, retyped, broken]);
    deepEqual([...emission.mutants.keys()], [removed]);
    deepEqual([emission.equal, emission.invalid], [1, 1]);
    match(emission.original, /first\(\)/);
    notEqual(emission.mutants.get(removed), emission.original);
    const cached = (): ReturnType<typeof emitCached> => emitCached(ROOT, folder, source, [removed, retyped, broken]);
    const [made, kept] = [cached(), cached()];
    deepEqual(kept.mutants, made.mutants);
    deepEqual([kept.equal, kept.invalid, kept.original], [1, 1, emission.original]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("each hunk of the published change, each file that is left out and each explanation names something in the sources", () => {
  const files = targetFiles(ROOT, ["seed", "asi", "entry", "kvm"]);
  const all = withTrees(ROOT, files, mutantsOf).flat();
  for (const hunk of SEED_HUNKS) {
    const isOfHunk = (one: Mutant): boolean => one.file === hunk.file && one.where === hunk.where && groupOf(one) === "seed";
    ok(all.some(isOfHunk), `nothing of ${hunk.hunk} in ${hunk.file}, ${hunk.where}`);
    for (const part of hunk.statements === "all" ? [] : hunk.statements) {
      ok(
        all.some((one) => isOfHunk(one) && one.text.includes(part)),
        `nothing with ${part} in ${hunk.where}`,
      );
    }
  }
  for (const file of Object.keys(LEFT_OUT))
    deepEqual(
      withTrees(ROOT, [file], (name) => name),
      [file],
    );
  for (const explanation of readExplanations(join(ROOT, "test", "mutation", "explanations.json"))) {
    ok(
      all.some((one) => explanationOf(one, [explanation]) !== undefined),
      `explained, but not there: ${explanation.file}, ${explanation.where}, ${explanation.mutation} ${explanation.text}`,
    );
  }
});
