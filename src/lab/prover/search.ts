// Breadth first: layer by layer, each state once. The states of a layer are handed out in pieces to whoever expands them; what comes back is taken in
// in the order of the pieces, so that the tree, and hence every verdict and counterexample, is the same however many work on it.
import { fail } from "../../hardware/index.ts";
import type { EventCode } from "./event-code.ts";
import type { Expansion, Successor } from "./expander.ts";
import type { Finding } from "./explorable.ts";
import type { Learnt } from "./footprint.ts";
import { StateTree } from "./state-tree.ts";
import { Visited } from "./visited.ts";

/** Expands pieces of a layer. */
export interface Expanders {
  /** How many pieces are worked on at once. */
  readonly width: number;
  expand(paths: readonly (readonly EventCode[])[]): Promise<Expansion>;
}

export interface SearchLimits {
  /** Longest counterexample in events; 0: no limit, the whole space. */
  readonly depth: number;
  /** Bytes that tree and visited states may take. */
  readonly bytes: number;
  /** Go on after the first finding, collecting one of each signature. */
  readonly findsAll: boolean;
}

export interface Found {
  /** Events from the root, the last one is where it was found. */
  readonly path: readonly EventCode[];
  readonly finding: Finding;
}

/** Where a search stands; enough to go on. */
export interface SearchState {
  readonly tree: StateTree;
  /** The layer that is expanded: its first state, the first of the next layer, the first that is not expanded yet. */
  readonly layerStart: number;
  readonly layerEnd: number;
  readonly next: number;
  readonly depth: number;
  readonly executions: number;
  readonly found: readonly Found[];
  /** Situations that came up. */
  readonly occurred: readonly string[];
  readonly isInexact: boolean;
  /** What was learnt of footprints on the way. */
  readonly learnt: Learnt;
}

/** closed: every reachable state; depth: every state up to the bound; found: stopped at a finding; memory, stopped: incomplete. */
export type SearchEnd = "closed" | "depth" | "found" | "memory" | "stopped";

export interface SearchResult {
  readonly end: SearchEnd;
  readonly states: number;
  readonly executions: number;
  /** Layers that were expanded whole: no finding has fewer events. */
  readonly depth: number;
  /** Of the layer after them: states that were expanded, and all. */
  readonly partly: readonly [done: number, all: number];
  readonly found: readonly Found[];
  /** States of each layer. */
  readonly layers: readonly number[];
  /** Bytes of tree and visited states at the end. */
  readonly bytes: number;
  /** Situations that came up, sorted. */
  readonly occurred: readonly string[];
  /** States were taken for equal that may not be. */
  readonly isInexact: boolean;
  /** What was learnt of footprints on the way. */
  readonly learnt: Learnt;
}

/** How far a search is. */
export type SearchProgress = Pick<SearchState, "layerStart" | "layerEnd" | "next" | "depth" | "executions"> & {
  readonly states: number;
  readonly found: number;
};

export interface SearchListener {
  /** After each piece; `state` is for whoever wants to go on later. True: stop here. */
  progress(progress: SearchProgress, state: () => SearchState): boolean;
}

const LEAST_PIECE = 1;
const MOST_PIECE = 64;
/** Pieces that are handed out before the first of them has come back, for each expander. */
const AHEAD = 3;

/** Injections on the way. */
function injections(found: Found): number {
  return found.path.reduce((sum, event) => sum + event.length - 1, 0);
}

/** Fewer events first, then fewer injections. */
export function compareFound(a: Found, b: Found): number {
  return a.path.length - b.path.length || injections(a) - injections(b);
}

/** Of each signature, the shortest. */
export function keepShortest(all: Map<string, Found>, found: Found): void {
  const known = all.get(found.finding.signature);
  if (known === undefined || compareFound(found, known) < 0) all.set(found.finding.signature, found);
}

export class Search {
  private tree = new StateTree();
  private readonly visited = new Visited();
  private layerStart = 0;
  private layerEnd = 1;
  private next = 0;
  private depth = 0;
  private executions = 0;
  private readonly found = new Map<string, Found>();
  private readonly layers: number[] = [1];
  private readonly occurred = new Set<string>();
  private isInexact = false;
  private readonly learnt = new Set<number>();
  private readonly expanders: Expanders;
  private readonly limits: SearchLimits;

  /** Begins at the state with this hash, or goes on from `from`. */
  constructor(expanders: Expanders, limits: SearchLimits, root: { readonly low: number; readonly high: number } | SearchState) {
    this.expanders = expanders;
    this.limits = limits;
    if ("tree" in root) this.resume(root);
    else this.tree.add(-1, [], root.low, root.high);
    for (let i = 0; i < this.tree.size; i++) this.visited.add(this.tree.low(i), this.tree.high(i));
  }

  async run(listener?: SearchListener): Promise<SearchResult> {
    const { limits } = this;
    for (;;) {
      const end = await this.layer(listener);
      if (end !== undefined) return this.result(end);
      if (this.found.size > 0 && !limits.findsAll) return this.result("found");
      if (this.tree.size === this.layerEnd) return this.result("closed");
      this.layerStart = this.layerEnd;
      this.layerEnd = this.tree.size;
      this.next = this.layerStart;
      this.layers.push(this.layerEnd - this.layerStart);
      if (limits.depth > 0 && this.depth >= limits.depth) return this.result("depth");
    }
  }

  /** Expands the rest of the layer. @returns why it stopped before its end */
  private async layer(listener: SearchListener | undefined): Promise<SearchEnd | undefined> {
    const { expanders, limits } = this;
    const width = this.layerEnd - this.next;
    const size = Math.max(LEAST_PIECE, Math.min(MOST_PIECE, Math.ceil(width / (expanders.width * 8))));
    const pending: { readonly first: number; readonly end: number; readonly expansion: Promise<Expansion> }[] = [];
    let handedOut = this.next;
    let end: SearchEnd | undefined;
    while (this.next < this.layerEnd && end === undefined) {
      while (handedOut < this.layerEnd && pending.length < expanders.width * AHEAD) {
        const first = handedOut;
        handedOut = Math.min(this.layerEnd, first + size);
        const paths = Array.from({ length: handedOut - first }, (_, i) => this.tree.path(first + i));
        pending.push({ first, end: handedOut, expansion: expanders.expand(paths) });
      }
      const piece = pending.shift() ?? fail("a layer with states but no piece");
      const { successors, executions, occurred, isInexact, learnt } = await piece.expansion;
      for (const packed of learnt) this.learnt.add(packed);
      this.isInexact ||= isInexact;
      this.executions += executions;
      for (const situation of occurred) this.occurred.add(situation);
      for (const successor of successors) this.takeIn(piece.first, successor);
      this.next = piece.end;
      if (this.tree.bytes + this.visited.bytes > limits.bytes) end = "memory";
      if (listener?.progress(this.progress(), () => this.state()) === true) end = "stopped";
    }
    // Nobody waits for these any more; they must not be lost silently.
    await Promise.all(pending.map((piece) => piece.expansion));
    if (this.next === this.layerEnd) {
      this.depth++;
      if (end === "memory" && this.tree.size === this.layerEnd) end = undefined;
    }
    return end;
  }

  private sortedLearnt(): Learnt {
    return [...this.learnt].sort((a, b) => a - b);
  }

  private takeIn(first: number, { index, event, low, high, finding }: Successor): void {
    const parent = first + index;
    if (finding === undefined) {
      if (this.visited.add(low, high)) this.tree.add(parent, event, low, high);
      return;
    }
    keepShortest(this.found, { path: [...this.tree.path(parent), event], finding });
  }

  private progress(): SearchProgress {
    const { layerStart, layerEnd, next, depth, executions } = this;
    return { layerStart, layerEnd, next, depth, executions, states: this.tree.size, found: this.found.size };
  }

  private state(): SearchState {
    const { tree, layerStart, layerEnd, next, depth, executions } = this;
    return {
      tree,
      layerStart,
      layerEnd,
      next,
      depth,
      executions,
      found: [...this.found.values()],
      occurred: [...this.occurred].sort(),
      isInexact: this.isInexact,
      learnt: this.sortedLearnt(),
    };
  }

  private resume(state: SearchState): void {
    this.tree = state.tree;
    this.layerStart = state.layerStart;
    this.layerEnd = state.layerEnd;
    this.next = state.next;
    this.depth = state.depth;
    this.executions = state.executions;
    this.isInexact = state.isInexact;
    for (const packed of state.learnt) this.learnt.add(packed);
    for (const situation of state.occurred) this.occurred.add(situation);
    for (const found of state.found) this.found.set(found.finding.signature, found);
    this.layers.length = 0;
    // Layers are told apart by the depth of their states, which grows with their number.
    const depths = new Uint32Array(state.layerEnd);
    for (let i = 0; i < state.layerEnd; i++) {
      const depth = i === 0 ? 0 : (depths[state.tree.parent(i)] ?? 0) + 1;
      depths[i] = depth;
      this.layers[depth] = (this.layers[depth] ?? 0) + 1;
    }
  }

  private result(end: SearchEnd): SearchResult {
    const found = [...this.found.values()].sort(compareFound);
    return {
      end,
      states: this.tree.size,
      executions: this.executions,
      depth: this.depth,
      partly: [this.next - this.layerStart, this.layerEnd - this.layerStart],
      found,
      layers: this.layers,
      bytes: this.tree.bytes + this.visited.bytes,
      occurred: [...this.occurred].sort(),
      isInexact: this.isInexact,
      learnt: this.sortedLearnt(),
    };
  }
}
