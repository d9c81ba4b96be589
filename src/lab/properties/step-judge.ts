// What must hold at every kernel step: S4, S1 for the kernel itself, S10. Judged anew only when something it depends on has changed: the
// registers and words of memory that the step's state consists of, or what the structures of the core hold.
import { cr3Root, hex, NULL, OWNER_NONE, type Owner, type PhysAddr } from "../../hardware/index.ts";
import {
  ASI_CLASS_KVM,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_GUEST_DATA,
  ASI_TAINT_NAMES,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_RETURN_STACK,
  ASI_TAINTS_CONTROL_MASK,
  ASI_TAINTS_DATA_MASK,
  staticObjects,
} from "../../kernel/index.ts";
import type { EntryJudge } from "./entry-judge.ts";
import type { Findings, Occurrence } from "./findings.ts";
import type { CpuTruth, GroundTruth } from "./ground-truth.ts";
import type { Journal } from "./journal.ts";
import { exposedData, refusedReturns, refusedTraining, type VmOwners } from "./judge.ts";
import { type Domain, type KernelView, type Scan, STAMP_WORDS } from "./kernel-view.ts";

const rsbTaintAddress: number = staticObjects().find(({ name }) => name === "cordon_rsb_taint")?.address ?? 0;
/** Kernel steps that enter or exit may take, handlers and stubs nested in them not counted, between curr_asi and CR3. */
const WINDOW_STEPS = 40;

/** Numbers of each CPU that a mark keeps. */
const KEPT = 2;
const WAS_RESTRICTED = 1;
const IS_RESTRICTED = 2;
/** Nothing had changed since the last judgement. */
const IS_JUDGED = 4;
const WINDOW_SHIFT = 3;

interface CpuMemory {
  /** Steps inside the present enter or exit window; 0 outside. */
  window: number;
  windowDepth: number;
  wasRestricted: boolean;
  isRestricted: boolean;
  /** What the last judgement was made of. */
  readonly stamp: Float64Array;
  cr3: number;
  contents: number;
  /** The machine's count of changes of what the judgement reads. */
  watched: number;
}

export class StepJudge {
  private readonly truth: GroundTruth;
  private readonly view: KernelView;
  private readonly findings: Findings;
  private readonly entries: EntryJudge;
  private readonly vms: VmOwners;
  private readonly cpus: CpuMemory[] = [];
  /** Roots of the domains that were seen and whose root was not freed since. */
  private readonly domainRoots = new Set<PhysAddr>();
  private readonly journal: Journal;

  constructor(truth: GroundTruth, view: KernelView, findings: Findings, entries: EntryJudge, vms: VmOwners, journal: Journal) {
    this.journal = journal;
    this.truth = truth;
    this.view = view;
    this.findings = findings;
    this.entries = entries;
    this.vms = vms;
  }

  /** What is under way on each CPU, for a mark. */
  keep(into: number[]): void {
    for (const cpu of this.truth.cpus) {
      const memory = this.of(cpu);
      const { window, windowDepth, wasRestricted, isRestricted } = memory;
      const flags =
        (wasRestricted ? WAS_RESTRICTED : 0) | (isRestricted ? IS_RESTRICTED : 0) | (this.isJudged(cpu, memory) ? IS_JUDGED : 0);
      into.push((window << WINDOW_SHIFT) | flags, windowDepth);
    }
  }

  /** The machine went back: `from` holds what keep() pushed, from `at` on. @returns where that ends */
  putBack(from: readonly number[], at: number): number {
    let next = at;
    for (const cpu of this.truth.cpus) {
      const memory = this.of(cpu);
      const word = from[next] ?? 0;
      memory.window = word >> WINDOW_SHIFT;
      memory.wasRestricted = (word & WAS_RESTRICTED) !== 0;
      memory.isRestricted = (word & IS_RESTRICTED) !== 0;
      memory.windowDepth = from[next + 1] ?? 0;
      // What was judged before the mark is judged: the machine is what it was then.
      const isJudged = (word & IS_JUDGED) !== 0;
      memory.watched = isJudged ? (this.truth.watch?.watchedChanges ?? Number.NaN) : Number.NaN;
      memory.cr3 = isJudged ? cpu.cr3 : -1;
      memory.contents = cpu.contents;
      memory.stamp.fill(Number.NaN);
      next += KEPT;
    }
    return next;
  }

  /** As step(), where nothing has changed since that would be judged; undefined: something may have. */
  known(cpu: CpuTruth): boolean | undefined {
    const memory = this.cpus[cpu.id];
    if (memory === undefined || memory.window !== 0 || !this.isJudged(cpu, memory)) return undefined;
    if (memory.isRestricted && cpu.depth > 0 && this.view.nestDepth(cpu) > 0) this.entries.sawNesting(cpu);
    return !memory.isRestricted;
  }

  /** Nothing has changed since the last judgement. */
  private isJudged(cpu: CpuTruth, memory: CpuMemory): boolean {
    return memory.watched === this.truth.watch?.watchedChanges && memory.cr3 === cpu.cr3 && memory.contents === cpu.contents;
  }

  /** The frame is no domain's root any more. */
  freed(root: PhysAddr): void {
    if (this.domainRoots.delete(root)) this.journal.changed(() => this.domainRoots.add(root));
  }

  private seen(root: PhysAddr): void {
    if (this.domainRoots.has(root)) return;
    this.domainRoots.add(root);
    this.journal.changed(() => this.domainRoots.delete(root));
  }

  /** @returns true when the CPU is unrestricted */
  step(cpu: CpuTruth): boolean {
    const memory = this.of(cpu);
    const { watch } = this.truth;
    if (watch !== undefined) {
      this.view.watchSteps(cpu);
      memory.watched = watch.watchedChanges;
    }
    const changed = this.view.stamp(cpu, memory.stamp);
    if (!changed && cpu.cr3 === memory.cr3 && cpu.contents === memory.contents && memory.window === 0) {
      if (memory.isRestricted && cpu.depth > 0 && this.view.nestDepth(cpu) > 0) this.entries.sawNesting(cpu);
      return !memory.isRestricted;
    }
    memory.cr3 = cpu.cr3;
    memory.contents = cpu.contents;
    const scan = this.view.scan(cpu);
    this.checkCr3(cpu, scan, memory);
    this.checkControl(cpu, scan.restricted);
    this.checkTaints(cpu, scan);
    memory.isRestricted = scan.restricted !== undefined;
    return !memory.isRestricted;
  }

  private checkCr3(cpu: CpuTruth, scan: Scan, memory: CpuMemory): void {
    const { currAsi: current, mm, domains, restricted } = scan;
    const { findings } = this;
    for (const domain of domains) this.seen(domain.pgd);
    const root = cr3Root(cpu.cr3);
    if (restricted !== undefined) {
      // From one domain straight to another curr_asi is the new one for the few steps until CR3 follows: the window of enter.
      const isEntering = current !== restricted.address && current !== NULL && current === this.view.taskState(cpu).target;
      if (isEntering) {
        this.stepInWindow(cpu, memory, "S4: a step between two domains", current, `a domain's at ${hex(restricted.address)}`);
        return;
      }
      if (current !== restricted.address) {
        const why = `CR3 is the domain at ${hex(restricted.address)}, curr_asi is ${hex(current)}`;
        findings.violate("S4", cpu, "curr_asi", OWNER_NONE, why);
      }
      memory.window = 0;
      memory.wasRestricted = true;
      if (this.view.nestDepth(cpu) > 0) this.entries.sawNesting(cpu);
      return;
    }
    if (mm !== NULL && this.domainRoots.has(root) && root !== this.view.pgd(mm))
      findings.violate("S4", cpu, "CR3", OWNER_NONE, "CR3 is a domain of an mm that is not loaded");
    if (current === NULL) {
      memory.window = 0;
      memory.wasRestricted = false;
      return;
    }
    const window = memory.wasRestricted ? "S4: a step inside the window of exit" : "S4: a step inside the window of enter";
    this.stepInWindow(cpu, memory, window, current, "unrestricted");
  }

  /** Another step with curr_asi and CR3 apart: few enough, handlers nested in it left out? */
  private stepInWindow(cpu: CpuTruth, memory: CpuMemory, situation: Occurrence, current: number, tables: string): void {
    const { findings } = this;
    if (memory.window === 0) memory.windowDepth = cpu.depth;
    if (cpu.depth > memory.windowDepth && memory.window > 0) {
      findings.note("S4: a handler nested in such a window");
      return;
    }
    memory.window++;
    findings.note(situation);
    if (memory.window > WINDOW_STEPS) {
      const why = `curr_asi is ${hex(current)} while CR3 has been ${tables} for ${memory.window} steps`;
      findings.violate("S4", cpu, "curr_asi", OWNER_NONE, why);
    }
  }

  private checkControl(cpu: CpuTruth, domain: Domain | undefined): void {
    const { findings } = this;
    if (!findings.isEnabled("S1")) return;
    if (domain !== undefined && cpu.holds("branch target buffer").size > 0) {
      findings.note(
        domain.classId === ASI_CLASS_KVM
          ? "S1: the restricted kernel ran with its own guest's training"
          : "S1: the restricted kernel ran with its own process's training",
      );
    }
    const found = refusedTraining(this.truth.model, cpu, this.view, domain, this.vms);
    if (found === undefined) return;
    const who = domain === undefined ? "the unrestricted kernel" : "the restricted kernel";
    findings.violate("S1", cpu, found.structure, found.owner, `${who} runs with training that it refuses`);
  }

  /** S10: where the byte says that nothing is owed, nothing may be owed. */
  private checkTaints(cpu: CpuTruth, { taints: byte, domains }: Scan): void {
    const { findings } = this;
    if (!findings.isEnabled("S10")) return;
    const { model } = this.truth;
    // The byte is a thread's and says nothing of its sibling.
    const own = cpu.own ?? cpu;
    if ((byte & ASI_TAINTS_CONTROL_MASK) === 0) {
      const found = refusedTraining(model, own, this.view, undefined, this.vms);
      if (found !== undefined) this.taintLie(cpu, byte, found.structure, found.owner, "the unrestricted kernel");
    }
    if (rsbTaintAddress !== 0 && this.view.u8(rsbTaintAddress) !== 0 && (byte & ASI_TAINT_RETURN_STACK) === 0) {
      const found = refusedReturns(own, this.view);
      if (found !== undefined) this.taintLie(cpu, byte, found.structure, found.owner, "the unrestricted kernel");
    }
    for (const domain of domains) {
      const policy = this.view.policyOf(domain);
      const taints = this.taintsFor(cpu, byte, domain);
      if ((taints & policy.preventControl & ASI_TAINTS_CONTROL_MASK) === 0) {
        const found = refusedTraining(model, own, this.view, domain, this.vms);
        if (found !== undefined) this.taintLie(cpu, taints, found.structure, found.owner, `the domain at ${hex(domain.address)}`);
        else if (own.holds("branch target buffer").size > 0)
          findings.note("S10: a domain owed no control flush while a predictor held training");
      }
      if ((taints & policy.protectData & ASI_TAINTS_DATA_MASK) === 0) {
        const found = exposedData(model, own, this.view, domain, this.vms);
        if (found !== undefined) this.taintLie(cpu, taints, found.structure, found.owner, `the domain at ${hex(domain.address)}`);
        else if (own.holds("L1D").size > 0) findings.note("S10: a domain owed no data flush while L1D held data");
      }
    }
  }

  /** The byte as entering `domain` reads it: what the last VM left is a stranger's to the domain of another VM. */
  private taintsFor(cpu: CpuTruth, taints: number, { vm, id }: Domain): number {
    if (vm === 0 || this.view.lastVm(cpu) === id) return taints;
    const control = (taints & ASI_TAINT_GUEST_CONTROL) === 0 ? 0 : ASI_TAINT_OTHER_MM_CONTROL;
    return taints | control | ((taints & ASI_TAINT_GUEST_DATA) === 0 ? 0 : ASI_TAINT_OTHER_MM_DATA);
  }

  private taintLie(cpu: CpuTruth, taints: number, structure: string, owner: Owner, who: string): void {
    const names = ASI_TAINT_NAMES.filter((_, bit) => (taints & (1 << bit)) !== 0).join(", ");
    this.findings.violate("S10", cpu, structure, owner, `${who} would owe no flush by the taints (${names}), but it does`);
  }

  private of(cpu: CpuTruth): CpuMemory {
    let memory = this.cpus[cpu.id];
    if (memory === undefined) {
      memory = {
        window: 0,
        windowDepth: 0,
        wasRestricted: false,
        isRestricted: false,
        stamp: new Float64Array(STAMP_WORDS).fill(Number.NaN),
        cr3: -1,
        contents: -1,
        watched: Number.NaN,
      };
      this.cpus[cpu.id] = memory;
    }
    return memory;
  }
}
