// Where a step of the kernel is, in words that are the same on both machines: the functions that run. Steps inside machine code, which only
// the abstract machine makes, are told apart.
import { kernelName, runningFrames } from "../../kernel/index.ts";

export interface StepPlace {
  /** Kernel functions, innermost first. */
  readonly functions: readonly string[];
  /** A stub's effect makes the step: elsewhere that is an instruction. */
  readonly isInStub: boolean;
}

/** Functions that tell places apart. */
const MOST = 6;
/** Of the fault path, of reporting, and what the abstract machine runs instead of machine code. */
const LEFT_OUT: ReadonlySet<string> = new Set(["effect", "tail", "trace", "warn"]);
/** Functions of the machines: what runs a stub, and what begins a handler on top of it. */
const STUBS: ReadonlySet<string> = new Set(["runStub", "rawSwitchTo"]);
const HANDLERS: ReadonlySet<string> = new Set(["deliverNested", "rawInvokeVector", "deliverBetween", "kernelTurn"]);

/** Of the step that is about to be made. For hooks. */
export function stepPlace(): StepPlace {
  const functions: string[] = [];
  let isInStub = false;
  for (const { name, isKernel } of runningFrames()) {
    if (isKernel) {
      if (functions.length < MOST && name !== "" && !LEFT_OUT.has(name)) functions.push(kernelName(name));
    } else if (STUBS.has(name)) {
      isInStub = true;
      break;
    } else if (HANDLERS.has(name)) break;
  }
  return { functions, isInStub };
}

/** The same for the same place. */
export function placeKey({ functions }: StepPlace): string {
  return functions.join(" < ");
}

/** Numbers the steps of each place. */
export class PlaceCounts {
  private readonly counts = new Map<string, number>();

  /** How many steps of this place came before this one. */
  next(place: string): number {
    const count = this.counts.get(place) ?? 0;
    this.counts.set(place, count + 1);
    return count;
  }
}
