// Depth first with a growing bound: finds the same shortest counterexamples as breadth first without a tree, and takes executions for it instead
// of memory. A state is gone on from again only when it is reached with fewer events than before.
import type { EventCode } from "./event-code.ts";
import type { Explorable } from "./explorable.ts";
import { compareFound, type Found, keepShortest, type SearchEnd, type SearchLimits, type SearchResult } from "./search.ts";

interface Candidate {
  readonly event: EventCode;
  readonly key: string;
}

const BYTES_PER_STATE = 96;

class Deepening {
  readonly reached = new Map<string, number>();
  readonly found = new Map<string, Found>();
  executions = 0;
  end: SearchEnd | undefined;
  /** Some state was left unexpanded at the bound. */
  isCut = false;
  private readonly path: EventCode[] = [];
  private readonly system: Explorable;
  private readonly limits: SearchLimits;

  constructor(system: Explorable, limits: SearchLimits) {
    this.system = system;
    this.limits = limits;
  }

  /** Expands the present state, `left` events before the bound. */
  expand(left: number): void {
    const { system, path } = this;
    const next: Candidate[] = [];
    for (const start of system.starts()) {
      this.executions += system.explore(start, (event, finding) => {
        if (finding !== undefined) {
          keepShortest(this.found, { path: [...path, event], finding });
          return;
        }
        const key = `${system.stateLow} ${system.stateHigh}`;
        const before = this.reached.get(key);
        const depth = path.length + 1;
        if (before !== undefined && before <= depth) return;
        this.reached.set(key, depth);
        next.push({ event, key });
      });
    }
    if (this.reached.size * BYTES_PER_STATE > this.limits.bytes) this.end = "memory";
    if (left <= 1) {
      this.isCut ||= next.length > 0;
      return;
    }
    for (const { event, key } of next) {
      if (this.end !== undefined) return;
      // Meanwhile it may have been reached on a shorter way.
      if (this.reached.get(key) !== path.length + 1) continue;
      const mark = system.mark();
      this.executions++;
      system.run(event);
      path.push(event);
      this.expand(left - 1);
      path.pop();
      system.rewind(mark);
    }
  }
}

/** Searches from the present state; each round starts from nothing but a larger bound. `depth` 0: until no state is left at the bound. */
export function searchDeepening(system: Explorable, limits: SearchLimits): SearchResult {
  let executions = 0;
  const layers: number[] = [1];
  for (let bound = 1; ; bound++) {
    const round = new Deepening(system, limits);
    round.reached.set(`${system.stateLow} ${system.stateHigh}`, 0);
    round.expand(bound);
    executions += round.executions;
    const states = round.reached.size;
    layers.push(states - layers.reduce((sum, count) => sum + count, 0));
    let end = round.end;
    if (end === undefined && round.found.size > 0 && !limits.findsAll) end = "found";
    if (end === undefined && !round.isCut) end = "closed";
    if (end === undefined && bound === limits.depth) end = "depth";
    if (end === undefined) continue;
    const found = [...round.found.values()].sort(compareFound);
    const depth = end === "memory" ? bound - 1 : bound;
    return {
      end,
      states,
      executions,
      depth,
      partly: [0, 0],
      found,
      layers,
      bytes: states * BYTES_PER_STATE,
      isInexact: system.isInexact,
      learnt: system.takeLearnt(),
      occurred: [...system.occurred()].sort(),
    };
  }
}
