// What must hold when code runs that the kernel does not trust: S3 and S7, and S1 and S2 for the domain that it runs in.
import { addPhys, cr3Root, hex, NULL, OWNER_NONE, PAGE_SIZE } from "../../hardware/index.ts";
import { ASI_CLASS_KVM, ASI_CLASS_USERSPACE } from "../../kernel/index.ts";
import type { Findings } from "./findings.ts";
import type { CpuTruth, GroundTruth } from "./ground-truth.ts";
import { exposedData, refusedTraining, type VmOwners } from "./judge.ts";
import type { Domain, KernelView, TaskState } from "./kernel-view.ts";
import { SiblingJudge } from "./sibling-judge.ts";

export class EntryJudge {
  private readonly truth: GroundTruth;
  private readonly view: KernelView;
  private readonly findings: Findings;
  private readonly vms: VmOwners;
  /** CPUs on which a handler nested in a critical section since code last ran in it. */
  private readonly nested = new Set<number>();
  /** Steps of each CPU when its user code was last found right, and what its structures held. */
  private readonly judgedAt = new Map<number, { readonly steps: number; readonly contents: number }>();
  private readonly siblings: SiblingJudge;

  constructor(truth: GroundTruth, view: KernelView, findings: Findings, vms: VmOwners) {
    this.truth = truth;
    this.view = view;
    this.findings = findings;
    this.vms = vms;
    this.siblings = new SiblingJudge(truth, view, findings, vms);
  }

  /** Before a kernel step: the CPU does not run user or guest code, but its sibling may. */
  kernel(cpu: CpuTruth): void {
    this.siblings.kernelStep(cpu);
  }

  reset(): void {
    this.nested.clear();
    this.judgedAt.clear();
    this.siblings.reset();
  }

  /** A handler nested in the running task's critical section. */
  sawNesting(cpu: CpuTruth): void {
    this.nested.add(cpu.id);
  }

  user(cpu: CpuTruth): void {
    const { findings, view } = this;
    // Between two instructions of user code no step was made: nothing but that code's own traces has changed.
    const { steps, contents } = cpu;
    const judged = this.judgedAt.get(cpu.id);
    if (judged !== undefined && judged.steps === steps && judged.contents === contents) return;
    this.judgedAt.set(cpu.id, { steps, contents });
    findings.note("S3: user code was entered");
    const scan = view.scan(cpu);
    const { mm } = scan;
    const task = view.taskState(cpu);
    if (mm === NULL || task.mm !== mm) {
      findings.violate("S3", cpu, "loaded_mm", OWNER_NONE, `user code of mm ${hex(task.mm)} would run with mm ${hex(mm)} loaded`);
      return;
    }
    const domain = view.isAsiEnabled() ? scan.domains.find(({ classId }) => classId === ASI_CLASS_USERSPACE) : undefined;
    this.userTables(cpu, domain);
    this.state(cpu, task, domain, "user code");
    if (domain === undefined) return;
    findings.note("S3: user code was entered in its own domain");
    this.structures(cpu, domain, "user");
  }

  private userTables(cpu: CpuTruth, domain: Domain | undefined): void {
    const { view, findings } = this;
    const root = cr3Root(cpu.cr3);
    let expected = domain?.pgd ?? view.pgd(view.loadedMm(cpu));
    let what = domain === undefined ? "its mm's" : "its domain's";
    if (domain === undefined && view.isPtiEnabled()) {
      expected = addPhys(expected, PAGE_SIZE);
      what = "its mm's user tables";
      if (root === expected) findings.note("S3: user code was entered on user tables of its own");
    }
    if (root !== expected) findings.violate("S3", cpu, "CR3", OWNER_NONE, `user code would run on the tables at ${hex(root)}, not ${what}`);
  }

  guest(cpu: CpuTruth): void {
    const { findings, view } = this;
    findings.note("S3: a guest was entered");
    if (cpu.hostCr3 !== cpu.cr3)
      findings.violate("S3", cpu, "HOST_CR3", OWNER_NONE, `HOST_CR3 is ${hex(cpu.hostCr3)}, CR3 is ${hex(cpu.cr3)}`);
    if (!view.isAsiEnabled()) return;
    const scan = view.scan(cpu);
    const domain = scan.restricted;
    const wanted = view.runningVmDomain(cpu);
    if (domain === undefined || domain.classId !== ASI_CLASS_KVM || (wanted !== NULL && domain.address !== wanted)) {
      const why = `the guest would run over the tables at ${hex(cr3Root(cpu.cr3))}, not its VM's domain of ${hex(scan.mm)}`;
      findings.violate("S3", cpu, "CR3", OWNER_NONE, why);
      return;
    }
    this.state(cpu, view.taskState(cpu), domain, "the guest");
    this.structures(cpu, domain, "guest");
  }

  /** S7. */
  private state(cpu: CpuTruth, { target, depth }: TaskState, domain: Domain | undefined, who: string): void {
    if (target !== (domain?.address ?? NULL) || depth !== 0)
      this.findings.violate("S7", cpu, "asi_state", OWNER_NONE, `${who} would run with target ${hex(target)} and nesting depth ${depth}`);
    if (domain !== undefined && this.nested.delete(cpu.id)) {
      this.findings.note(
        who === "the guest"
          ? "S7: a guest was entered after a handler had nested in its critical section"
          : "S7: user code was entered after a handler had nested in its critical section",
      );
    }
  }

  /** S1 and S2 for code of `domain`. */
  private structures(cpu: CpuTruth, domain: Domain, kind: "user" | "guest"): void {
    const { findings, view, vms } = this;
    this.siblings.entered(cpu, domain, kind);
    const { model } = this.truth;
    const who = kind === "user" ? "user code" : "the guest";
    if (findings.isEnabled("S1")) {
      const trained = refusedTraining(model, cpu, view, domain, vms);
      if (trained !== undefined)
        findings.violate("S1", cpu, trained.structure, trained.owner, `${who} would run with training that its domain refuses`);
    }
    if (!findings.isEnabled("S2")) return;
    if (cpu.holds("L1D").size > 0) {
      findings.note(
        kind === "user"
          ? "S2: user code was entered with data in L1D that it may see"
          : "S2: a guest was entered with data in L1D that it may see",
      );
    }
    const exposed = exposedData(model, cpu, view, domain, vms);
    if (exposed !== undefined)
      findings.violate("S2", cpu, exposed.structure, exposed.owner, `${who} could sample data that its domain protects from it`);
  }
}
