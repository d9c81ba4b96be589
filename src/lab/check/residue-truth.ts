// The abstract machine as the properties see it, and the properties as its step hook. One thing is added that no step does: code in an
// unrestricted address space may transiently bring in anything, so every such step may leave sensitive kernel data in L1D.
import {
  type Cr3,
  fail,
  type Observer,
  OWNER_KERNEL,
  type Owner,
  owner,
  PAGE_SIZE,
  type PhysAddr,
  PTE_PRESENT,
  VMCS,
} from "../../hardware/index.ts";
import type { ResidueCpu, ResidueMachine, StepHook } from "../../residue/index.ts";
import { type CheckerOptions, type CpuTruth, type GroundTruth, PropertyChecker, type Structure } from "../properties/index.ts";

const SENSITIVE_KERNEL_DATA: Owner = owner(OWNER_KERNEL, 0, true);

function cpuTruth(cpu: ResidueCpu): CpuTruth {
  return {
    id: cpu.id,
    get steps() {
      return cpu.steps;
    },
    get cr3() {
      return cpu.state.cr3;
    },
    get perCpuBase() {
      return cpu.perCpuBase;
    },
    get hostCr3() {
      return cpu.virtualization.field(VMCS.HOST_CR3) as Cr3; // a CR3 value, as the kernel wrote it
    },
    get depth() {
      return cpu.path.depth;
    },
    holds: (structure: Structure) => cpu.labels.of(structure),
  };
}

export function residueTruth(machine: ResidueMachine): GroundTruth {
  return {
    model: machine.cpu(0).model,
    memory: machine.memory,
    cpus: machine.cpus.map(cpuTruth),
    frameOwner: (pfn) => machine.memory.frameOwner(pfn),
  };
}

/** An observer for a machine that is still to be made, which passes ground truth on to a checker that is attached later. */
export interface CheckedObserver extends Observer {
  checker: PropertyChecker | undefined;
}

export function checkedObserver(next: Observer): CheckedObserver {
  const tee: CheckedObserver = {
    checker: undefined,
    trace: (event, a, b, c) => next.trace(event, a, b, c),
    print: (text) => next.print(text),
    frameOwner: (pfn, label) => {
      tee.checker?.frameOwner(pfn, label);
      next.frameOwner(pfn, label);
    },
    context: (cpu, kind, label) => {
      tee.checker?.context(cpu, kind, label);
      next.context(cpu, kind, label);
    },
  };
  return tee;
}

/** What else looks at each step, after the properties. */
export type StepListener = (cpu: ResidueCpu) => void;
export type EntryListener = (cpu: ResidueCpu, kind: "user" | "guest") => void;

/** A checker on every CPU of the machine. */
export class ResidueCheck {
  readonly checker: PropertyChecker;
  onStep: StepListener | undefined;
  onEntry: EntryListener | undefined;
  private readonly truth: GroundTruth;

  constructor(machine: ResidueMachine, observer: CheckedObserver, options: CheckerOptions = {}) {
    const truth = residueTruth(machine);
    this.truth = truth;
    this.checker = new PropertyChecker(truth, options);
    observer.checker = this.checker;
    for (const [i, cpu] of machine.cpus.entries()) {
      const told = truth.cpus[i];
      if (told === undefined) continue;
      cpu.setHook(this.hook(told));
      cpu.mmu.onHit = (translation, va, pa) => {
        const { memory } = machine;
        const low = memory.read32(translation.leaf as PhysAddr);
        if ((low & PTE_PRESENT) !== 0 && (low & 0xfffff000) >>> 0 === (translation.frame & 0xfffff000) >>> 0) return;
        const isReused = memory.frameChangedAt(Math.floor(pa / PAGE_SIZE)) > translation.madeAt;
        this.checker.staleTranslation(told, va, isReused);
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
