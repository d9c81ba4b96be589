// docs/coverage.md names files, functions and tests: each must exist, so that the tables stay true when code moves.
import { deepEqual, ok } from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { kunitCases } from "../src/kernel/asi/kunit.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const text = readFileSync(join(root, "docs", "coverage.md"), "utf8").replaceAll("\n", " ");
const lines = readFileSync(join(root, "docs", "coverage.md"), "utf8").split("\n");
const read = (file: string): string => (existsSync(join(root, file)) ? readFileSync(join(root, file), "utf8") : "");

test("docs/coverage.md has a row for each of the 29 patches", () => {
  const rows = new Set(lines.map((line) => /^\| (\d\d) \|/.exec(line)?.[1]).filter((row) => row !== undefined));
  deepEqual(
    [...rows].sort(),
    Array.from({ length: 29 }, (_, i) => String(i + 1).padStart(2, "0")),
  );
});

test("every file that docs/coverage.md names exists", () => {
  const files = [...text.matchAll(/\b(?:src|test)\/[\w./-]+\.(?:ts|md)\b/g)].map(([file]) => file);
  ok(files.length > 60, `${files.length} files`);
  deepEqual(
    files.filter((file) => !existsSync(join(root, file))),
    [],
  );
});

test("every function that docs/coverage.md names is in the file that follows it", () => {
  const named = [...text.matchAll(/`(\w+)(?:\(\))?`(?:, `\w+\(\)`)*, (src\/[\w./-]+\.ts)/g)];
  const wrong: string[] = [];
  let count = 0;
  for (const [whole, , file = ""] of named) {
    for (const [, name = ""] of whole.matchAll(/`(\w+)(?:\(\))?`/g)) {
      count += 1;
      if (!new RegExp(`\\b(?:function|const) ${name}\\b`).test(read(file))) wrong.push(`${name} in ${file}`);
    }
  }
  ok(count > 60, `${count} functions`);
  deepEqual(wrong, []);
});

test("every test that docs/coverage.md names begins so in its file, or is a KUnit case", () => {
  const named = [...text.matchAll(/((?:src|test)\/[\w./-]+\.test\.ts): "([^"]+)"/g)];
  ok(named.length > 45, `${named.length} tests`);
  const isThere = (file: string, name: string): boolean => {
    if (file === "src/kernel/asi/kunit.test.ts") return kunitCases.some((one) => one.name === name);
    const source = read(file);
    return ["test(`", 'test("'].some((start) => source.includes(`${start}${name}`));
  };
  deepEqual(
    named.filter(([, file = "", name = ""]) => !isThere(file, name)).map(([whole]) => whole),
    [],
  );
});

test("every KUnit case is in the table under its published name", () => {
  deepEqual(
    kunitCases.map(({ name }) => name).filter((name) => !lines.some((line) => line.startsWith(`| ${name} `))),
    [],
  );
});
