// The properties S1 to S10 as assertions over ground truth. A machine tells every step, every entry to user code or a guest, every
// change of a frame's owner and what the kernel says it took away; the checker looks and counts, and never acts.
import {
  cr3Root,
  hex,
  isSensitiveOwner,
  type MemoryKind,
  OWNER_GUEST,
  OWNER_NONE,
  OWNER_USER,
  type Owner,
  ownerNumber,
  PAGE_SIZE,
  type Pfn,
  type PhysAddr,
  type Ptr,
  type VirtAddr,
} from "../../hardware/index.ts";
import { ASI_CLASS_USERSPACE, PAGE_OFFSET } from "../../kernel/index.ts";
import { EntryJudge } from "./entry-judge.ts";
import { type CheckerOptions, Findings, type Occurrence } from "./findings.ts";
import type { CpuTruth, GroundTruth } from "./ground-truth.ts";
import { Journal } from "./journal.ts";
import { KernelView } from "./kernel-view.ts";
import { auditDomain, auditRoot, frameIn } from "./mapping-audit.ts";
import { type Census, Objects } from "./objects.ts";
import type { Violation } from "./property.ts";
import { Removals } from "./removals.ts";
import { StepJudge } from "./step-judge.ts";

export class PropertyChecker {
  readonly view: KernelView;
  readonly objects: Objects;
  private readonly truth: GroundTruth;
  private readonly findings: Findings;
  private readonly steps: StepJudge;
  private readonly entries: EntryJudge;
  private readonly journal = new Journal();
  /** Positions of the journal, and what the judge of steps keeps. */
  private readonly marks: number[] = [];
  private readonly removals = new Removals(this.journal);
  /** VM number to the number of its mm. */
  private readonly vms = new Map<number, number>();
  private readonly users = new Map<number, number>();

  constructor(truth: GroundTruth, options: CheckerOptions = {}) {
    this.truth = truth;
    this.view = new KernelView(truth.memory, truth.watch);
    this.objects = new Objects(options.keepsSites ?? false, this.journal);
    this.findings = new Findings(this.view, options);
    this.entries = new EntryJudge(truth, this.view, this.findings, this.vms);
    this.steps = new StepJudge(truth, this.view, this.findings, this.entries, this.vms, this.journal);
  }

  get violations(): Violation[] {
    return this.findings.violations;
  }

  get occurred(): ReadonlyMap<Occurrence, number> {
    return this.findings.occurred;
  }

  /** What has come up so far does not count: the exploration begins now. */
  forgetOccurrences(): void {
    this.findings.occurred.clear();
  }

  /** What is remembered now, to go back to together with the machine, also in the middle of an event. */
  mark(): number {
    const { marks } = this;
    const mark = marks.length;
    marks.push(this.journal.position());
    this.steps.keep(marks);
    return mark;
  }

  /** Goes back to `mark` and forgets what was found since; the counts of occurrences stay. */
  rewind(mark: number): void {
    const { marks } = this;
    this.journal.goBackTo(marks[mark] ?? 0);
    marks.length = this.steps.putBack(marks, mark + 1);
    this.findings.violations.length = 0;
    this.entries.reset();
  }

  /** Before every live step. @returns true when ASI is on and the CPU unrestricted: everything is within speculation's reach. */
  beforeStep(cpu: CpuTruth): boolean {
    // Whatever is known of this CPU: what it brings in is judged against what the other thread of its core runs.
    this.entries.kernel(cpu);
    const known = this.steps.known(cpu);
    if (known !== undefined) return known;
    if (!this.view.isUp(cpu) || !this.view.isAsiEnabled()) return false;
    return this.steps.step(cpu);
  }

  /** Before user code or a guest runs. */
  beforeEntry(cpu: CpuTruth, kind: "user" | "guest"): void {
    if (!this.view.isUp(cpu)) return;
    if (kind === "user") this.entries.user(cpu);
    else this.entries.guest(cpu);
  }

  /** Who runs as user or guest code on a CPU from now on. */
  context(cpu: number, kind: number, label: Owner): void {
    if (kind === OWNER_USER) this.put(this.users, cpu, ownerNumber(label));
    else if (kind === OWNER_GUEST) {
      const mm = this.users.get(cpu);
      if (mm !== undefined) this.put(this.vms, ownerNumber(label), mm);
    }
  }

  private put(map: Map<number, number>, key: number, value: number): void {
    const before = map.get(key);
    if (before === value) return;
    map.set(key, value);
    this.journal.changed(() => {
      if (before === undefined) map.delete(key);
      else map.set(key, before);
    });
  }

  /** A frame changed hands. */
  frameOwner(pfn: Pfn, label: Owner): void {
    if (isSensitiveOwner(label)) this.checkSensitiveFrame(pfn, label);
  }

  /** The kernel handed out memory. */
  allocated(kind: MemoryKind, address: VirtAddr, bytes: number): void {
    this.account(this.objects.allocated(kind, address, bytes));
  }

  /** The kernel took memory back. */
  freed(kind: MemoryKind, address: VirtAddr, bytes: number): void {
    this.account(this.objects.freed(kind, address));
    if (kind !== "pages") return;
    const first = (address - PAGE_OFFSET) / PAGE_SIZE;
    for (let pfn = first; pfn < first + bytes / PAGE_SIZE; pfn++) this.checkFreed(pfn);
  }

  /** What is allocated now, to compare with another time (S9). */
  census(): Census {
    this.findings.note("S9: the objects were counted");
    return this.objects.census(this.truth.memory, this.view);
  }

  private account(wrong: string | undefined): void {
    const cpu = this.truth.cpus[0];
    if (wrong !== undefined && cpu !== undefined) this.findings.violate("S9", cpu, "memory", OWNER_NONE, wrong);
  }

  /** What took `[start, end)` of `mm` (NULL: kernel addresses) away has returned; translations made before `time` are stale. */
  removed(mm: Ptr<"mm_struct">, start: number, end: number, time: number): void {
    this.findings.note("S8: a range was taken away");
    this.removals.add(mm, start, end, time);
  }

  /**
   * A cached translation, made at `madeAt`, was used though its entry is no longer what it was. `isReused`: its frame has changed hands
   * since. Until what changed the entry has returned this may happen (S8).
   */
  staleTranslation(cpu: CpuTruth, address: number, isReused: boolean, madeAt: number): void {
    const { findings } = this;
    findings.note("S8: a cached translation was used whose entry had changed");
    if (isReused) {
      findings.violate("S8", cpu, "TLB", OWNER_NONE, `${hex(address)} was reached by a translation whose frame has been used again`);
    } else if (this.removals.covers(this.view.loadedMm(cpu), address, madeAt)) {
      findings.violate("S8", cpu, "TLB", OWNER_NONE, `${hex(address)} was reached by a translation that was taken away before`);
    }
  }

  /** Walks the tables of every domain of the loaded mm: S5 in full. */
  auditMappings(cpu: CpuTruth): void {
    const { findings, view, truth } = this;
    if (!findings.isEnabled("S5") || !view.isAsiEnabled()) return;
    const shared = view.globalRoot();
    const found = auditDomain(truth, shared, view.pgd(view.initMm));
    if (found !== undefined) findings.violate("S5", cpu, "restricted page tables", found.owner, found.detail);
    const roots = new Map<PhysAddr, { readonly pgd: PhysAddr; readonly isUser: boolean }>();
    for (const mm of view.allMms(truth.cpus)) {
      for (const { pgd, classId } of view.domainsOf(mm)) roots.set(pgd, { pgd: view.pgd(mm), isUser: classId === ASI_CLASS_USERSPACE });
    }
    for (const [root, { pgd, isUser }] of roots) {
      findings.note("S5: a domain's tables were audited");
      if (isUser) findings.note("S5: a domain's user half was audited");
      const wrong = auditRoot(truth, root, pgd, shared, isUser);
      if (wrong !== undefined) findings.violate("S5", cpu, "restricted page tables", wrong.owner, wrong.detail);
    }
  }

  /** S5 for one frame: it must not be in the direct map of any restricted table. */
  private checkSensitiveFrame(pfn: Pfn, label: Owner): void {
    const cpu = this.truth.cpus[0];
    const { findings, view } = this;
    if (!findings.isEnabled("S5") || cpu === undefined || !view.isAsiEnabled()) return;
    findings.note("S5: a sensitive frame appeared and was looked for in restricted tables");
    // Domains share their kernel half, which the audits make sure of: what one reaches there, all do.
    const root = view.globalRoot();
    if (root !== 0 && frameIn(this.truth, root, pfn)) {
      const why = `frame ${hex(pfn * PAGE_SIZE)} is reachable in every domain`;
      findings.violate("S5", cpu, "restricted page tables", label, why);
    }
  }

  /** S9: a freed frame must not be the root of any CPU's tables. */
  private checkFreed(pfn: number): void {
    const { findings } = this;
    findings.note("S9: a frame was freed");
    const root = (pfn * PAGE_SIZE) as PhysAddr;
    this.steps.freed(root);
    for (const cpu of this.truth.cpus) {
      if (cr3Root(cpu.cr3) === root)
        findings.violate("S9", cpu, "CR3", OWNER_NONE, `the root at ${hex(root)} was freed while it is loaded`);
    }
  }
}
