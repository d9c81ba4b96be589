// A stub of kernel text: machine code, and the same in steps of the seam for machines without instructions (law 4). The image builder
// assembles all of them; a test compares both.
import type { Assembler } from "../assembler/index.ts";
import type { Stub } from "../hardware/index.ts";

export interface StubProgram extends Stub {
  /** Emits the code; the builder has placed the label `symbol` in front of it. */
  readonly program: (a: Assembler) => void;
}
