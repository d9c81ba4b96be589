// A kernel path of the abstract machine. Besides the log it knows the entry stub by which its event came in: a path that goes on from
// a cut point still has that stub's tail to run.
import { Path, type PathRoot, type Stub, type VirtAddr } from "../hardware/index.ts";

export class ResiduePath extends Path {
  /** What runs the whole event; `root` differs from it after a cut point. */
  event: PathRoot = () => undefined;
  stub: Stub | undefined;
  /** RSP at which the path last went to sleep. */
  sleepStack = 0 as VirtAddr;

  constructor() {
    super(() => undefined);
  }

  /** A new event, entered by `stub`. */
  begin(stub: Stub, event: PathRoot): void {
    this.stub = stub;
    this.event = event;
    this.restart(event);
  }

  override copyFrom(other: ResiduePath): void {
    super.copyFrom(other);
    this.event = other.event;
    this.stub = other.stub;
    this.sleepStack = other.sleepStack;
  }
}
