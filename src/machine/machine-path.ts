// A kernel path on this machine: the log of the seam, and what the log alone cannot tell when a path goes on after a suspension:
// how each active nested handler came to run, and how far the step got that was under way at each level.
import { assert, Path, type PathRoot } from "../hardware/index.ts";

/** Progress of the step that a level is executing. */
export const PHASE_NONE = 0;
/** Machine code of a stub runs, or a guest behind it: the call goes on, it does not start anew. */
export const PHASE_IN_STUB = 1;
/** HLT waits for an interrupt. */
export const PHASE_WAITING = 2;
/** The delivery that the step consists of has begun: when its handler is over, so is the step. */
export const PHASE_DELIVERED = 3;
export type Phase = typeof PHASE_NONE | typeof PHASE_IN_STUB | typeof PHASE_WAITING | typeof PHASE_DELIVERED;

/** How a nested handler came to run. */
export interface Level {
  /** True: a trap in the machine code that a stub call runs; the call goes on behind it. */
  readonly isInStub: boolean;
  /** Delivered between two steps: physical address of the trap to which the frame's IRET returns, and RSP there. */
  readonly site: number;
  readonly stackPointer: number;
}

export class MachinePath extends Path {
  private levels: Level[] = [];
  private phases: Phase[] = [PHASE_NONE];
  private reentering = 0;
  /** RIP and RSP where the path went to sleep in a stack switch: a task that is new at the same address has others. */
  sleptAtRip = 0;
  sleptAtRsp = 0;

  /** Progress of the step under way at the innermost level. Meaningful while the path is live. */
  get phase(): Phase {
    return this.phases[this.phases.length - 1] ?? PHASE_NONE;
  }

  set phase(value: Phase) {
    this.phases[this.phases.length - 1] = value;
  }

  /** A nested handler begins. */
  enter(level: Level, root: PathRoot): void {
    this.beginNested(root);
    this.levels.push(level);
    this.phases.push(PHASE_NONE);
    this.reentering = this.levels.length;
  }

  /** The innermost nested handler has returned. */
  leave(): void {
    this.endNested();
    this.levels.pop();
    this.phases.pop();
    this.reentering = this.levels.length;
  }

  /** The level of the handler that reenter() just gave. */
  get reenteredLevel(): Level {
    const level = this.levels[this.reentering - 1];
    assert(level !== undefined, () => "no nested handler was re-entered");
    return level;
  }

  override reenter(): PathRoot {
    this.reentering++;
    return super.reenter();
  }

  override rewind(): void {
    super.rewind();
    this.reentering = 0;
  }

  override restart(root: PathRoot): void {
    super.restart(root);
    if (this.levels.length > 0) this.levels.length = 0;
    if (this.phases.length > 1) this.phases.length = 1;
    this.phases[0] = PHASE_NONE;
    this.reentering = 0;
  }

  override copyFrom(other: Path): void {
    super.copyFrom(other);
    if (!(other instanceof MachinePath)) return;
    this.levels = [...other.levels];
    this.phases = [...other.phases];
    this.reentering = other.reentering;
    this.sleptAtRip = other.sleptAtRip;
    this.sleptAtRsp = other.sleptAtRsp;
  }
}
