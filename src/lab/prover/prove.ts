// From a configuration to a verdict: makes the system, searches it, and says what was covered and what was not.
import { type SavedSearch, saveSearch } from "./checkpoint.ts";
import type { Configuration } from "./configuration.ts";
import { searchDeepening } from "./deepening.ts";
import { EventExplorer } from "./event-explorer.ts";
import { Expander } from "./expander.ts";
import type { Learnt } from "./footprint.ts";
import { type Expanders, Search, type SearchResult, type SearchState } from "./search.ts";
import { missingOccurrences } from "./sometimes.ts";
import { System } from "./system.ts";
import { collisionProbability } from "./visited.ts";
import { Workers } from "./workers.ts";

export interface ProveOptions {
  /** Goes on after the first finding, and collects one of each kind. */
  readonly findsAll?: boolean;
  /** Depth first with a growing bound, on one core. */
  readonly isDeepening?: boolean;
  /** Where the search is saved now and then, to go on after a kill. */
  readonly saveTo?: string;
  /** Where an earlier one stood. */
  readonly from?: SavedSearch;
  /** Every injection before every step: to compare with. */
  readonly isUnreduced?: boolean;
  /** Called after each piece of work; true: stop here. */
  readonly progress?: (state: SearchState) => boolean;
}

/** proved: within the bounds; refuted: there is a counterexample; incomplete: neither, see `why`. */
export type Outcome = "proved" | "refuted" | "incomplete";

export interface Verdict {
  readonly configuration: Configuration;
  readonly outcome: Outcome;
  /** Why it is incomplete. */
  readonly why: string;
  /** What was violated while the processes set up, before the first event. */
  readonly foundBefore: readonly string[];
  /** The last search. */
  readonly result: SearchResult;
  /** Searches until nothing more was learnt of footprints, and the executions of all of them. */
  readonly passes: number;
  readonly executions: number;
  /** Situations that the properties guard and that never came up: a proof is not about them. */
  readonly missing: readonly string[];
  /** Probability that two states were taken for one because their hashes are equal. */
  readonly collision: number;
}

/** The system of a configuration, ready to be searched. `learnt`: of footprints; undefined: nothing is left out. */
export function explorerOf(configuration: Configuration, learnt?: Learnt): EventExplorer {
  return new EventExplorer(new System(configuration), configuration, learnt);
}

/** What a worker is made from. */
export interface WorkerData {
  readonly configuration: Configuration;
  readonly learnt: Learnt | undefined;
}

/** Which search it is: a saved one is gone on with only by the same. */
export function searchIdentity(configuration: Configuration, findsAll: boolean): string {
  const { workers: _workers, searchMegabytes: _memory, ...rest } = configuration;
  return JSON.stringify({ ...rest, findsAll });
}

const LEARNING_DEPTH = 2;
const SAVE_SECONDS = 60;
const MEBIBYTE = 2 ** 20;

/**
 * Searches, again and again until nothing more is learnt of footprints. Bad limits are the configuration's matter; an error of the prover itself
 * is thrown.
 */
export async function prove(configuration: Configuration, options: ProveOptions = {}): Promise<Verdict> {
  let given: Learnt = options.from?.given ?? [];
  let { from } = options;
  let executions = 0;
  // The first searches are for learning: a few events suffice.
  let isLearning =
    options.from === undefined && options.isUnreduced !== true && !(configuration.depth > 0 && configuration.depth <= LEARNING_DEPTH);
  for (let passes = 1; ; passes++) {
    const bounded = isLearning ? { ...configuration, depth: LEARNING_DEPTH } : configuration;
    const { result, foundBefore } = await search(bounded, options, from, options.isUnreduced === true ? undefined : given);
    executions += result.executions;
    from = undefined;
    const known = given.length;
    given = [...new Set([...given, ...result.learnt])].sort((a, b) => a - b);
    if (isLearning && result.end !== "memory" && result.end !== "stopped") {
      isLearning = given.length > known;
      continue;
    }
    if (given.length === known || result.end === "memory" || result.end === "stopped") {
      const missing = missingOccurrences(configuration, result.occurred);
      return {
        configuration,
        ...judged(result, missing, foundBefore),
        foundBefore,
        result,
        passes,
        executions,
        missing,
        collision: collisionProbability(result.states),
      };
    }
  }
}

async function search(
  configuration: Configuration,
  options: ProveOptions,
  from: SavedSearch | undefined,
  learnt: Learnt | undefined,
): Promise<{ readonly result: SearchResult; readonly foundBefore: readonly string[] }> {
  const { depth, searchMegabytes, workers } = configuration;
  const limits = { depth, bytes: searchMegabytes * MEBIBYTE, findsAll: options.findsAll ?? false };
  const explorer = explorerOf(configuration, learnt);
  const { foundBefore } = explorer;
  if (options.isDeepening === true) return { result: searchDeepening(explorer, limits), foundBefore };
  const root = { low: explorer.stateLow, high: explorer.stateHigh };
  const data: WorkerData = { configuration, learnt };
  const pool = workers > 1 ? new Workers(workers, new URL("./search-worker.js", import.meta.url), data) : undefined;
  const identity = searchIdentity(configuration, limits.findsAll);
  let saved = performance.now();
  try {
    const result = await new Search(pool ?? inline(explorer), limits, from ?? root).run({
      progress: (state) => {
        const isStopped = options.progress?.(state) ?? false;
        const isDue = isStopped || performance.now() - saved > SAVE_SECONDS * 1000;
        if (options.saveTo !== undefined && isDue) {
          saveSearch(options.saveTo, identity, { ...state, given: learnt ?? [] });
          saved = performance.now();
        }
        return isStopped;
      },
    });
    return { result, foundBefore };
  } finally {
    await pool?.close();
  }
}

function inline(explorer: EventExplorer): Expanders {
  const expander = new Expander(explorer);
  return { width: 1, expand: (paths) => Promise.resolve(expander.expand(paths)) };
}

function judged(
  result: SearchResult,
  missing: readonly string[],
  foundBefore: readonly string[],
): { readonly outcome: Outcome; readonly why: string } {
  if (result.found.length > 0 || foundBefore.length > 0) return { outcome: "refuted", why: "" };
  if (result.isInexact)
    return { outcome: "incomplete", why: "a cached entry of page tables changed, though no operation was expected to change one" };
  if (result.end === "memory") return { outcome: "incomplete", why: "the memory of the search is full" };
  if (result.end === "stopped") return { outcome: "incomplete", why: "it was stopped" };
  if (result.end === "closed" && missing.length > 0)
    return { outcome: "incomplete", why: `in the whole space it never came up that: ${missing.join("; ")}` };
  return { outcome: "proved", why: "" };
}
