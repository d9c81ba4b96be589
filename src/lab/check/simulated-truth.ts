// The simulated multiprocessor as the properties see it: the labels on its real lines, buffers and predictor entries. In the architectural
// gear there are none, and S1, S2 and S10 hold trivially.
import { fail, type Owner } from "../../hardware/index.ts";
import type { SimulatedCpu, SimulatedMachine } from "../../machine/index.ts";
import { type CheckerOptions, type CpuTruth, type GroundTruth, PropertyChecker, type Structure } from "../properties/index.ts";
import type { CheckedObserver } from "./residue-truth.ts";

class SimulatedCpuTruth implements CpuTruth {
  steps = 0;
  private readonly machine: SimulatedMachine;
  private readonly cpu: SimulatedCpu;
  // Reading a structure walks all of it: once for each step that asks.
  private readonly seen = new Map<Structure, ReadonlySet<Owner>>();

  constructor(machine: SimulatedMachine, cpu: SimulatedCpu) {
    this.machine = machine;
    this.cpu = cpu;
  }

  get id(): number {
    return this.cpu.id;
  }

  get cr3(): CpuTruth["cr3"] {
    return this.machine.inspection.cr3(this.cpu.id);
  }

  get perCpuBase(): CpuTruth["perCpuBase"] {
    return this.cpu.perCpuBase;
  }

  get hostCr3(): CpuTruth["hostCr3"] {
    return this.machine.inspection.hostCr3(this.cpu);
  }

  /** In the architectural gear there is nothing that could change. */
  get contents(): number {
    return this.machine.inspection.hasStructures ? this.steps : 0;
  }

  get depth(): number {
    return this.cpu.path.depth;
  }

  /** The state may have changed: what was read before is out of date. */
  changed(): void {
    this.seen.clear();
  }

  holds(structure: Structure): ReadonlySet<Owner> {
    let owners = this.seen.get(structure);
    if (owners === undefined) {
      owners = this.machine.inspection.holds(this.cpu.id, structure);
      this.seen.set(structure, owners);
    }
    return owners;
  }
}

/** A checker on every CPU of the machine, at every step of the kernel and every entry. */
export class SimulatedCheck {
  readonly checker: PropertyChecker;
  readonly truth: GroundTruth;

  constructor(machine: SimulatedMachine, observer: CheckedObserver, options: CheckerOptions = {}) {
    const cpus = machine.cpus.map((cpu) => new SimulatedCpuTruth(machine, cpu));
    const truth: GroundTruth = {
      model: machine.model,
      memory: machine.memory,
      cpus,
      frameOwner: (pfn) => machine.inspection.frameOwner(pfn),
    };
    this.truth = truth;
    this.checker = new PropertyChecker(truth, options);
    observer.checker = this.checker;
    const of = (id: number): SimulatedCpuTruth => cpus[id] ?? fail(`no cpu ${id}`);
    machine.setStepHook((cpu) => {
      const told = of(cpu.id);
      told.steps++;
      told.changed();
      this.checker.beforeStep(told);
    });
    machine.entryHook = (cpu, kind) => {
      const told = of(cpu.id);
      told.changed();
      this.checker.beforeEntry(told, kind);
    };
  }
}
