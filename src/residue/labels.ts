// What the structures of a core hold, as labels: whose data may be in L1D and in the fill buffers, whose training in the branch target
// buffer and the return stack. "May be" is the worst case: nothing leaves a structure but by an operation that clears it.
import { type CpuModel, hasFeature, OWNER_NONE, type Owner } from "../hardware/index.ts";

/** The structures by their names in reports. */
export type StructureName = "L1D" | "fill buffers" | "branch target buffer" | "return stack";

export class Labels {
  readonly l1d = new Set<Owner>();
  readonly fillBuffers = new Set<Owner>();
  readonly branchTargets = new Set<Owner>();
  readonly returnStack = new Set<Owner>();
  /** Counts the changes of any of them. */
  changes = 0;
  private readonly model: CpuModel;
  private last: Owner = OWNER_NONE;

  constructor(model: CpuModel) {
    this.model = model;
  }

  /** Data of `label` went through L1D and a fill buffer. */
  touched(label: Owner): void {
    if (label === this.last || label === OWNER_NONE) return;
    this.last = label;
    this.put(this.l1d, label);
    this.put(this.fillBuffers, label);
  }

  private put(structure: Set<Owner>, label: Owner): void {
    const before = structure.size;
    structure.add(label);
    if (structure.size !== before) this.changes++;
  }

  /** Code of `label` ran: it trained what it liked and touched its own data. */
  executed(label: Owner): void {
    if (label === OWNER_NONE) return;
    this.put(this.branchTargets, label);
    this.put(this.returnStack, label);
    this.touched(label);
  }

  /** IA32_PRED_CMD.IBPB. */
  indirectBranchBarrier(): void {
    this.changes++;
    this.branchTargets.clear();
    if (this.model.ibpbClearsReturnStack) this.returnStack.clear();
  }

  fillReturnStack(): void {
    this.changes++;
    this.returnStack.clear();
  }

  /** IA32_FLUSH_CMD, or reads of 64 KiB. The MSR also overwrites the buffers that MD_CLEAR names (SDM vol. 4, IA32_FLUSH_CMD). */
  flushL1d(isMsr: boolean): void {
    this.changes++;
    this.l1d.clear();
    this.last = OWNER_NONE;
    if (isMsr) this.clearBuffers();
  }

  /** VERW, where the microcode has MD_CLEAR. */
  clearBuffers(): void {
    if (!hasFeature(this.model, "MD_CLEAR")) return;
    this.changes++;
    this.fillBuffers.clear();
    this.last = OWNER_NONE;
  }

  of(structure: StructureName): ReadonlySet<Owner> {
    switch (structure) {
      case "L1D":
        return this.l1d;
      case "fill buffers":
        return this.fillBuffers;
      case "branch target buffer":
        return this.branchTargets;
      case "return stack":
        return this.returnStack;
    }
  }

  copyFrom(other: Labels): void {
    this.changes++;
    const pairs = [
      [this.l1d, other.l1d],
      [this.fillBuffers, other.fillBuffers],
      [this.branchTargets, other.branchTargets],
      [this.returnStack, other.returnStack],
    ] as const;
    for (const [mine, theirs] of pairs) {
      mine.clear();
      for (const label of theirs) mine.add(label);
    }
    this.last = OWNER_NONE;
  }

  canonical(): string {
    return [this.l1d, this.fillBuffers, this.branchTargets, this.returnStack]
      .map((set) => [...set].sort((a, b) => a - b).join(","))
      .join(";");
  }
}
