// Finds which test files execute what, by running each once under V8's counters, and keeps that under build/ for the next time.
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Execution, hashOf, readCounts } from "./execution.ts";
import { runWitness, testFiles, testWitness } from "./witness.ts";

/** A test file that takes longer refutes nothing in the time that a mutant has. */
const LONGEST_MILLISECONDS = 60_000;

export type Executions = ReadonlyMap<string, Execution>;

/** What is known, completed by running the test files that are new or have changed, in the trees of the workers. */
export async function measureExecutions(
  root: string,
  store: string,
  trees: readonly string[],
  wanted: (file: string) => boolean,
  progress: (text: string) => void,
): Promise<Executions> {
  const known = readStore(store);
  const dist = join(root, "dist");
  const files = testFiles(dist).filter((file) => !file.startsWith("test/mutation/"));
  const current = new Map<string, Execution>();
  const missing: string[] = [];
  for (const file of files) {
    const before = known[file];
    if (before !== undefined && before.hash === hashOf(readFileSync(join(dist, file), "utf8"))) current.set(file, before);
    else missing.push(file);
  }
  let done = 0;
  const queue = [...missing];
  await Promise.all(
    trees.map(async (tree) => {
      for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
        progress(`what tests execute: ${++done} of ${missing.length}: ${file}`);
        current.set(file, await measure(tree, file, wanted));
        writeStore(store, current);
      }
    }),
  );
  return current;
}

async function measure(tree: string, file: string, wanted: (file: string) => boolean): Promise<Execution> {
  const folder = join(tree, "build", "counts");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const run = await runWitness(tree, testWitness(file), LONGEST_MILLISECONDS, { NODE_V8_COVERAGE: folder });
  const dist = join(tree, "dist");
  const passes = run.outcome === "passed";
  const files = passes ? readCounts(folder, dist, wanted) : {};
  rmSync(folder, { recursive: true, force: true });
  return { milliseconds: run.milliseconds, hash: hashOf(readFileSync(join(dist, file), "utf8")), passes, files };
}

function readStore(store: string): Readonly<Record<string, Execution>> {
  if (!existsSync(store)) return {};
  return JSON.parse(readFileSync(store, "utf8")) as Readonly<Record<string, Execution>>; // written by writeStore()
}

export function writeStore(store: string, executions: Executions): void {
  mkdirSync(join(store, ".."), { recursive: true });
  writeFileSync(`${store}.new`, JSON.stringify(Object.fromEntries(executions)));
  renameSync(`${store}.new`, store);
}
