// From a configuration to a verdict: makes the system, searches it, and says what was covered and what was not.
import { saveSearch } from "./checkpoint.ts";
import type { Configuration } from "./configuration.ts";
import { searchDeepening } from "./deepening.ts";
import { EventExplorer } from "./event-explorer.ts";
import { Expander } from "./expander.ts";
import { type Expanders, Search, type SearchResult, type SearchState } from "./search.ts";
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
  readonly from?: SearchState;
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
  readonly result: SearchResult;
  /** Probability that two states were taken for one because their hashes are equal. */
  readonly collision: number;
}

/** The system of a configuration, ready to be searched. */
export function explorerOf(configuration: Configuration): EventExplorer {
  return new EventExplorer(new System(configuration), configuration);
}

/** Which search it is: a saved one is gone on with only by the same. */
export function searchIdentity(configuration: Configuration, findsAll: boolean): string {
  const { workers: _workers, searchMegabytes: _memory, ...rest } = configuration;
  return JSON.stringify({ ...rest, findsAll });
}

const SAVE_SECONDS = 60;
const MEBIBYTE = 2 ** 20;

/** Searches. Bad limits are the configuration's matter; an error of the prover itself is thrown. */
export async function prove(configuration: Configuration, options: ProveOptions = {}): Promise<Verdict> {
  const { depth, searchMegabytes, workers } = configuration;
  const limits = { depth, bytes: searchMegabytes * MEBIBYTE, findsAll: options.findsAll ?? false };
  const explorer = explorerOf(configuration);
  const root = { low: explorer.stateLow, high: explorer.stateHigh };
  let result: SearchResult;
  if (options.isDeepening === true) result = searchDeepening(explorer, limits);
  else {
    const pool = workers > 1 ? new Workers(workers, new URL("./search-worker.js", import.meta.url), configuration) : undefined;
    const identity = searchIdentity(configuration, limits.findsAll);
    let saved = performance.now();
    try {
      result = await new Search(pool ?? inline(explorer), limits, options.from ?? root).run({
        progress: (state) => {
          const isStopped = options.progress?.(state) ?? false;
          const isDue = isStopped || performance.now() - saved > SAVE_SECONDS * 1000;
          if (options.saveTo !== undefined && isDue) {
            saveSearch(options.saveTo, identity, state);
            saved = performance.now();
          }
          return isStopped;
        },
      });
    } finally {
      await pool?.close();
    }
  }
  return { configuration, ...judged(result), result, collision: collisionProbability(result.states) };
}

function inline(explorer: EventExplorer): Expanders {
  const expander = new Expander(explorer);
  return { width: 1, expand: (paths) => Promise.resolve(expander.expand(paths)) };
}

function judged(result: SearchResult): { readonly outcome: Outcome; readonly why: string } {
  if (result.found.length > 0) return { outcome: "refuted", why: "" };
  if (result.isInexact)
    return { outcome: "incomplete", why: "a cached entry of page tables changed, though no operation was expected to change one" };
  if (result.end === "memory") return { outcome: "incomplete", why: "the memory of the search is full" };
  if (result.end === "stopped") return { outcome: "incomplete", why: "it was stopped" };
  return { outcome: "proved", why: "" };
}
