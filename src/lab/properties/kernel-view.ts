// The kernel's own state as an observer reads it: physical memory, by the offsets of its structures, without a step. Here it is only a
// means to know what a domain asks for and what the kernel believes; it is never the truth that is judged.
import { cr3Root, NULL, type PhysAddr, type PhysicalMemory, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import {
  ASI_MAX_NUM_CLASSES,
  Asi,
  AsiState,
  AsiTaintPolicy,
  asiTaints,
  currAsi,
  currentTask,
  KERNEL_DATA_BASE,
  KERNEL_DATA_PHYSICAL,
  KERNEL_TEXT_BASE,
  loadedMm,
  Mm,
  staticObjects,
  TaskStruct,
  ThreadStruct,
} from "../../kernel/index.ts";
import type { CpuTruth } from "./ground-truth.ts";

const PAGE_OFFSET = -0x778000000000;
const VMALLOC_START = -0x370000000000;
/** Kernel: LOADED_MM_SWITCHING. */
const SWITCHING = 1;

/** What a class asks for; all zero while it is not initialised. */
export interface Policy {
  readonly isInitialized: boolean;
  readonly preventControl: number;
  readonly protectData: number;
}

/** A domain as it stands in memory. */
export interface Domain {
  readonly address: Ptr<"asi">;
  readonly pgd: PhysAddr;
  readonly classId: number;
  readonly mmNumber: number;
}

/** The state of a CPU's address space. */
export interface Scan {
  /** The loaded mm; NULL in the middle of a switch. */
  mm: Ptr<"mm_struct">;
  currAsi: Ptr<"asi">;
  taints: number;
  /** The domain of the loaded mm whose tables CR3 holds. */
  restricted: Domain | undefined;
  /** The domains of the loaded mm. */
  readonly domains: Domain[];
}

function staticAddress(name: string): VirtAddr | undefined {
  return staticObjects().find((object) => object.name === name)?.address;
}

const classesAddress = staticAddress("asi_class");
const featureAddress = staticAddress("X86_FEATURE_ASI");

export class KernelView {
  private readonly memory: PhysicalMemory;
  private readonly found: Scan = { mm: NULL, currAsi: NULL, taints: 0, restricted: undefined, domains: [] };

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
  }

  /** Physical address of a kernel address that is not vmalloc memory; -1 if it is none. */
  physical(address: number): number {
    if (address >= KERNEL_DATA_BASE) return address - KERNEL_DATA_BASE + KERNEL_DATA_PHYSICAL;
    if (address >= KERNEL_TEXT_BASE) return address - KERNEL_TEXT_BASE + KERNEL_DATA_PHYSICAL - (KERNEL_DATA_BASE - KERNEL_TEXT_BASE);
    if (address >= PAGE_OFFSET && address < VMALLOC_START && address - PAGE_OFFSET < this.memory.size) return address - PAGE_OFFSET;
    return -1;
  }

  word(address: number): number {
    const pa = this.physical(address);
    return pa < 0 ? 0 : this.memory.readWord(pa as PhysAddr);
  }

  u32(address: number): number {
    const pa = this.physical(address);
    return pa < 0 ? 0 : this.memory.read32(pa as PhysAddr);
  }

  u8(address: number): number {
    const pa = this.physical(address);
    return pa < 0 ? 0 : this.memory.read8(pa as PhysAddr);
  }

  /** The CPU has its per-CPU area and a task: the kernel's state on it means something. */
  isUp(cpu: CpuTruth): boolean {
    return cpu.perCpuBase !== 0 && this.word(cpu.perCpuBase + currentTask.offset) !== 0;
  }

  isAsiEnabled(): boolean {
    return featureAddress !== undefined && this.u8(featureAddress) !== 0;
  }

  policy(classId: number): Policy {
    const at = classesAddress === undefined ? 0 : this.word(classesAddress + 8 * classId);
    if (at === 0) return { isInitialized: false, preventControl: 0, protectData: 0 };
    return {
      isInitialized: true,
      preventControl: this.u8(at + AsiTaintPolicy.offset.preventControl),
      protectData: this.u8(at + AsiTaintPolicy.offset.protectData),
    };
  }

  /** The loaded mm, or NULL in the middle of a switch. */
  loadedMm(cpu: CpuTruth): Ptr<"mm_struct"> {
    const mm = this.word(cpu.perCpuBase + loadedMm.offset);
    return (mm === SWITCHING ? NULL : mm) as Ptr<"mm_struct">;
  }

  pgd(mm: Ptr<"mm_struct">): PhysAddr {
    return this.word(mm + Mm.offset.pgd) as PhysAddr;
  }

  mmNumber(mm: Ptr<"mm_struct">): number {
    return this.u32(mm + Mm.offset.number);
  }

  /** Reads what the properties need at every step. The result is used again by the next call. */
  scan(cpu: CpuTruth): Scan {
    const { found } = this;
    const mm = this.loadedMm(cpu);
    const root = cr3Root(cpu.cr3);
    found.mm = mm;
    found.currAsi = this.word(cpu.perCpuBase + currAsi.offset) as Ptr<"asi">;
    found.taints = this.u8(cpu.perCpuBase + asiTaints.offset);
    found.restricted = undefined;
    found.domains.length = 0;
    if (mm === NULL) return found;
    found.domains.push(...this.domainsOf(mm));
    found.restricted = found.domains.find((domain) => domain.pgd === root);
    return found;
  }

  /** The domains of an mm that have tables, in order of class. */
  domainsOf(mm: Ptr<"mm_struct">): readonly Domain[] {
    const domains: Domain[] = [];
    for (let classId = 0; classId < ASI_MAX_NUM_CLASSES; classId++) {
      const address = (mm + Mm.offset.asi + classId * Asi.bytes) as Ptr<"asi">;
      const pgd = this.word(address + Asi.offset.pgd) as PhysAddr;
      if (pgd !== 0) domains.push({ address, pgd, classId, mmNumber: this.mmNumber(mm) });
    }
    return domains;
  }

  /** Target of the running task, and the handlers nested in its critical section. */
  taskState(cpu: CpuTruth): { readonly target: Ptr<"asi">; readonly depth: number } {
    const task = this.word(cpu.perCpuBase + currentTask.offset);
    const at = task + TaskStruct.offset.thread + ThreadStruct.offset.asiState;
    return { target: this.word(at + AsiState.offset.target) as Ptr<"asi">, depth: this.u32(at + AsiState.offset.intrNestDepth) | 0 };
  }
}
