// Counterexamples executed again: whether the finding comes again, and what of the path it needs.

import type { Configuration } from "./configuration.ts";
import { decodeInjection, decodeStart, type EventCode } from "./event-code.ts";
import { EventExplorer } from "./event-explorer.ts";
import type { Finding } from "./explorable.ts";
import { INJECTION_KINDS } from "./injection.ts";
import type { Found } from "./search.ts";
import { System } from "./system.ts";

/** again: the same finding; other: another one, or one before the last event; nothing; impossible: an event that cannot begin there. */
export type ReplayEnd = "again" | "other" | "nothing" | "impossible";

export interface ReplayResult {
  readonly end: ReplayEnd;
  /** Events that were executed. */
  readonly events: number;
  /** What was found, if anything. */
  readonly finding: Finding | undefined;
  /** In words, for everything but "again". */
  readonly why: string;
}

/** A system that executes paths from its root, again and again. */
export class Replayer {
  readonly system: System;
  readonly explorer: EventExplorer;
  private readonly root: number;

  constructor(configuration: Configuration) {
    this.system = new System(configuration);
    this.explorer = new EventExplorer(this.system, configuration);
    this.root = this.explorer.mark();
  }

  run({ path, finding: expected }: Found): ReplayResult {
    const { explorer, system } = this;
    explorer.rewind(this.root);
    for (const [i, code] of path.entries()) {
      const { cpu, operation } = decodeStart(code[0] ?? -1);
      const starts = explorer.starts();
      if (!starts.includes(code[0] ?? -1)) {
        const possible = starts.map(decodeStart).filter((start) => start.cpu === cpu);
        const names = possible.map((start) => system.names[start.operation] ?? "").join(", ");
        const why = `event ${i + 1}: cpu ${cpu} cannot begin "${system.names[operation] ?? operation}" there; it can begin ${names || "nothing"}`;
        return { end: "impossible", events: i, finding: undefined, why };
      }
      const finding = explorer.run(code);
      if (finding === undefined) continue;
      if (finding.signature === expected.signature && i === path.length - 1) return { end: "again", events: i + 1, finding, why: "" };
      return { end: "other", events: i + 1, finding, why: `event ${i + 1} finds: ${finding.message}` };
    }
    return { end: "nothing", events: path.length, finding: undefined, why: "every event ends without a finding" };
  }
}

export function replay(configuration: Configuration, found: Found): ReplayResult {
  return new Replayer(configuration).run(found);
}

function without<T>(list: readonly T[], index: number): readonly T[] {
  return [...list.slice(0, index), ...list.slice(index + 1)];
}

/** The same kind of delivery whose handler does not read sensitive memory. */
const MILDER: ReadonlyMap<string, string> = new Map([
  ["nmi sensitive", "nmi"],
  ["irq sensitive", "irq"],
]);

/** Everything that is one thing less than `path`: an event from the end backwards (never the last), then an injection, then a milder one. */
function* smaller(path: readonly EventCode[]): Generator<readonly EventCode[]> {
  for (let i = path.length - 2; i >= 0; i--) yield without(path, i);
  for (let i = path.length - 1; i >= 0; i--) {
    const code = path[i] ?? [];
    for (let k = code.length - 1; k > 0; k--) yield path.with(i, without(code, k));
  }
  for (let i = path.length - 1; i >= 0; i--) {
    const code = path[i] ?? [];
    for (let k = code.length - 1; k > 0; k--) {
      const { kind } = decodeInjection(code[k] ?? 0);
      const milder = INJECTION_KINDS.findIndex((name) => name === MILDER.get(INJECTION_KINDS[kind] ?? ""));
      if (milder >= 0) yield path.with(i, code.with(k, (code[k] ?? 0) - kind + milder));
    }
  }
}

/** Leaves out of `found` what its finding does not need, one thing after the other, until nothing more can be left out. */
export function minimise(configuration: Configuration, found: Found): Found {
  const replayer = new Replayer(configuration);
  if (replayer.run(found).end !== "again") return found;
  let path = found.path;
  for (let isSmaller = true; isSmaller; ) {
    isSmaller = false;
    for (const candidate of smaller(path)) {
      const result = replayer.run({ path: candidate, finding: found.finding });
      // Events behind the one that finds it are not needed either.
      if (result.finding?.signature !== found.finding.signature) continue;
      path = candidate.slice(0, result.events);
      isSmaller = true;
      break;
    }
  }
  const { finding } = replayer.run({ path, finding: found.finding });
  return { path, finding: finding ?? found.finding };
}
