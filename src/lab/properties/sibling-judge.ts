// S1 and S2 between the threads of a core: user or guest code that runs finds what its sibling brings into the core's caches and buffers at
// the same moment, whatever was cleared before it was entered. Judged before each kernel step of the one against what the other runs.
import type { Findings } from "./findings.ts";
import type { CpuTruth, GroundTruth } from "./ground-truth.ts";
import { exposedData, refusedTraining, type VmOwners } from "./judge.ts";
import type { Domain, KernelView } from "./kernel-view.ts";

interface Running {
  readonly domain: Domain;
  readonly kind: "user" | "guest";
  /** What the structures held when it was last found right. */
  contents: number;
}

export class SiblingJudge {
  private readonly truth: GroundTruth;
  private readonly view: KernelView;
  private readonly findings: Findings;
  private readonly vms: VmOwners;
  /** User and guest code that was entered and has not been left since, by CPU. */
  private readonly running = new Map<number, Running>();

  constructor(truth: GroundTruth, view: KernelView, findings: Findings, vms: VmOwners) {
    this.truth = truth;
    this.view = view;
    this.findings = findings;
    this.vms = vms;
  }

  reset(): void {
    this.running.clear();
  }

  /** Code of `domain` runs on `cpu` from now on, and was found right for what the structures hold. */
  entered(cpu: CpuTruth, domain: Domain, kind: "user" | "guest"): void {
    const sibling = this.siblingOf(cpu);
    if (sibling === undefined) return;
    this.running.set(cpu.id, { domain, kind, contents: cpu.contents });
    const other = this.running.get(sibling.id);
    if (other === undefined) return;
    if (other.domain.address === domain.address) this.findings.note("S2: siblings ran code of one domain at the same time");
    this.judge(sibling, other);
  }

  /** Before a kernel step of `cpu`. */
  kernelStep(cpu: CpuTruth): void {
    const sibling = this.siblingOf(cpu);
    if (sibling === undefined) return;
    this.running.delete(cpu.id);
    const other = this.running.get(sibling.id);
    if (other === undefined) return;
    this.findings.note("S2: a CPU was in the kernel while its sibling ran code in a domain");
    this.judge(sibling, other);
  }

  /** What `cpu` runs, against what the structures hold by now. */
  private judge(cpu: CpuTruth, running: Running): void {
    if (running.contents === cpu.contents) return;
    running.contents = cpu.contents;
    const { findings, view, vms } = this;
    const { model } = this.truth;
    const who = running.kind === "user" ? "user code" : "the guest";
    if (findings.isEnabled("S1")) {
      const trained = refusedTraining(model, cpu, view, running.domain, vms);
      if (trained !== undefined)
        findings.violate("S1", cpu, trained.structure, trained.owner, `${who} runs while its sibling trains what its domain refuses`);
    }
    if (!findings.isEnabled("S2")) return;
    const exposed = exposedData(model, cpu, view, running.domain, vms);
    if (exposed !== undefined)
      findings.violate(
        "S2",
        cpu,
        exposed.structure,
        exposed.owner,
        `${who} runs while its sibling brings in data that its domain protects`,
      );
  }

  private siblingOf(cpu: CpuTruth): CpuTruth | undefined {
    return (this.truth.threadsPerCore ?? 1) === 2 ? this.truth.cpus[cpu.id ^ 1] : undefined;
  }
}
