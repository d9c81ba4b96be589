// The soak: episodes from a seed until enough events have been handled. The first one that fails is shrunk to a short script.
import { Random } from "../random.ts";
import { type EpisodeFailure, runEpisode } from "./episode.ts";
import { generate } from "./generator.ts";
import type { EpisodeConfig, Script } from "./script.ts";
import { shrink } from "./shrink.ts";

export interface SoakOptions {
  readonly seed: number;
  /** Kernel events (system calls, page faults, interrupts, NMIs, VM exits) after which no further episode begins. */
  readonly events: number;
  /** Items of one episode; 6000 by default. */
  readonly items?: number;
  /** Replaces what the seeds would choose. */
  readonly config?: EpisodeConfig;
  /** Episodes that shrinking may run; 400 by default, 0 for none. */
  readonly shrinkRuns?: number;
  /** Hears how it goes. */
  readonly progress?: (done: SoakProgress) => void;
}

export interface SoakProgress {
  readonly episodes: number;
  readonly events: number;
}

export interface SoakReport extends SoakProgress {
  readonly steps: number;
  /** Items by action and injections by kind, over all episodes. */
  readonly counts: ReadonlyMap<string, number>;
  readonly failed:
    | { readonly episodeSeed: number; readonly failure: EpisodeFailure; readonly script: Script; readonly short: Script }
    | undefined;
}

const ITEMS = 6000;
const SHRINK_RUNS = 400;
/** Seeds of consecutive episodes of consecutive soaks do not meet. */
const SEED_STRIDE = 1_000_003;

/** Seed of episode `index` of a soak. */
export function episodeSeed(seed: number, index: number): number {
  return (Math.imul(seed, SEED_STRIDE) + index) >>> 0;
}

export function soak(options: SoakOptions): SoakReport {
  const counts = new Map<string, number>();
  let events = 0;
  let episodes = 0;
  let steps = 0;
  while (events < options.events) {
    const seed = episodeSeed(options.seed, episodes);
    const script = generate(new Random(seed), options.items ?? ITEMS, options.config);
    const result = runEpisode(script);
    episodes++;
    events += result.events;
    steps += result.steps;
    for (const [what, count] of result.counts) counts.set(what, (counts.get(what) ?? 0) + count);
    options.progress?.({ episodes, events });
    const { failure } = result;
    if (failure !== undefined) {
      const short = shrink(script, failure.signature, { runs: options.shrinkRuns ?? SHRINK_RUNS });
      return { episodes, events, steps, counts, failed: { episodeSeed: seed, failure, script, short } };
    }
  }
  return { episodes, events, steps, counts, failed: undefined };
}
