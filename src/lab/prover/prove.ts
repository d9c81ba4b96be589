// From a configuration to a verdict: makes the system, searches it, and says what was covered and what was not.
import { type SavedSearch, saveSearch } from "./checkpoint.ts";
import type { Configuration } from "./configuration.ts";
import { searchDeepening } from "./deepening.ts";
import { EventExplorer } from "./event-explorer.ts";
import { Expander } from "./expander.ts";
import type { Learnt } from "./footprint.ts";
import { type Expanders, Search, type SearchProgress, type SearchResult, type SearchState } from "./search.ts";
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
  readonly progress?: (progress: SearchProgress) => boolean;
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

/** One system, or one for each worker, for all searches of a proof: making one takes longer than many a search. */
class Prover {
  readonly explorer: EventExplorer;
  private readonly configuration: Configuration;
  private readonly options: ProveOptions;
  private readonly workers: Workers | undefined;
  private given: Learnt;
  private hasSearched = false;

  constructor(configuration: Configuration, options: ProveOptions, given: Learnt) {
    this.configuration = configuration;
    this.options = options;
    this.given = given;
    const learnt = options.isUnreduced === true ? undefined : given;
    this.explorer = explorerOf(configuration, learnt);
    if (configuration.workers === 1 || options.isDeepening === true) return;
    const data: WorkerData = { configuration, learnt };
    this.workers = new Workers(configuration.workers, new URL("./search-worker.js", import.meta.url), data);
  }

  /** Searches up to `depth` events (0: everything), knowing what `given` says of footprints. */
  search(depth: number, given: Learnt, from: SavedSearch | undefined): Promise<SearchResult> | SearchResult {
    const { configuration, options, explorer } = this;
    const limits = { depth, bytes: configuration.searchMegabytes * MEBIBYTE, findsAll: options.findsAll ?? false };
    if (this.hasSearched) this.beginAgain(given);
    this.hasSearched = true;
    if (options.isDeepening === true) return searchDeepening(explorer, limits);
    const root = { low: explorer.stateLow, high: explorer.stateHigh };
    const search = new Search(this.workers ?? inline(explorer), limits, from ?? root);
    return search.run({ progress: this.saver(searchIdentity(configuration, limits.findsAll)) });
  }

  async close(): Promise<void> {
    await this.workers?.close();
  }

  private beginAgain(given: Learnt): void {
    this.given = given;
    this.explorer.beginAgain(given);
    this.workers?.beginAgain(given);
  }

  /** Tells how far it is, and saves now and then. */
  private saver(identity: string): (progress: SearchProgress, state: () => SearchState) => boolean {
    const { progress: listener, saveTo } = this.options;
    let saved = performance.now();
    return (progress, state) => {
      const isStopped = listener?.(progress) ?? false;
      if (saveTo !== undefined && (isStopped || performance.now() - saved > SAVE_SECONDS * 1000)) {
        saveSearch(saveTo, identity, { ...state(), given: this.given });
        saved = performance.now();
      }
      return isStopped;
    };
  }
}

/**
 * Searches, again and again until nothing more is learnt of footprints. Bad limits are the configuration's matter; an error of the prover itself
 * is thrown.
 */
export async function prove(configuration: Configuration, options: ProveOptions = {}): Promise<Verdict> {
  let given: Learnt = options.from?.given ?? [];
  const prover = new Prover(configuration, options, given);
  try {
    let { from } = options;
    let executions = 0;
    const { depth } = configuration;
    // The first searches are for learning: a few events suffice.
    let isLearning = from === undefined && options.isUnreduced !== true && !(depth > 0 && depth <= LEARNING_DEPTH);
    for (let passes = 1; ; passes++) {
      const result = await prover.search(isLearning ? LEARNING_DEPTH : depth, given, from);
      executions += result.executions;
      from = undefined;
      const known = given.length;
      given = [...new Set([...given, ...result.learnt])].sort((a, b) => a - b);
      const isCutShort = result.end === "memory" || result.end === "stopped";
      if (isLearning && !isCutShort) {
        isLearning = given.length > known;
        continue;
      }
      if (given.length > known && !isCutShort) continue;
      const { foundBefore } = prover.explorer;
      const missing = missingOccurrences(configuration, result.occurred);
      const collision = collisionProbability(result.states);
      return { configuration, ...judged(result, missing, foundBefore), foundBefore, result, passes, executions, missing, collision };
    }
  } finally {
    await prover.close();
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
