// The properties S1 to S10 as assertions over ground truth. A machine tells every step, every entry to user code or a guest, and every
// change of a frame's owner; the checker looks and counts, and never acts. Each property has a partner that counts how often the
// situation it is about occurred at all: a run in which nothing happened proves nothing.
import {
  cr3Root,
  hex,
  isSensitiveOwner,
  NULL,
  OWNER_GUEST,
  OWNER_NONE,
  OWNER_USER,
  type Owner,
  ownerNumber,
  type Pfn,
  type PhysAddr,
} from "../../hardware/index.ts";
import { ASI_CLASS_KVM, ASI_TAINT_NAMES, ASI_TAINTS_CONTROL_MASK, ASI_TAINTS_DATA_MASK } from "../../kernel/index.ts";
import { type CpuTruth, type GroundTruth, ownerText } from "./ground-truth.ts";
import { exposedData, refusedTraining } from "./judge.ts";
import { type Domain, KernelView, type Scan } from "./kernel-view.ts";
import { auditDomain, frameIn } from "./mapping-audit.ts";
import { PROPERTY_NAMES, type PropertyName, PropertyViolation, type Violation } from "./property.ts";

/** Kernel steps that enter or exit may take, handlers and stubs nested in them not counted, between curr_asi and CR3. */
const WINDOW_STEPS = 16;

interface CpuMemory {
  /** Steps inside the present enter or exit window; 0 outside. */
  window: number;
  windowDepth: number;
  wasRestricted: boolean;
  hadNesting: boolean;
}

export interface CheckerOptions {
  /** Properties to evaluate; all when left out. */
  readonly enabled?: ReadonlySet<PropertyName>;
  /** Collect violations instead of throwing the first. */
  readonly isCollecting?: boolean;
}

/** The situations that the partners count. */
export type Occurrence =
  | "S1: the restricted kernel ran with its own guest's training"
  | "S2: a guest was entered with data in L1D that it may see"
  | "S3: a guest was entered"
  | "S3: user code was entered"
  | "S4: a step inside the window of enter"
  | "S4: a step inside the window of exit"
  | "S4: a handler nested in such a window"
  | "S5: a sensitive frame appeared and was looked for in restricted tables"
  | "S5: a domain's tables were audited"
  | "S7: a guest was entered after a handler had nested in its critical section"
  | "S8: a cached translation was used whose entry had changed"
  | "S9: a frame was freed"
  | "S10: a domain owed no control flush while a predictor held training"
  | "S10: a domain owed no data flush while L1D held data";

export class PropertyChecker {
  readonly violations: Violation[] = [];
  readonly occurred = new Map<Occurrence, number>();
  private readonly truth: GroundTruth;
  private readonly view: KernelView;
  private readonly enabled: ReadonlySet<PropertyName>;
  private readonly isCollecting: boolean;
  private readonly memory = new Map<number, CpuMemory>();
  /** VM number to the number of its mm. */
  private readonly vms = new Map<number, number>();
  private readonly users = new Map<number, number>();
  /** Roots of domains that were ever seen. */
  private readonly domainRoots = new Set<PhysAddr>();

  constructor(truth: GroundTruth, options: CheckerOptions = {}) {
    this.truth = truth;
    this.view = new KernelView(truth.memory);
    this.enabled = options.enabled ?? new Set(PROPERTY_NAMES);
    this.isCollecting = options.isCollecting ?? false;
  }

  /** Forgets what was found and what is under way on each CPU; the counts of occurrences stay. For going back to a snapshot. */
  reset(): void {
    this.violations.length = 0;
    this.memory.clear();
  }

  /** Before every live step. @returns true when ASI is on and the CPU unrestricted: everything is within speculation's reach. */
  beforeStep(cpu: CpuTruth): boolean {
    if (!this.view.isUp(cpu) || !this.view.isAsiEnabled()) return false;
    const scan = this.view.scan(cpu);
    this.checkCr3(cpu, scan);
    this.checkControl(cpu, scan.restricted);
    this.checkTaints(cpu, scan);
    return scan.restricted === undefined;
  }

  /** Before user code or a guest runs. */
  beforeEntry(cpu: CpuTruth, kind: "user" | "guest"): void {
    if (!this.view.isUp(cpu)) return;
    if (kind === "user") this.checkUserEntry(cpu);
    else this.checkGuestEntry(cpu);
  }

  /** Who runs as user or guest code on a CPU from now on. */
  context(cpu: number, kind: number, label: Owner): void {
    if (kind === OWNER_USER) this.users.set(cpu, ownerNumber(label));
    else if (kind === OWNER_GUEST) {
      const mm = this.users.get(cpu);
      if (mm !== undefined) this.vms.set(ownerNumber(label), mm);
    }
  }

  /** A frame changed hands. */
  frameOwner(pfn: Pfn, label: Owner): void {
    if (label === OWNER_NONE) this.checkFreed(pfn);
    else if (isSensitiveOwner(label)) this.checkSensitiveFrame(pfn, label);
  }

  /** A cached translation was used. `hasChanged`: its entry is no longer what it was; `isReused`: so is its frame. */
  staleTranslation(cpu: CpuTruth, address: number, isReused: boolean): void {
    this.note("S8: a cached translation was used whose entry had changed");
    if (isReused)
      this.violate("S8", cpu, "TLB", OWNER_NONE, `${hex(address)} was reached by a translation whose frame has been used again`);
  }

  /** Walks the tables of every domain of the loaded mm: S5 in full. */
  auditMappings(cpu: CpuTruth): void {
    if (!this.enabled.has("S5") || !this.view.isAsiEnabled()) return;
    const { mm, domains } = this.view.scan(cpu);
    for (const domain of domains) {
      this.note("S5: a domain's tables were audited");
      const found = auditDomain(this.truth, domain.pgd, this.view.pgd(mm));
      if (found !== undefined) this.violate("S5", cpu, "restricted page tables", found.owner, found.detail);
    }
  }

  private checkCr3(cpu: CpuTruth, scan: Scan): void {
    const { currAsi: current, mm, domains, restricted } = scan;
    for (const domain of domains) this.domainRoots.add(domain.pgd);
    const memory = this.of(cpu);
    if (restricted !== undefined) {
      if (current !== restricted.address) {
        this.violate("S4", cpu, "curr_asi", OWNER_NONE, `CR3 is the domain at ${hex(restricted.address)}, curr_asi is ${hex(current)}`);
      }
      memory.window = 0;
      memory.wasRestricted = true;
      if (this.view.taskState(cpu).depth > 0) memory.hadNesting = true;
      return;
    }
    if (mm !== NULL && this.domainRoots.has(cr3Root(cpu.cr3)) && cr3Root(cpu.cr3) !== this.view.pgd(mm)) {
      this.violate("S4", cpu, "CR3", OWNER_NONE, "CR3 is a domain of an mm that is not loaded");
    }
    if (current === NULL) {
      memory.window = 0;
      memory.wasRestricted = false;
      return;
    }
    if (memory.window === 0) memory.windowDepth = cpu.depth;
    if (cpu.depth > memory.windowDepth && memory.window > 0) {
      this.note("S4: a handler nested in such a window");
      return;
    }
    memory.window++;
    this.note(memory.wasRestricted ? "S4: a step inside the window of exit" : "S4: a step inside the window of enter");
    if (memory.window > WINDOW_STEPS) {
      this.violate(
        "S4",
        cpu,
        "curr_asi",
        OWNER_NONE,
        `curr_asi is ${hex(current)} while CR3 has been unrestricted for ${memory.window} steps`,
      );
    }
  }

  private checkControl(cpu: CpuTruth, domain: Domain | undefined): void {
    if (!this.enabled.has("S1")) return;
    if (domain !== undefined && cpu.holds("branch target buffer").size > 0)
      this.note("S1: the restricted kernel ran with its own guest's training");
    const found = refusedTraining(this.truth.model, cpu, this.view, domain, this.vms);
    if (found === undefined) return;
    const who = domain === undefined ? "the unrestricted kernel" : "the restricted kernel";
    this.violate("S1", cpu, found.structure, found.owner, `${who} runs with training that it refuses`);
  }

  /** S10: where the byte says that nothing is owed, nothing may be owed. */
  private checkTaints(cpu: CpuTruth, { taints, domains }: Scan): void {
    if (!this.enabled.has("S10")) return;
    const { model } = this.truth;
    if ((taints & ASI_TAINTS_CONTROL_MASK) === 0) {
      const found = refusedTraining(model, cpu, this.view, undefined, this.vms);
      if (found !== undefined) this.taintLie(cpu, taints, found.structure, found.owner, "the unrestricted kernel");
    }
    for (const domain of domains) {
      const policy = this.view.policy(domain.classId);
      if ((taints & policy.preventControl & ASI_TAINTS_CONTROL_MASK) === 0) {
        const found = refusedTraining(model, cpu, this.view, domain, this.vms);
        if (found !== undefined) this.taintLie(cpu, taints, found.structure, found.owner, `the domain at ${hex(domain.address)}`);
        else if (cpu.holds("branch target buffer").size > 0)
          this.note("S10: a domain owed no control flush while a predictor held training");
      }
      if ((taints & policy.protectData & ASI_TAINTS_DATA_MASK) === 0) {
        const found = exposedData(model, cpu, this.view, domain, this.vms);
        if (found !== undefined) this.taintLie(cpu, taints, found.structure, found.owner, `the domain at ${hex(domain.address)}`);
        else if (cpu.holds("L1D").size > 0) this.note("S10: a domain owed no data flush while L1D held data");
      }
    }
  }

  private taintLie(cpu: CpuTruth, taints: number, structure: string, owner: Owner, who: string): void {
    const names = ASI_TAINT_NAMES.filter((_, bit) => (taints & (1 << bit)) !== 0).join(", ");
    this.violate("S10", cpu, structure, owner, `${who} would owe no flush by the taints (${names}), but it does`);
  }

  private checkUserEntry(cpu: CpuTruth): void {
    this.note("S3: user code was entered");
    const mm = this.view.loadedMm(cpu);
    if (mm === NULL || cr3Root(cpu.cr3) !== this.view.pgd(mm)) {
      this.violate("S3", cpu, "CR3", OWNER_NONE, `user code would run on the tables at ${hex(cr3Root(cpu.cr3))}, not its mm's`);
    }
    const { target, depth } = this.view.taskState(cpu);
    if (target !== NULL || depth !== 0) {
      this.violate("S7", cpu, "asi_state", OWNER_NONE, `user code would run with target ${hex(target)} and nesting depth ${depth}`);
    }
  }

  private checkGuestEntry(cpu: CpuTruth): void {
    this.note("S3: a guest was entered");
    const mm = this.view.loadedMm(cpu);
    if (cpu.hostCr3 !== cpu.cr3) {
      this.violate("S3", cpu, "HOST_CR3", OWNER_NONE, `HOST_CR3 is ${hex(cpu.hostCr3)}, CR3 is ${hex(cpu.cr3)}`);
    }
    if (!this.view.isAsiEnabled()) return;
    const domain = this.view.scan(cpu).restricted;
    if (domain === undefined || domain.classId !== ASI_CLASS_KVM) {
      this.violate(
        "S3",
        cpu,
        "CR3",
        OWNER_NONE,
        `the guest would run over the tables at ${hex(cr3Root(cpu.cr3))}, not its VM's domain of ${hex(mm)}`,
      );
      return;
    }
    const { target, depth } = this.view.taskState(cpu);
    if (target !== domain.address || depth !== 0) {
      this.violate("S7", cpu, "asi_state", OWNER_NONE, `the guest would run with target ${hex(target)} and nesting depth ${depth}`);
    }
    const memory = this.of(cpu);
    if (memory.hadNesting) this.note("S7: a guest was entered after a handler had nested in its critical section");
    memory.hadNesting = false;
    this.checkControl(cpu, domain);
    if (!this.enabled.has("S2")) return;
    if (cpu.holds("L1D").size > 0) this.note("S2: a guest was entered with data in L1D that it may see");
    const found = exposedData(this.truth.model, cpu, this.view, domain, this.vms);
    if (found !== undefined)
      this.violate("S2", cpu, found.structure, found.owner, "the guest could sample data that its domain protects from it");
  }

  /** S5 for one frame: it must not be in the direct map of any restricted table. */
  private checkSensitiveFrame(pfn: Pfn, label: Owner): void {
    const cpu = this.truth.cpus[0];
    if (!this.enabled.has("S5") || cpu === undefined || !this.view.isAsiEnabled()) return;
    for (const root of this.domainRoots) {
      this.note("S5: a sensitive frame appeared and was looked for in restricted tables");
      if (frameIn(this.truth, root, pfn)) {
        this.violate(
          "S5",
          cpu,
          "restricted page tables",
          label,
          `frame ${hex(pfn * 4096)} is reachable in the domain with root ${hex(root)}`,
        );
      }
    }
  }

  /** S9: a freed frame must not be the root of any CPU's tables. */
  private checkFreed(pfn: Pfn): void {
    this.note("S9: a frame was freed");
    this.domainRoots.delete((pfn * 4096) as PhysAddr);
    for (const cpu of this.truth.cpus) {
      if (cr3Root(cpu.cr3) === pfn * 4096)
        this.violate("S9", cpu, "CR3", OWNER_NONE, `the root at ${hex(pfn * 4096)} was freed while it is loaded`);
    }
  }

  private of(cpu: CpuTruth): CpuMemory {
    let memory = this.memory.get(cpu.id);
    if (memory === undefined) {
      memory = { window: 0, windowDepth: 0, wasRestricted: false, hadNesting: false };
      this.memory.set(cpu.id, memory);
    }
    return memory;
  }

  private note(occurrence: Occurrence): void {
    this.occurred.set(occurrence, (this.occurred.get(occurrence) ?? 0) + 1);
  }

  private violate(property: PropertyName, cpu: CpuTruth, structure: string, owner: Owner, detail: string): void {
    if (!this.enabled.has(property)) return;
    const violation = { property, cpu: cpu.id, step: cpu.steps, structure, owner: owner === OWNER_NONE ? "" : ownerText(owner), detail };
    this.violations.push(violation);
    if (!this.isCollecting) throw new PropertyViolation(violation);
  }
}
