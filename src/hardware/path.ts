// Law 3: a suspended kernel path is its log. Kernel code is deterministic and acts only through steps, so the results of its steps
// since the path began are all that is needed to bring it back to where it was: run it again from its root, feeding it those
// results, without effects. A nested handler (an interrupt, a fault) that completed leaves nothing in the log; one that is still
// active is recorded by the position at which it was delivered, and is re-entered there.
import { assert } from "./assert.ts";

/** A kernel function that a path starts from: an entry's trap handler, or what goes on after a cut point. */
export type PathRoot = () => void;

/** The one exception that drops the JavaScript stack of a kernel path. Preallocated; thrown and caught by machines alone. */
export const SUSPEND = new Error("a kernel path was suspended (seen outside a machine's loop: kernel code must not run there)");

/** A handler or stub that is active in the path. */
export interface Nested {
  /** Length of the log when the handler was delivered. */
  readonly at: number;
  readonly root: PathRoot;
  /** Of an event that was delivered; -1 for a call of a stub, which follows from the log. */
  readonly vector: number;
}

export class Path {
  root: PathRoot;
  protected values = new Float64Array(1024);
  protected length = 0;
  protected cursor = 0;
  protected readonly nested: Nested[] = [];
  protected reentered = 0;
  /** Set while a stub call (for example a guest) was under way when the path was suspended: the call goes on, it does not start anew. */
  isInStub = false;
  /** What follows the last recorded step has not run yet (the path slept in that step, or has not begun). Set by the seam. */
  isPastStep = true;
  /** What follows the last recorded step ran before the suspension: observers stay muted until the next step. Set by the seam. */
  isBehind = false;

  constructor(root: PathRoot) {
    this.root = root;
  }

  /** True while recorded results are fed back. */
  get isReplaying(): boolean {
    return this.cursor < this.length || this.reentered < this.nested.length;
  }

  /** True when the next thing in the log is a nested handler that was still active. */
  get isAtNested(): boolean {
    const next = this.nested[this.reentered];
    return next !== undefined && next.at === this.cursor;
  }

  /** Number of recorded results; what a replay costs. */
  get steps(): number {
    return this.length;
  }

  get depth(): number {
    return this.nested.length;
  }

  record(value: number): void {
    if (this.length === this.values.length) this.grow();
    this.values[this.length++] = value;
    this.cursor = this.length;
  }

  take(): number {
    const value = this.values[this.cursor];
    assert(
      value !== undefined && this.cursor < this.length,
      () => `path replay ran past its log (${this.cursor} of ${this.length}): the kernel code is not deterministic`,
    );
    this.cursor++;
    return value;
  }

  beginNested(root: PathRoot, vector = -1): void {
    this.nested.push({ at: this.length, root, vector });
    this.reentered = this.nested.length;
  }

  /** Marks the next active nested handler as re-entered and returns its root. */
  reenter(): PathRoot {
    const next = this.nested[this.reentered];
    assert(next !== undefined, () => "no nested handler to re-enter");
    this.reentered++;
    return next.root;
  }

  /** Vector of the nested handler that was re-entered last; -1: it is a stub call. */
  get reenteredVector(): number {
    return this.nested[this.reentered - 1]?.vector ?? -1;
  }

  endNested(): void {
    const last = this.nested.pop();
    assert(
      last !== undefined && this.cursor === this.length,
      () => "a nested handler ended that was not begun, or before its replay was over",
    );
    this.length = last.at;
    this.cursor = last.at;
    this.reentered = this.nested.length;
  }

  /** Starts over: an empty log and a new root (a new event, or a cut point). */
  restart(root: PathRoot): void {
    this.root = root;
    this.length = 0;
    this.cursor = 0;
    this.nested.length = 0;
    this.reentered = 0;
    this.isInStub = false;
    this.isPastStep = true;
    this.isBehind = false;
  }

  /** Prepares the path for running again from its root. */
  rewind(): void {
    this.isBehind = !this.isPastStep;
    this.cursor = 0;
    this.reentered = 0;
  }

  /** For snapshots: the recorded results. Roots are functions and are named by the caller. */
  recorded(): Float64Array {
    return this.values.slice(0, this.length);
  }

  /** Makes this path equal to `other`, of which later runs leave it alone: for snapshots. */
  copyFrom(other: Path): void {
    this.root = other.root;
    if (this.values.length < other.length) this.values = new Float64Array(other.values.length);
    this.values.set(other.values.subarray(0, other.length));
    this.length = other.length;
    this.cursor = other.cursor;
    this.nested.length = 0;
    this.nested.push(...other.nested);
    this.reentered = other.reentered;
    this.isInStub = other.isInStub;
    this.isPastStep = other.isPastStep;
    this.isBehind = other.isBehind;
  }

  protected grow(): void {
    const larger = new Float64Array(this.values.length * 2);
    larger.set(this.values);
    this.values = larger;
  }
}
