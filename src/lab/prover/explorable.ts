// What the search knows of a system: states with hashes, events that can begin, and going back.

import type { EventCode } from "./event-code.ts";
import type { Learnt } from "./footprint.ts";

/** What was found in the course of one execution. */
export interface Finding {
  /** The same for the same fault. */
  readonly signature: string;
  readonly message: string;
}

/** Called at the end of each execution, while the system is in the state that it led to. */
export type Visitor = (code: EventCode, finding: Finding | undefined) => void;

export interface Explorable {
  /** Hash of the present state, two 32-bit halves. Only between events. */
  readonly stateLow: number;
  readonly stateHigh: number;
  /** The present state, to go back to; marks are taken back in the reverse order, each any number of times. */
  mark(): number;
  rewind(mark: number): void;
  /** What can begin now, in a fixed order. */
  starts(): readonly number[];
  /**
   * Executes `start` with each list of injections that the bounds allow and the reductions leave. The state is the present one again
   * afterwards.
   * @returns number of executions
   */
  explore(start: number, visit: Visitor): number;
  /** Executes one event and stays in the state that it leads to. */
  run(code: EventCode): Finding | undefined;
  /** States were taken for equal that may not be: a guess that made the space small was wrong. */
  readonly isInexact: boolean;
  /** What was learnt of footprints since this was last asked; empty: nothing is left out for want of knowing. */
  takeLearnt(): Learnt;
  /** Situations that have come up so far, by name: a proof about something that never happened is none. */
  occurred(): Iterable<string>;
}
