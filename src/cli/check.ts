// `cordon check`: every interleaving of a small system on the abstract machine, or the shortest counterexample. Standard output depends on
// what is checked alone; how fast it goes is on standard error.
import { existsSync } from "node:fs";
import { UsageError } from "../hardware/index.ts";
import {
  CONFIGURATION_FLAGS,
  CONFIGURATION_NAMES,
  type Configuration,
  loadSearch,
  namedConfiguration,
  parseConfiguration,
  prove,
  type SearchProgress,
  searchIdentity,
  withFlags,
} from "../lab/index.ts";
import { readArguments, wholeNumber } from "./arguments.ts";
import { checkDifference } from "./check-difference.ts";
import { printCounterexample, replayCheck } from "./check-story.ts";
import { checkTable } from "./check-table.ts";
import { verdictText } from "./check-text.ts";
import { checkWritable, readBytes } from "./files.ts";

const HELP = `cordon check [CONFIGURATION | FILE.yaml] [OPTIONS]

Explores every interleaving of a small system on the abstract machine, the kernel's own code unchanged: which CPU does what, what is injected
before which step, who is suspended for whom. Judges S1 to S10 at every step. Prints a proof within the bounds, or the shortest counterexample.

  CONFIGURATION          ${CONFIGURATION_NAMES.join(", ")}
                         (default standard)
  FILE.yaml              a configuration in a file (docs/check.schema.json)
${CONFIGURATION_FLAGS.map((name) => `  --${`${name} VALUE`.padEnd(26)} changes the configuration`).join("\n")}
  --all                  goes on after a counterexample: the shortest of each kind
  --search breadth|deepening   breadth first on all workers (default), or depth first with a growing bound on one
  --save FILE            saves the search every minute, and goes on with it if the file is there
  --unreduced            no reduction: every injection before every step
  --replay FILE          executes the counterexample of a file again, and tells its story
  --out FILE             the first counterexample as such a file
  --story FILE           the first counterexample's story as JSON
  --diff "A" --with "B"  compares two presets or kernel command lines: what each operation costs, which properties are lost
  --all-options          judges each option and each configuration instead, and writes the table to --out (default docs/verdicts.md)
  --list                 the configurations

Exit status: 0 proved within the bounds; 1 a counterexample; 2 bad input; 3 incomplete (why, and what was covered, is said).
`;

const OPTIONS = {
  ...Object.fromEntries(CONFIGURATION_FLAGS.map((name) => [name, "string"] as const)),
  all: "boolean",
  search: "string",
  save: "string",
  replay: "string",
  out: "string",
  "all-options": "boolean",
  diff: "string",
  with: "string",
  story: "string",
  list: "boolean",
  unreduced: "boolean",
  help: "boolean",
} as const;

const EXIT_STATUS = { proved: 0, refuted: 1, incomplete: 3 } as const;

/** @returns the exit status. */
export async function check(args: readonly string[]): Promise<number> {
  const parsed = readArguments("check", args, OPTIONS, { min: 0, max: 1, what: "at most one configuration" });
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  if (parsed.flag("list")) {
    process.stdout.write(CONFIGURATION_NAMES.map((name) => `${name}\n`).join(""));
    return 0;
  }
  const replayed = parsed.text("replay");
  if (replayed !== undefined) {
    if (args.length > 2 || parsed.positionals.length > 0)
      throw new UsageError(`check: with --replay nothing else is accepted; the rest stands in ${replayed}`);
    return replayCheck(replayed);
  }
  const files = { replay: parsed.text("out"), story: parsed.text("story") };
  for (const file of [files.replay, files.story]) if (file !== undefined) checkWritable(file);
  if (parsed.flag("all-options")) {
    const file = parsed.text("out") ?? "docs/verdicts.md";
    checkWritable(file);
    const depth = wholeNumber("depth", parsed.text("depth"), 0, 0, 1000);
    return checkTable(file, depth, wholeNumber("workers", parsed.text("workers"), 2, 1, 64));
  }
  const configuration = withFlags(baseOf(parsed.positionals[0]), parsed.text);
  const [one, other] = [parsed.text("diff"), parsed.text("with")];
  if (one !== undefined || other !== undefined) {
    if (one === undefined || other === undefined)
      throw new UsageError("check: --diff and --with belong together: two presets or kernel command lines");
    return checkDifference(configuration, one, other);
  }
  const findsAll = parsed.flag("all");
  const saveTo = parsed.text("save");
  if (saveTo !== undefined) checkWritable(saveTo);
  const from = saveTo !== undefined && existsSync(saveTo) ? loadSearch(saveTo, searchIdentity(configuration, findsAll)) : undefined;
  const verdict = await prove(configuration, {
    findsAll,
    isUnreduced: parsed.flag("unreduced"),
    isDeepening: parsed.choice("search", ["breadth", "deepening"]) === "deepening",
    progress: progressLine(),
    ...(saveTo === undefined ? {} : { saveTo }),
    ...(from === undefined ? {} : { from }),
  });
  process.stdout.write(verdictText(verdict));
  const [first] = verdict.result.found;
  if (first !== undefined) printCounterexample(configuration, first, files);
  return EXIT_STATUS[verdict.outcome];
}

function baseOf(given: string | undefined): Configuration {
  if (given === undefined) return namedConfiguration("standard");
  if (!/\.ya?ml$/.test(given)) return namedConfiguration(given);
  return parseConfiguration(new TextDecoder().decode(readBytes(given)), given);
}

const PROGRESS_SECONDS = 2;

/** Says now and then how far it is, if somebody watches. */
function progressLine(): (progress: SearchProgress) => boolean {
  const started = performance.now();
  let next = started + PROGRESS_SECONDS * 1000;
  return ({ states, depth, layerStart, layerEnd, next: done, executions, found }) => {
    const now = performance.now();
    if (!process.stderr.isTTY || now < next) return false;
    next = now + PROGRESS_SECONDS * 1000;
    const rate = Math.round(executions / ((now - started) / 1000));
    const layer = `events ${depth + 1}: ${done - layerStart} of ${layerEnd - layerStart} states expanded`;
    process.stderr.write(`cordon: ${states} states, ${layer}, ${executions} executions, ${rate} a second, ${found} found\n`);
    return false;
  };
}
