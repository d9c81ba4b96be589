// The checks of `npm test`, in order of cost: format and lint, types (the build before it), every test, with coverage on request.
// Arguments are parts of paths: only test files that contain one of them run, and lint is left out.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const bin = (name) => join(root, "node_modules", ".bin", name);
const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
const coverage = process.argv.includes("--coverage");

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, stdio: "inherit", shell: process.platform === "win32" });
  if (result.status !== 0) process.exit(result.status ?? 1);
}

function testFiles(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? testFiles(join(folder, entry.name)) : [join(folder, entry.name)]))
    .filter((path) => path.endsWith(".test.js"))
    .sort();
}

if (wanted.length === 0) run(bin("biome"), ["ci", "--error-on-warnings", "."]);
const files = [...testFiles(join(root, "dist", "src")), ...testFiles(join(root, "dist", "test"))]
  .map((path) => relative(root, path))
  .filter((path) => wanted.length === 0 || wanted.some((part) => path.includes(part)));
if (files.length === 0) {
  console.error(`cordon: no test file matches ${wanted.join(" ")}`);
  process.exit(2);
}
const test = ["--test", "--test-reporter=spec", "--test-concurrency=2", ...files];
if (coverage) {
  run(bin("c8"), ["--reporter=text-summary", "--include=dist/src/**", "--exclude=**/*.test.js", process.execPath, ...test]);
} else {
  run(process.execPath, test);
}
