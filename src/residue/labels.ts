// What the structures of a core hold, as labels: whose data may be in L1D and in the fill buffers, whose training in the branch target
// buffer and the return stack. "May be" is the worst case: nothing leaves a structure but by an operation that clears it.
import { type CpuModel, hasFeature, OWNER_NONE, type Owner } from "../hardware/index.ts";
import { combine, type StateHash, wordOfText } from "./state-hash.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import type { Undoable } from "./undo-log.ts";

/** The structures by their names in reports. */
export type StructureName = "L1D" | "fill buffers" | "branch target buffer" | "return stack";

const STRUCTURES: readonly StructureName[] = ["L1D", "fill buffers", "branch target buffer", "return stack"];
const L1D = 0;
const FILL_BUFFERS = 1;
const BRANCH_TARGETS = 2;
const RETURN_STACK = 3;
/** `undo`: the whole set is put back, not one label taken out. */
const WHOLE = 1 << 16;
const RECENT = 32;
const NOBODY: ReadonlySet<Owner> = new Set();
/** What the threads of a core have in common: L1D, and fill buffers, which are shared competitively. Predictors: see `of()`. */
const SHARED_STRUCTURES = 2;

export class Labels implements Undoable {
  /** Changes whenever any of them does, back as well. */
  changes = 0;
  /** Told of each change that code makes. */
  onChange: (() => void) | undefined;
  private readonly sets: Set<Owner>[] = STRUCTURES.map(() => new Set<Owner>());
  private readonly model: CpuModel;
  private readonly memory: TrackedMemory;
  /** First of the places that stand for the structures in the hash. */
  private readonly place: number;
  /** Labels that L1D and the fill buffers both hold already, by a few of their bits: touching them again changes nothing. */
  private readonly touchedBefore = new Int32Array(RECENT);
  /** Labels of the core's other thread, where it has one. Each keeps what its own thread brought in. */
  private sibling: Labels | undefined;
  /** The other thread's training steers this one's indirect branches: no STIBP here. */
  private isSteeredBySibling: () => boolean = () => false;

  constructor(model: CpuModel, memory: TrackedMemory, cpu: number) {
    this.model = model;
    this.memory = memory;
    this.place = combine(wordOfText("labels"), cpu);
  }

  /** Makes `other` the other thread of this core; `isSteered`: whether its training counts for this thread now. */
  shareWith(other: Labels, isSteered: () => boolean): void {
    this.sibling = other;
    this.isSteeredBySibling = isSteered;
  }

  /** Changes whenever what `of()` says may have. */
  get version(): number {
    return this.changes + (this.sibling?.changes ?? 0);
  }

  /** Data of `label` went through L1D and a fill buffer. */
  touched(label: Owner): void {
    const slot = (label ^ (label >>> 11)) & (RECENT - 1);
    if (label === this.touchedBefore[slot] || label === OWNER_NONE) return;
    this.put(L1D, label);
    this.put(FILL_BUFFERS, label);
    this.touchedBefore[slot] = label;
  }

  private put(structure: number, label: Owner): void {
    const set = this.sets[structure];
    if (set === undefined || set.has(label)) return;
    set.add(label);
    this.changes++;
    this.onChange?.();
    const { memory } = this;
    if (!memory.isTracking) return;
    memory.log.object(this, structure, label);
    memory.stateHash.toggle(this.place + structure, label);
  }

  private clear(structure: number): void {
    this.clearOwn(structure);
    if (structure < SHARED_STRUCTURES) this.sibling?.clearOwn(structure);
  }

  private clearOwn(structure: number): void {
    const set = this.sets[structure];
    if (set === undefined || set.size === 0) return;
    this.sets[structure] = new Set();
    this.changes++;
    this.onChange?.();
    this.touchedBefore.fill(OWNER_NONE);
    const { memory } = this;
    if (!memory.isTracking) return;
    memory.log.object(this, structure | WHOLE, set);
    for (const label of set) memory.stateHash.toggle(this.place + structure, label);
  }

  undo(key: number, old: unknown): void {
    const structure = key & ~WHOLE;
    this.changes++;
    this.touchedBefore.fill(OWNER_NONE);
    if ((key & WHOLE) !== 0)
      this.sets[structure] = old as Set<Owner>; // as clear() told it
    else this.sets[structure]?.delete(old as Owner); // as put() told it
  }

  /** Adds what all of them hold to `hash`. */
  addTo(hash: StateHash): void {
    for (const [structure, set] of this.sets.entries()) for (const label of set) hash.toggle(this.place + structure, label);
  }

  /** Code of `label` ran: it trained what it liked and touched its own data. */
  executed(label: Owner): void {
    if (label === OWNER_NONE) return;
    this.put(BRANCH_TARGETS, label);
    this.put(RETURN_STACK, label);
    this.touched(label);
  }

  /** IA32_PRED_CMD.IBPB. */
  indirectBranchBarrier(): void {
    this.clear(BRANCH_TARGETS);
    if (this.model.ibpbClearsReturnStack) this.clear(RETURN_STACK);
  }

  fillReturnStack(): void {
    this.clear(RETURN_STACK);
  }

  /** IA32_FLUSH_CMD, or reads of 64 KiB. The MSR also overwrites the buffers that MD_CLEAR names (SDM vol. 4, IA32_FLUSH_CMD). */
  flushL1d(isMsr: boolean): void {
    this.clear(L1D);
    if (isMsr) this.clearBuffers();
  }

  /** VERW, where the microcode has MD_CLEAR. */
  clearBuffers(): void {
    if (hasFeature(this.model, "MD_CLEAR")) this.clear(FILL_BUFFERS);
  }

  /** Power is lost. */
  reset(): void {
    for (const structure of this.sets.keys()) this.clear(structure);
  }

  /** What this thread brought into a structure itself. */
  ofOwn(structure: StructureName): ReadonlySet<Owner> {
    return this.sets[STRUCTURES.indexOf(structure)] ?? NOBODY;
  }

  /**
   * What this thread finds in a structure. L1D and fill buffers are the core's; the branch target buffer holds the other thread's training
   * too unless this one runs with STIBP (SDM vol. 4, IA32_SPEC_CTRL); the return stack is each thread's own.
   */
  of(structure: StructureName): ReadonlySet<Owner> {
    const index = STRUCTURES.indexOf(structure);
    const own = this.sets[index] ?? NOBODY;
    const others = this.sibling?.sets[index];
    if (others === undefined || others.size === 0) return own;
    const isShared = index < SHARED_STRUCTURES || (index === BRANCH_TARGETS && this.isSteeredBySibling());
    return isShared ? new Set([...own, ...others]) : own;
  }
}
