// Makes a failing script short: items are left out, then injections and failing allocations, as long as the same failure stays (delta
// debugging: Zeller, Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
import { runEpisode } from "./episode.ts";
import type { Item, Script } from "./script.ts";

export interface ShrinkOptions {
  /** Episodes to run at most. */
  readonly runs: number;
}

/** Runs episodes of variants of one script until the budget is spent. */
class Shrinker {
  private runs: number;
  private readonly script: Script;
  private readonly signature: string;

  constructor(script: Script, signature: string, runs: number) {
    this.script = script;
    this.signature = signature;
    this.runs = runs;
  }

  get isSpent(): boolean {
    return this.runs <= 0;
  }

  fails(items: readonly Item[]): boolean {
    if (this.isSpent) return false;
    this.runs--;
    return runEpisode({ config: this.script.config, items }).failure?.signature === this.signature;
  }

  /** Leaves out ever smaller parts. */
  items(start: readonly Item[]): readonly Item[] {
    let items = start;
    for (let part = Math.ceil(items.length / 2); ; part = Math.ceil(part / 2)) {
      // From the end: what comes late seldom matters to what failed before.
      for (let at = Math.max(0, items.length - part); at >= 0 && !this.isSpent; at -= part) {
        const rest = [...items.slice(0, at), ...items.slice(at + part)];
        if (rest.length < items.length && this.fails(rest)) items = rest;
        if (at > 0 && at < part) at = part;
      }
      if (part <= 1 || this.isSpent) return items;
    }
  }

  /** Leaves out what is injected into single items. */
  extras(start: readonly Item[]): readonly Item[] {
    const items = [...start];
    for (const [i, item] of start.entries()) {
      const { inject, fail, ...plain } = item;
      if (inject === undefined && fail === undefined) continue;
      const variants: Item[] = [plain];
      if (fail !== undefined && inject !== undefined) variants.push({ ...plain, fail }, { ...plain, inject });
      for (const one of inject ?? [])
        if ((inject?.length ?? 0) > 1) variants.push({ ...plain, ...(fail === undefined ? {} : { fail }), inject: [one] });
      const shorter = variants.find((variant) => this.fails(items.with(i, variant)));
      if (shorter !== undefined) items[i] = shorter;
    }
    return items;
  }
}

/** A shorter script that fails with the same signature. */
export function shrink(script: Script, signature: string, options: ShrinkOptions): Script {
  const shrinker = new Shrinker(script, signature, options.runs);
  let { items } = script;
  for (;;) {
    const before = items.length;
    items = shrinker.extras(shrinker.items(items));
    if (items.length === before || shrinker.isSpent) return { config: script.config, items };
  }
}
