// What the judges write to: violations, thrown or collected, and how often each situation came up that a property is about. A run in
// which nothing happened proves nothing.
import { OWNER_NONE, type Owner } from "../../hardware/index.ts";
import { type CpuTruth, ownerText } from "./ground-truth.ts";
import type { KernelView } from "./kernel-view.ts";
import { PROPERTY_NAMES, type PropertyName, PropertyViolation, type Violation } from "./property.ts";

export interface CheckerOptions {
  /** Properties to evaluate; all when left out. */
  readonly enabled?: ReadonlySet<PropertyName>;
  /** Collect violations instead of throwing the first. */
  readonly isCollecting?: boolean;
  /** Remember which kernel function asked for each piece of memory: for reports of leaks. Costs much. */
  readonly keepsSites?: boolean;
}

/** The situations that are counted. */
export type Occurrence =
  | "S1: the restricted kernel ran with its own guest's training"
  | "S1: the restricted kernel ran with its own process's training"
  | "S2: a guest was entered with data in L1D that it may see"
  | "S2: user code was entered with data in L1D that it may see"
  | "S2: a CPU was in the kernel while its sibling ran code in a domain"
  | "S2: siblings ran code of one domain at the same time"
  | "S3: a guest was entered"
  | "S3: user code was entered"
  | "S3: user code was entered in its own domain"
  | "S3: user code was entered on user tables of its own"
  | "S4: a step inside the window of enter"
  | "S4: a step inside the window of exit"
  | "S4: a step between two domains"
  | "S4: a handler nested in such a window"
  | "S5: a sensitive frame appeared and was looked for in restricted tables"
  | "S5: a domain's tables were audited"
  | "S5: a domain's user half was audited"
  | "S7: a guest was entered after a handler had nested in its critical section"
  | "S7: user code was entered after a handler had nested in its critical section"
  | "S8: a cached translation was used whose entry had changed"
  | "S8: a range was taken away"
  | "S9: a frame was freed"
  | "S9: the objects were counted"
  | "S10: a domain owed no control flush while a predictor held training"
  | "S10: a domain owed no data flush while L1D held data";

export class Findings {
  readonly violations: Violation[] = [];
  readonly occurred = new Map<Occurrence, number>();
  private readonly view: KernelView;
  private readonly enabled: ReadonlySet<PropertyName>;
  private readonly isCollecting: boolean;

  constructor(view: KernelView, options: CheckerOptions) {
    this.view = view;
    this.enabled = options.enabled ?? new Set(PROPERTY_NAMES);
    this.isCollecting = options.isCollecting ?? false;
  }

  isEnabled(property: PropertyName): boolean {
    return this.enabled.has(property);
  }

  note(occurrence: Occurrence): void {
    this.occurred.set(occurrence, (this.occurred.get(occurrence) ?? 0) + 1);
  }

  violate(property: PropertyName, cpu: CpuTruth, structure: string, owner: Owner, detail: string): void {
    if (!this.enabled.has(property)) return;
    const violation: Violation = {
      property,
      cpu: cpu.id,
      step: cpu.steps,
      structure,
      owner: owner === OWNER_NONE ? "" : ownerText(owner),
      label: owner,
      detail,
      ...this.taskName(cpu),
    };
    this.violations.push(violation);
    if (!this.isCollecting) throw new PropertyViolation(violation);
  }

  private taskName(cpu: CpuTruth): { readonly task?: string } {
    if (!this.view.isUp(cpu)) return {};
    const { pid, comm } = this.view.taskState(cpu);
    return { task: `pid ${pid} (${comm})` };
  }
}
