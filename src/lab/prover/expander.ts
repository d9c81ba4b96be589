// Expands states: goes to each by its path, executing only what differs from the path before it, and there executes everything that can happen.
import { assert } from "../../hardware/index.ts";
import type { EventCode } from "./event-code.ts";
import type { Explorable, Finding } from "./explorable.ts";
import type { Learnt } from "./footprint.ts";
import { Visited } from "./visited.ts";

/** A state that an execution led to, or what was found on the way there. */
export interface Successor {
  /** Which of the expanded states it comes from. */
  readonly index: number;
  readonly event: EventCode;
  readonly low: number;
  readonly high: number;
  readonly finding?: Finding;
}

export interface Expansion {
  readonly successors: readonly Successor[];
  readonly executions: number;
  /** Situations that came up for the first time. */
  readonly occurred: readonly string[];
  readonly isInexact: boolean;
  readonly learnt: Learnt;
}

interface Placed {
  readonly event: EventCode;
  readonly mark: number;
}

function isSame(a: EventCode, b: EventCode): boolean {
  return a.length === b.length && a.every((word, i) => word === b[i]);
}

export class Expander {
  private readonly system: Explorable;
  /** Where the system is: the events since the root, each with the mark before it. */
  private readonly place: Placed[] = [];
  /** States that were reported once need not be reported again. */
  private readonly reported = new Visited();
  private readonly occurred = new Set<string>();

  constructor(system: Explorable) {
    this.system = system;
  }

  /** Bytes of what it remembers. */
  get bytes(): number {
    return this.reported.bytes;
  }

  /** Expands the states at the ends of `paths`; fastest when neighbours share their beginnings. */
  expand(paths: readonly (readonly EventCode[])[]): Expansion {
    const { system } = this;
    const successors: Successor[] = [];
    let executions = 0;
    for (const [index, path] of paths.entries()) {
      executions += this.goTo(path);
      const here = system.mark();
      const findings = new Map<string, Successor>();
      for (const start of system.starts()) {
        executions += system.explore(start, (event, finding) => {
          if (finding !== undefined) {
            // One example of each fault is enough: that with the fewest injections.
            const known = findings.get(finding.signature);
            if (known === undefined || event.length < known.event.length) {
              findings.set(finding.signature, { index, event, low: 0, high: 0, finding });
            }
            return;
          }
          const { stateLow: low, stateHigh: high } = system;
          if (this.reported.add(low, high)) successors.push({ index, event, low, high });
        });
      }
      system.rewind(here);
      successors.push(...findings.values());
    }
    const occurred = [...system.occurred()].filter((situation) => !this.occurred.has(situation));
    for (const situation of occurred) this.occurred.add(situation);
    return { successors, executions, occurred, isInexact: system.isInexact, learnt: system.takeLearnt() };
  }

  private goTo(path: readonly EventCode[]): number {
    const { place, system } = this;
    let common = 0;
    while (common < path.length && common < place.length) {
      const want = path[common];
      const have = place[common];
      if (want === undefined || have === undefined || !isSame(want, have.event)) break;
      common++;
    }
    const back = place[common];
    if (back !== undefined) {
      system.rewind(back.mark);
      place.length = common;
    }
    for (const event of path.slice(common)) {
      place.push({ event, mark: system.mark() });
      const finding = system.run(event);
      assert(finding === undefined, () => `an event that was clean is not when it is executed again: ${finding?.message ?? ""}`);
    }
    return path.length - common;
  }
}
