// A kernel path of the abstract machine. Besides the log it knows the entry stub by which its event came in: a path that goes on from
// a cut point still has that stub's tail to run. It goes back with the machine, its log included, also to a place in the middle of
// what was its log then; and it has a hash: what it will do next follows from its root, its log and who was nested where.
import { type Nested, Path, type PathRoot, type Stub, type VirtAddr } from "../hardware/index.ts";
import { combine, otherWordOf, wordOf, wordOfText } from "./state-hash.ts";
import type { Undoable, UndoLog } from "./undo-log.ts";

/** `undo`: the whole state, else a value of the log at that place. */
const WHOLE = -1;

interface PathState {
  readonly root: PathRoot;
  readonly event: PathRoot;
  readonly stub: Stub | undefined;
  readonly sleepStack: VirtAddr;
  readonly length: number;
  readonly nested: readonly Nested[];
  readonly isInStub: boolean;
  readonly isPastStep: boolean;
  readonly isBehind: boolean;
  readonly kept: number;
  readonly entryArgument: number;
  readonly stackTop: number;
}

export class ResiduePath extends Path implements Undoable {
  /** What runs the whole event; `root` differs from it after a cut point. */
  event: PathRoot = () => undefined;
  stub: Stub | undefined;
  /** RSP at which the path last went to sleep. */
  sleepStack = 0 as VirtAddr;
  /** What the event's entry was told besides: of a CPU's first path, in RDI. */
  entryArgument = 0;
  /** Top of the stack that the event began on, 0 while it is not known: when the event is over, nothing below it counts. */
  stackTop = 0;
  private readonly log: UndoLog;
  /** State and log as they were at the last mark are in the undo log. */
  private savedAt = -1;
  /** Values at places below this are to be kept when they are written over. */
  private kept = 0;
  // Hashes of the log up to each place; good up to `hashed`.
  private lows = new Int32Array(0);
  private highs = new Int32Array(0);
  private hashed = 0;
  // A word of the names of root and stub, and what it was made of.
  private names = 0;
  private namedRoot: PathRoot | undefined;
  private namedEvent: PathRoot | undefined;
  private namedStub: Stub | undefined;

  constructor(log: UndoLog) {
    super(() => undefined);
    this.log = log;
  }

  /** A new event, entered by `stub`. */
  begin(stub: Stub, event: PathRoot, argument: number): void {
    this.save();
    this.stub = stub;
    this.event = event;
    this.entryArgument = argument;
    this.stackTop = 0;
    this.restart(event);
  }

  /** The event is over: nothing of it counts any more. */
  end(): void {
    this.restart(this.event);
    this.stub = undefined;
    this.entryArgument = 0;
    this.stackTop = 0;
  }

  putStackTop(top: number): void {
    this.save();
    this.stackTop = top;
  }

  override record(value: number): void {
    const { log } = this;
    if (this.savedAt !== log.epoch) this.save();
    const at = this.length;
    if (at < this.kept) log.object(this, at, this.values[at]);
    if (at < this.hashed) this.hashed = at;
    super.record(value);
  }

  override beginNested(root: PathRoot, vector?: number): void {
    this.save();
    super.beginNested(root, vector);
  }

  override endNested(): void {
    this.save();
    super.endNested();
  }

  override restart(root: PathRoot): void {
    this.save();
    super.restart(root);
  }

  override rewind(): void {
    this.save();
    super.rewind();
  }

  /** Before the path is changed, by whoever changes more than its log. */
  save(): void {
    const { log } = this;
    if (this.savedAt === log.epoch) return;
    this.savedAt = log.epoch;
    if (!log.isKept) return;
    const state: PathState = {
      root: this.root,
      event: this.event,
      stub: this.stub,
      sleepStack: this.sleepStack,
      length: this.length,
      nested: this.nested.length === 0 ? NONE : [...this.nested],
      isInStub: this.isInStub,
      isPastStep: this.isPastStep,
      isBehind: this.isBehind,
      kept: this.kept,
      entryArgument: this.entryArgument,
      stackTop: this.stackTop,
    };
    log.object(this, WHOLE, state);
    this.kept = Math.max(this.kept, this.length);
  }

  undo(key: number, old: unknown): void {
    if (key !== WHOLE) {
      this.values[key] = Number(old);
      this.hashed = Math.min(this.hashed, key);
      return;
    }
    const state = old as PathState; // as save() told it
    this.root = state.root;
    this.event = state.event;
    this.stub = state.stub;
    this.sleepStack = state.sleepStack;
    this.length = state.length;
    this.cursor = state.length;
    this.nested.length = 0;
    this.nested.push(...state.nested);
    this.reentered = this.nested.length;
    this.isInStub = state.isInStub;
    this.isPastStep = state.isPastStep;
    this.isBehind = state.isBehind;
    this.kept = state.kept;
    this.entryArgument = state.entryArgument;
    this.stackTop = state.stackTop;
    this.savedAt = -1;
  }

  /** Low half of the hash of what the path is; `high` is the other. */
  get low(): number {
    this.hashLog();
    let h = combine(this.length === 0 ? 0 : (this.lows[this.length - 1] ?? 0), this.outside());
    for (const { at, vector } of this.nested) h = combine(h, combine(at, vector));
    return h;
  }

  get high(): number {
    this.hashLog();
    let h = combine(this.outside() ^ HIGH_SEED, this.length === 0 ? 0 : (this.highs[this.length - 1] ?? 0));
    for (const { at, vector } of this.nested) h = combine(combine(vector, at) ^ HIGH_SEED, h);
    return h;
  }

  /** What the path is but for its log and who is nested. Roots are named functions of the kernel, or the entry of `stub`. */
  private outside(): number {
    if (this.root !== this.namedRoot || this.event !== this.namedEvent || this.stub !== this.namedStub) this.nameAgain();
    const { names } = this;
    const flags = (this.isPastStep ? 1 : 0) | (this.isInStub ? 2 : 0);
    return combine(combine(names, flags), combine(combine(wordOf(this.sleepStack), wordOf(this.stackTop)), wordOf(this.entryArgument)));
  }

  private nameAgain(): void {
    const root = this.root === this.event ? "" : this.root.name;
    this.names = combine(wordOfText(root), wordOfText(this.stub?.symbol ?? ""));
    this.namedRoot = this.root;
    this.namedEvent = this.event;
    this.namedStub = this.stub;
  }

  private hashLog(): void {
    const { length } = this;
    if (this.hashed >= length) return;
    if (this.lows.length < length) this.growHashes();
    let low = this.hashed === 0 ? 0 : (this.lows[this.hashed - 1] ?? 0);
    let high = this.hashed === 0 ? HIGH_SEED : (this.highs[this.hashed - 1] ?? 0);
    for (let at = this.hashed; at < length; at++) {
      const value = this.values[at] ?? 0;
      low = combine(low, wordOf(value));
      high = combine(otherWordOf(value) ^ HIGH_SEED, high);
      this.lows[at] = low;
      this.highs[at] = high;
    }
    this.hashed = length;
  }

  private growHashes(): void {
    const room = this.values.length;
    const lows = new Int32Array(room);
    lows.set(this.lows);
    this.lows = lows;
    const highs = new Int32Array(room);
    highs.set(this.highs);
    this.highs = highs;
  }
}

const NONE: readonly Nested[] = [];
const HIGH_SEED = 0x3c6ef372;
