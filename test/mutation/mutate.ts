// `npm run mutate`: every single change of the kernel code that matters most, against the tests that execute it. Results are kept under
// build/mutate, so that a run that is killed goes on where it was; the report is docs/mutation.md. The checkout itself is never changed:
// mutants are written to copies of dist/, one for each worker.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Candidate, collect } from "./collection.ts";
import { type Execution, hashOf, isExecuted } from "./execution.ts";
import { type Explanation, explanationOf, isExcused, readExplanations } from "./explanations.ts";
import { measureExecutions } from "./measuring.ts";
import { type MutateOptions, parseOptions, UsageError } from "./options.ts";
import { WitnessOrder } from "./planning.ts";
import { judge, meetsAims, reportText, scoreOf } from "./report.ts";
import { isRefuted, type Result, Results, type Verdict } from "./results.ts";
import type { Group } from "./targets.ts";
import { CHECKS, makeTree, runWitness, testWitness, type Witness } from "./witness.ts";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");
const STORE = join(ROOT, "build", "mutate");
const REPORT = join(ROOT, "docs", "mutation.md");
const EXPLANATIONS = join(ROOT, "test", "mutation", "explanations.json");

/** What a witness is taken to cost of which nothing is known. */
const UNKNOWN_COST = 10_000;
/** A witness hangs when it takes this many times the processor time that it takes on the kernel as it is, and this much at least. */
const HANG_FACTOR = 4;
const HANG_MILLISECONDS = 15_000;

/** What the report is about, whatever a run is restricted to; KVM whole where it was asked for. */
const REPORTED: readonly Group[] = ["seed", "asi", "entry"];

class Progress {
  private last = 0;

  show(text: string, isFinal = false): void {
    if (!process.stderr.isTTY) {
      // A line a minute in a log.
      if (!isFinal && Date.now() - this.last < 60_000) return;
      this.last = Date.now();
      process.stderr.write(`${text}\n`);
      return;
    }
    process.stderr.write(`\r\x1b[K${text.slice(0, (process.stderr.columns ?? 80) - 1)}${isFinal ? "\n" : ""}`);
  }
}

class Campaign {
  private readonly order = new WitnessOrder();
  private readonly results: Results;
  private readonly executions: ReadonlyMap<string, Execution>;
  /** What one mutant may cost, in ms. */
  private readonly budget: number;
  /** Hashes of the files below dist/ as the tests execute them. */
  private readonly outputHashes = new Map<string, string>();

  constructor(results: Results, executions: ReadonlyMap<string, Execution>, budget: number) {
    this.budget = budget;
    this.results = results;
    this.executions = executions;
  }

  /** What refuted mutants before says where to look first. */
  learn(candidates: readonly Candidate[]): void {
    for (const { mutant } of candidates) {
      const witness = this.results.lastWitness(mutant.key);
      if (witness !== undefined) this.order.record(witness, mutant.file, mutant.where, true);
    }
  }

  /** Tries the witnesses of one mutant until one refutes it. */
  async run(candidate: Candidate, tree: string): Promise<Result> {
    const started = Date.now();
    const { mutant, hash, output, text, original } = candidate;
    const names = this.witnessesOf(candidate);
    const cost = (name: string): number => this.executions.get(name)?.milliseconds ?? UNKNOWN_COST;
    const ordered = this.order.order(names, mutant.file, mutant.where, this.results.lastWitness(mutant.key), cost);
    const target = join(tree, "dist", output);
    writeFileSync(target, text);
    let tried = 0;
    let verdict: Verdict = ordered.length === 0 ? "not executed" : "survived";
    let refutation: { readonly witness: string; readonly by: string } | undefined;
    let left = this.budget;
    for (const name of ordered) {
      const hang = Math.max(HANG_MILLISECONDS, HANG_FACTOR * cost(name));
      if (left < cost(name)) {
        verdict = "over budget";
        continue;
      }
      // What it takes when nothing else runs: on a busy machine the same witnesses are tried.
      left -= cost(name);
      const run = await runWitness(tree, witnessNamed(name), hang);
      tried++;
      const isRefutation = run.outcome === "failed" || run.outcome === "hung";
      this.order.record(name, mutant.file, mutant.where, isRefutation);
      if (run.outcome === "stopped") verdict = "over budget";
      if (!isRefutation) continue;
      verdict = run.outcome === "hung" ? "timeout" : "killed";
      refutation = { witness: name, by: run.by };
      break;
    }
    writeFileSync(target, original);
    const result: Result = { key: mutant.key, hash, verdict, ...refutation, tried, milliseconds: Date.now() - started };
    this.results.add(result);
    return result;
  }

  /** Which witnesses execute what is changed, or may do so. */
  private witnessesOf(candidate: Candidate): readonly string[] {
    const { output, offset } = candidate;
    const current = this.hashOfOutput(output);
    const tests = [...this.executions].filter(([, execution]) => {
      if (!execution.passes) return false;
      const counts = execution.files[output];
      if (counts === undefined) return false;
      return offset === undefined || counts.hash !== current || isExecuted(counts, offset);
    });
    return [...tests.map(([name]) => name), ...CHECKS.map(({ name }) => name)];
  }

  private hashOfOutput(output: string): string {
    const known = this.outputHashes.get(output);
    if (known !== undefined) return known;
    const hash = hashOf(readFileSync(join(ROOT, "dist", output), "utf8"));
    this.outputHashes.set(output, hash);
    return hash;
  }
}

function witnessNamed(name: string): Witness {
  return CHECKS.find((check) => check.name === name) ?? testWitness(name);
}

async function runAll(
  options: MutateOptions,
  candidates: readonly Candidate[],
  results: Results,
  explanations: readonly Explanation[],
  progress: Progress,
): Promise<void> {
  const wanted = candidates
    .filter((candidate) => options.groups.includes(candidate.group) && isOnly(options, candidate.mutant.file))
    .filter((_, index) => index % options.sample === 0)
    .filter(({ mutant, hash }) => {
      const before = results.of(mutant.key, hash);
      return before === undefined || (options.again && !isRefuted(before.verdict) && !isExcused(explanationOf(mutant, explanations)));
    });
  if (wanted.length === 0) return;
  const trees = Array.from({ length: options.jobs }, (_, index) => join(STORE, `worker-${index}`));
  for (const tree of trees) makeTree(ROOT, tree);
  const isKernel = (file: string): boolean => /^src\/kernel\/(?:asi|entry|kvm)\//.test(file) && !file.endsWith(".test.js");
  const executions = await measureExecutions(ROOT, join(STORE, "executions.json"), trees, isKernel, (text) => progress.show(text));
  const campaign = new Campaign(results, executions, 1000 * options.budget);
  campaign.learn(candidates);
  const started = Date.now();
  let [next, done, survived] = [0, 0, 0];
  await Promise.all(
    trees.map(async (tree) => {
      for (let candidate = wanted[next++]; candidate !== undefined; candidate = wanted[next++]) {
        const result = await campaign.run(candidate, tree);
        done++;
        if (!isRefuted(result.verdict)) survived++;
        const minutes = ((Date.now() - started) / 60_000 / done) * (wanted.length - done);
        progress.show(`${done} of ${wanted.length}, ${survived} not refuted, ${Math.ceil(minutes)} min left: ${candidate.mutant.file}`);
      }
    }),
  );
  for (const tree of trees) rmSync(tree, { recursive: true, force: true });
}

function isOnly({ only }: MutateOptions, file: string): boolean {
  return only.length === 0 || only.some((part) => file.includes(part));
}

async function main(args: readonly string[]): Promise<number> {
  const options = parseOptions(args);
  const progress = new Progress();
  mkdirSync(STORE, { recursive: true });
  const resultsPath = join(STORE, "results.jsonl");
  if (options.isFresh) rmSync(resultsPath, { force: true });
  const results = new Results(resultsPath);
  const explanations = readExplanations(EXPLANATIONS);
  const reported = [...new Set([...REPORTED, ...options.groups])];
  progress.show("mutants");
  const collection = collect(ROOT, join(STORE, "emission"), reported, () => true);
  if (options.only.length > 0 && !collection.candidates.some(({ mutant }) => isOnly(options, mutant.file))) {
    throw new UsageError(`--only: no source file's path contains ${options.only.join(" or ")}`);
  }
  if (!options.reportOnly) await runAll(options, collection.candidates, results, explanations, progress);
  const judged = judge(collection.candidates, ({ mutant, hash }) => results.of(mutant.key, hash), explanations);
  writeFileSync(REPORT, reportText(collection, judged));
  const selected = judged.filter(({ candidate }) => options.groups.includes(candidate.group) && isOnly(options, candidate.mutant.file));
  const score = scoreOf(selected);
  const summary = `${score.run} of ${score.mutants} run: ${score.refuted} refuted, ${score.excused} excused, ${score.open} open (${score.percent.toFixed(1)} %)`;
  progress.show(summary, true);
  return meetsAims(selected, options.groups) ? 0 : 1;
}

if (!existsSync(join(ROOT, "node_modules", "typescript"))) throw new Error("npm run mutate needs the development dependencies");
try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`cordon: ${error.message}\n`);
  process.exitCode = 2;
}
