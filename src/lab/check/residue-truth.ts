// The abstract machine as the properties see it, and the properties as its step hook. One thing is added that no step does: code in an
// unrestricted address space may transiently bring in anything, so every such step may leave sensitive kernel data in L1D.
import {
  addPhys,
  type Cr3,
  cr3Root,
  fail,
  type Observer,
  OWNER_KERNEL,
  type Owner,
  owner,
  PAGE_SIZE,
  type PhysAddr,
  type PhysicalMemory,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_WRITE,
  type Ptr,
  VMCS,
} from "../../hardware/index.ts";
import { TRACE_UNMAPPED } from "../../kernel/index.ts";
import { type Access, FETCH, type ResidueCpu, type ResidueMachine, type StepHook, type Translation, WRITE } from "../../residue/index.ts";
import {
  type CheckerOptions,
  type Contents,
  type CpuTruth,
  type GroundTruth,
  PropertyChecker,
  type Structure,
} from "../properties/index.ts";

const SENSITIVE_KERNEL_DATA: Owner = owner(OWNER_KERNEL, 0, true);

class ResidueCpuTruth implements CpuTruth {
  readonly id: number;
  /** What this thread of the core brought in itself. */
  readonly own: Contents;
  private readonly cpu: ResidueCpu;

  constructor(cpu: ResidueCpu) {
    this.id = cpu.id;
    this.cpu = cpu;
    this.own = { holds: (structure) => cpu.labels.ofOwn(structure) };
  }

  get steps(): number {
    return this.cpu.steps;
  }

  get cr3(): Cr3 {
    return this.cpu.state.cr3;
  }

  get perCpuBase(): CpuTruth["perCpuBase"] {
    return this.cpu.perCpuBase;
  }

  get hostCr3(): Cr3 {
    return this.cpu.virtualization.field(VMCS.HOST_CR3) as Cr3; // a CR3 value, as the kernel wrote it
  }

  get depth(): number {
    return this.cpu.path.depth;
  }

  get contents(): number {
    return this.cpu.labels.version;
  }

  holds(structure: Structure): ReadonlySet<Owner> {
    return this.cpu.labels.of(structure);
  }
}

export function residueTruth(machine: ResidueMachine): GroundTruth {
  return {
    model: machine.cpu(0).model,
    memory: machine.memory,
    watch: machine.memory,
    cpus: machine.cpus.map((cpu) => new ResidueCpuTruth(cpu)),
    threadsPerCore: machine.threadsPerCore,
    frameOwner: (pfn) => machine.memory.frameOwner(pfn),
  };
}

/** An observer for a machine that is still to be made, which passes ground truth on to a checker that is attached later. */
export interface CheckedObserver extends Observer {
  checker: PropertyChecker | undefined;
  /** Tells the machine that a range of an address space is gone. @returns time for the age of translations */
  revoke: (space: number, start: number, end: number) => number;
}

export function checkedObserver(next: Observer): CheckedObserver {
  const tee: CheckedObserver = {
    checker: undefined,
    revoke: () => 0,
    trace: (event, a, b, c) => {
      if (event === TRACE_UNMAPPED) tee.checker?.removed(a as Ptr<"mm_struct">, b, c, tee.revoke(a, b, c)); // as the kernel traces it
      next.trace(event, a, b, c);
    },
    print: (text) => next.print(text),
    frameOwner: (pfn, label) => {
      tee.checker?.frameOwner(pfn, label);
      next.frameOwner(pfn, label);
    },
    context: (cpu, kind, label) => {
      tee.checker?.context(cpu, kind, label);
      next.context(cpu, kind, label);
    },
    allocated: (kind, address, bytes) => {
      tee.checker?.allocated(kind, address, bytes);
      next.allocated?.(kind, address, bytes);
    },
    freed: (kind, address, bytes) => {
      tee.checker?.freed(kind, address, bytes);
      next.freed?.(kind, address, bytes);
    },
  };
  return tee;
}

const SET_BY_THE_WALK = PTE_ACCESSED | PTE_DIRTY;

/** The entry no longer says what the translation says, or no longer allows what it is used for. */
function isStale(memory: PhysicalMemory, translation: Translation, access: Access): boolean {
  const at = translation.leaf as PhysAddr;
  const low = memory.read32(at);
  if ((low & PTE_PRESENT) === 0 || (low & 0xfffff000) >>> 0 !== (translation.frame & 0xfffff000) >>> 0) return true;
  if (access === WRITE) return (low & PTE_WRITE) === 0 && (translation.low & PTE_WRITE) !== 0;
  return access === FETCH && (memory.read32(addPhys(at, 4)) & PTE_NX_HIGH) !== 0 && translation.isExecutable;
}

/** What else looks at each step, after the properties. */
export type StepListener = (cpu: ResidueCpu) => void;
export type EntryListener = (cpu: ResidueCpu, kind: "user" | "guest") => void;

/** A checker on every CPU of the machine. */
export class ResidueCheck {
  readonly checker: PropertyChecker;
  onStep: StepListener | undefined;
  onEntry: EntryListener | undefined;
  readonly truth: GroundTruth;

  constructor(machine: ResidueMachine, observer: CheckedObserver, options: CheckerOptions = {}) {
    const truth = residueTruth(machine);
    this.truth = truth;
    this.checker = new PropertyChecker(truth, options);
    observer.checker = this.checker;
    observer.revoke = (space, start, end) => machine.revoke(space, start, end);
    for (const [i, cpu] of machine.cpus.entries()) {
      const told = truth.cpus[i];
      if (told === undefined) continue;
      cpu.setHook(this.hook(told));
      cpu.mmu.onHit = (translation, va, pa, access) => {
        const { memory } = machine;
        const changed = (memory.read32(translation.leaf as PhysAddr) ^ translation.low) & ~SET_BY_THE_WALK;
        if (changed === 0 && access !== FETCH) return;
        if (!isStale(memory, translation, access)) return;
        // A large page that was split, or a right that was taken away: the same frame is there, and nobody reaches another's.
        const isElsewhere = cpu.mmu.peek(va, cr3Root(cpu.state.cr3)) !== pa;
        const isReused = isElsewhere && memory.frameChangedAt(Math.floor(pa / PAGE_SIZE)) > translation.madeAt;
        this.checker.staleTranslation(told, va, isReused, translation.madeAt);
      };
    }
  }

  /** CPU `index` as the properties see it. */
  truthOf(index: number): CpuTruth {
    return this.truth.cpus[index] ?? fail(`no cpu ${index}`);
  }

  private hook(told: CpuTruth): StepHook {
    return {
      beforeStep: (cpu) => {
        if (this.checker.beforeStep(told)) cpu.labels.touched(SENSITIVE_KERNEL_DATA);
        this.onStep?.(cpu);
      },
      beforeEntry: (cpu, kind) => {
        this.checker.beforeEntry(told, kind);
        this.onEntry?.(cpu, kind);
      },
    };
  }
}
