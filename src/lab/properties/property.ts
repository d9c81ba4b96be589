// The safety properties by name (docs: S1 to S10), and how a breach of one is told: which property, at which step, on which CPU, in
// which structure, whose.
import { InvariantError, type Owner } from "../../hardware/index.ts";

export const PROPERTIES = {
  S1: "no code runs with predictor entries that its domain refuses",
  S2: "no domain is entered while it could sample data that is protected from it",
  S3: "a guest is entered only in its VM's domain, user code only in its own tables",
  S4: "CR3 restricted means curr_asi is that domain; curr_asi set with CR3 unrestricted only inside enter and exit",
  S5: "what is restricted is also in the unrestricted tables, and nothing sensitive is reachable there",
  S6: "a faulting kernel access makes progress",
  S7: "when user or guest code runs, no handler is nested and the target is its domain",
  S8: "no translation is used after what removed it has returned, or after its frame was used again",
  S9: "no page table or object is used after it was freed, freed twice, or leaked",
  S10: "the taint byte is truthful",
} as const;

export type PropertyName = keyof typeof PROPERTIES;

export const PROPERTY_NAMES: readonly PropertyName[] = ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10"];

export interface Violation {
  readonly property: PropertyName;
  readonly cpu: number;
  /** Number of the step on that CPU before which the state was found. */
  readonly step: number;
  /** The structure or variable that shows it. */
  readonly structure: string;
  /** Whose data or training, where it is about that. */
  readonly owner: string;
  /** The same as the machine's label, where it is one. */
  readonly label?: Owner;
  readonly detail: string;
  /** The running task, `pid 3 (name)`; left out where none runs. */
  readonly task?: string;
}

export function describeViolation(v: Violation): string {
  const whose = v.owner === "" ? "" : ` of ${v.owner}`;
  const task = v.task === undefined ? "" : `, task ${v.task}`;
  return `${v.property} (${PROPERTIES[v.property]}): cpu ${v.cpu}, step ${v.step}${task}, ${v.structure}${whose}: ${v.detail}`;
}

/** A property does not hold. */
export class PropertyViolation extends InvariantError {
  readonly violation: Violation;

  constructor(violation: Violation) {
    super(describeViolation(violation));
    this.violation = violation;
  }
}
