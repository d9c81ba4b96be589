// Every allocation of an action fails once: whatever the kernel had done by then must be undone, the next try must succeed, and at the
// end nothing is left over (S9). Each try is an episode of its own, compared with the undisturbed one.
import { isErr } from "../../abi/index.ts";
import { runEpisode } from "./episode.ts";
import type { EpisodeConfig, Item } from "./script.ts";

export interface FailingScenario {
  readonly name: string;
  readonly config: EpisodeConfig;
  /** What the process does before; all of slot 0. */
  readonly before?: readonly (readonly [action: string, ...args: number[]])[];
  /** The action whose allocations fail. It is then done once more, undisturbed. */
  readonly action: readonly [action: string, ...args: number[]];
  readonly after?: readonly (readonly [action: string, ...args: number[]])[];
}

export interface FailingReport {
  /** Allocations of the action that were made to fail, each once. */
  readonly attempts: number;
  /** Of those, how often the action told of it by an error, was cut short by a signal, or got on without. */
  readonly refused: number;
  readonly killed: number;
  readonly survived: number;
  /** What went wrong, by the number of the attempt that failed. */
  readonly wrong: readonly string[];
}

/** An action that goes on beyond this many allocations never ends. */
const MOST_ATTEMPTS = 400;

/** Fails the first, second, ... allocation of the action until none is left to fail. */
export function failEveryAllocation(scenario: FailingScenario): FailingReport {
  const plain = ([action, ...args]: readonly [string, ...number[]]): Item => ({ slot: 0, action, args });
  const tested = plain(scenario.action);
  const wrong: string[] = [];
  let attempts = 0;
  let refused = 0;
  let killed = 0;
  let survived = 0;
  for (let nth = 1; nth <= MOST_ATTEMPTS; nth++) {
    const failing: Item = { ...tested, fail: nth };
    const items = [...(scenario.before ?? []).map(plain), failing, tested, ...(scenario.after ?? []).map(plain)];
    const { failure, outcomes, failedAllocations } = runEpisode(
      { config: scenario.config, items },
      { keepsOutcomes: true, keepsSites: true },
    );
    if (failure !== undefined) wrong.push(`attempt ${nth}: ${failure.message}`);
    if (failedAllocations === 0) return { attempts, refused, killed, survived, wrong };
    attempts++;
    const first = outcomes.find(({ item }) => item === failing);
    const again = outcomes.find(({ item }) => item === tested);
    if (first === undefined) killed++;
    else if (isErr(first.result)) refused++;
    else survived++;
    if (first !== undefined && (again === undefined || isErr(again.result)))
      wrong.push(`attempt ${nth}: the next try gave ${again?.result ?? "nothing"}`);
  }
  wrong.push(`more than ${MOST_ATTEMPTS} allocations`);
  return { attempts, refused, killed, survived, wrong };
}
