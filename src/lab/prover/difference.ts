// What two presets or command lines differ in: what each operation costs under both, and which properties each loses, with the shortest witness.
import { PRESETS } from "../../kernel/index.ts";
import { TransitionCounter, type TransitionCounts } from "../transition-counts.ts";
import type { Configuration } from "./configuration.ts";
import { operationNames } from "./operations.ts";
import { prove, type Verdict } from "./prove.ts";
import { System } from "./system.ts";

export interface Side {
  /** As it was asked for: a preset, or a command line. */
  readonly name: string;
  readonly verdict: Verdict;
  /** Of the second time in a row, by operation, of those that can be done twice from the beginning. */
  readonly costs: ReadonlyMap<string, TransitionCounts>;
}

/** `base` with what `name` says: a preset, or else the kernel's command line. */
export function sideOf(base: Configuration, name: string): Configuration {
  const preset = PRESETS.find((one) => one === name);
  return preset === undefined ? { ...base, commandLine: name } : { ...base, preset };
}

/** Judges one side and counts what its operations cost. */
export async function judgeSide(base: Configuration, name: string): Promise<Side> {
  const configuration = sideOf(base, name);
  const verdict = await prove(configuration, { findsAll: true });
  return { name, verdict, costs: costsOf(configuration) };
}

function costsOf(configuration: Configuration): ReadonlyMap<string, TransitionCounts> {
  const system = new System(configuration);
  const costs = new Map<string, TransitionCounts>();
  const here = system.machine.mark();
  const checker = system.check.checker.mark();
  for (const operation of operationNames(configuration).slice(1)) {
    const cost = costOf(system, operation);
    if (cost !== undefined) costs.set(operation, cost);
    system.machine.rewind(here);
    system.check.checker.rewind(checker);
  }
  return costs;
}

/** The cost of the second time; undefined where it cannot be done twice. */
function costOf(system: System, operation: string): TransitionCounts | undefined {
  const counter = new TransitionCounter();
  for (const isCounted of [false, true]) {
    const choice = system.choices().find((one) => one.cpu === 0 && one.operation === operation);
    if (choice === undefined) return undefined;
    system.onTrace = (event, a) => {
      if (isCounted) counter.hear(event, a);
    };
    system.begin(choice);
    const end = system.runEvent(choice);
    system.onTrace = undefined;
    if (end !== "edge") return undefined;
  }
  return counter.counts();
}
