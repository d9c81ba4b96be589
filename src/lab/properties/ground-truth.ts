// What the properties are judged on: the machine's own truth, never what the kernel believes. Both machines can say it.
import {
  type CpuModel,
  type Cr3,
  isSensitiveOwner,
  OWNER_GUEST,
  OWNER_KERNEL,
  OWNER_USER,
  type Owner,
  ownerKind,
  ownerNumber,
  type PhysAddr,
  type PhysicalMemory,
  type VirtAddr,
} from "../../hardware/index.ts";

/** Structures of a core, by their names in reports. */
export type Structure = "L1D" | "fill buffers" | "branch target buffer" | "return stack";

/** What structures hold. */
export interface Contents {
  /** Owners whose data or training the structure may hold. */
  holds(structure: Structure): ReadonlySet<Owner>;
}

export interface CpuTruth extends Contents {
  readonly id: number;
  /** Live steps of this CPU so far. */
  readonly steps: number;
  readonly cr3: Cr3;
  /** Base of the per-CPU area. */
  readonly perCpuBase: VirtAddr;
  /** HOST_CR3 of the current VMCS, 0 without one. */
  readonly hostCr3: Cr3;
  /** Handlers and stubs nested in the running path. */
  readonly depth: number;
  /** Changes whenever what a structure holds may have changed. */
  readonly contents: number;
  /** What of it this thread brought in itself, where its core has another one that brings in things: all that its taints speak of. */
  readonly own?: Contents;
}

/** A machine that notices when words change that somebody reads at every step. */
export interface MemoryWatch {
  /** Changes when any of the watched words may have; NaN while nothing is noticed. */
  readonly watchedChanges: number;
  watch(address: PhysAddr): void;
}

export interface GroundTruth {
  readonly model: CpuModel;
  readonly memory: PhysicalMemory;
  readonly cpus: readonly CpuTruth[];
  readonly watch?: MemoryWatch;
  /** Logical CPUs of a core, neighbours by number; 1 when left out. */
  readonly threadsPerCore?: number;
  /** Owner of a frame. */
  frameOwner(pfn: number): Owner;
}

/** `sensitive kernel data`, `user code of mm 3`, ... */
export function ownerText(label: Owner): string {
  const sensitive = isSensitiveOwner(label) ? "sensitive" : "nonsensitive";
  switch (ownerKind(label)) {
    case OWNER_KERNEL:
      return `the kernel (${sensitive})`;
    case OWNER_USER:
      if (ownerNumber(label) === 0) return `several processes (${sensitive})`;
      return `mm ${ownerNumber(label)} (${sensitive})`;
    case OWNER_GUEST:
      return `VM ${ownerNumber(label)} (${sensitive})`;
    case 0:
      return "nobody";
  }
}
