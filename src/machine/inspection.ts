// Looking into the machine without touching it: registers of any CPU, and whose data and training its structures hold. For the
// safety properties, for reports and for tests; no time passes and nothing changes.
import { type Cr3, cr3, isSensitiveOwner, OWNER_NONE, type Owner, pcid, physAddr, type VirtAddr, VMCS } from "../hardware/index.ts";
import { CPU_CPL, CPU_CR3, CPU_GUEST_MODE, CPU_REGION, CPU_RETIRED, CPU_RIP } from "./core/layout.gen.ts";
import type { CacheName, DetailedStructures } from "./detailed.ts";
import type { GearedCore } from "./geared-core.ts";
import type { SimulatedCpu } from "./simulated-cpu.ts";

/** Structures of a core that hold data or training, by their names in reports. */
export type TruthStructure = "L1D" | "fill buffers" | "store buffer" | "branch target buffer" | "return stack";

const PCIDS = 4096;

export class Inspection {
  private readonly gearedCore: GearedCore;

  constructor(gearedCore: GearedCore) {
    this.gearedCore = gearedCore;
  }

  /** CR3 of a CPU, running or not. */
  cr3(cpu: number): Cr3 {
    const value = this.word(cpu, CPU_CR3);
    return cr3(physAddr(value - (value % PCIDS)), pcid(value % PCIDS));
  }

  /** Instructions that a CPU has retired. */
  retired(cpu: number): number {
    return this.word(cpu, CPU_RETIRED);
  }

  rip(cpu: number): VirtAddr {
    return this.word(cpu, CPU_RIP) as VirtAddr; // canonical, as the core keeps it
  }

  isInGuest(cpu: number): boolean {
    return this.low(cpu, CPU_GUEST_MODE) !== 0;
  }

  isInUserMode(cpu: number): boolean {
    return this.low(cpu, CPU_CPL) === 3;
  }

  /** HOST_CR3 of the current VMCS; 0 without one. */
  hostCr3(cpu: SimulatedCpu): Cr3 {
    return (cpu.vmxUnit.vmcs?.physical(VMCS.HOST_CR3) ?? 0) as Cr3; // a CR3 value, as the kernel wrote it
  }

  frameOwner(pfn: number): Owner {
    return this.gearedCore.frameOwner(pfn) as Owner; // a label, as the kernel gave it
  }

  /** True if the cache holds the line of `pa`. Always false in the architectural gear, which has no caches. */
  isCached(cache: CacheName, cpu: number, pa: number): boolean {
    const { structures } = this.gearedCore;
    return structures?.holds(cache, coreOf(structures, cpu), pa) ?? false;
  }

  /** Caches, buffers and predictors exist: the machine is in the detailed gear. */
  get hasStructures(): boolean {
    return this.gearedCore.structures !== undefined;
  }

  /** Owners whose data, or trainers whose training, the structure of this CPU's core holds. Empty in the architectural gear. */
  holds(cpu: number, structure: TruthStructure): ReadonlySet<Owner> {
    const { structures } = this.gearedCore;
    const found = new Set<Owner>();
    if (structures === undefined) return found;
    for (const label of labels(structures, cpu, structure)) if (label !== OWNER_NONE) found.add(label as Owner);
    return found;
  }

  /** Sensitive owners among them. */
  holdsSensitive(cpu: number, structure: TruthStructure): ReadonlySet<Owner> {
    return new Set([...this.holds(cpu, structure)].filter(isSensitiveOwner));
  }

  private low(cpu: number, field: number): number {
    return this.gearedCore.core.fields.low(this.gearedCore.core.blockOf(cpu) + field - CPU_REGION);
  }

  private word(cpu: number, field: number): number {
    return this.gearedCore.core.fields.word(this.gearedCore.core.blockOf(cpu) + field - CPU_REGION);
  }
}

function coreOf(structures: DetailedStructures, cpu: number): number {
  return Math.floor(cpu / structures.model.threadsPerCore);
}

function* labels(structures: DetailedStructures, cpu: number, structure: TruthStructure): Generator<number> {
  const core = coreOf(structures, cpu);
  switch (structure) {
    case "L1D":
      for (const line of structures.lines("l1d", core)) yield line.owner;
      return;
    case "fill buffers":
      for (const line of structures.fillBuffers(core)) yield line.owner;
      return;
    case "store buffer":
      for (const slot of structures.storeBuffer(cpu)) yield slot.owner;
      return;
    case "branch target buffer":
      for (const entry of structures.targets(core)) yield entry.trainer;
      return;
    case "return stack":
      for (const entry of structures.returnStack(cpu)) yield entry.trainer;
      return;
  }
}
