// What stories call things: processes and virtual machines by their names in the configuration, domains by class and process, tables by whose
// they are. Read from the kernel's memory as an observer does; on either machine.
import {
  cr3Root,
  hex,
  isSensitiveOwner,
  NULL,
  OWNER_GUEST,
  OWNER_KERNEL,
  OWNER_USER,
  type Owner,
  ownerKind,
  ownerNumber,
  PAGE_SIZE,
  type Ptr,
  SHARED_BY_PROCESSES,
} from "../../hardware/index.ts";
import {
  ASI_CLASS_KVM,
  ASI_GLOBAL_NONSENSITIVE,
  ASI_TAINT_NAMES,
  Asi,
  Kvm,
  KvmGlobals,
  kvmGlobals,
  Mm,
  staticObjects,
  TaskStruct,
} from "../../kernel/index.ts";
import type { CpuTruth, Domain, KernelView } from "../properties/index.ts";

const FIRST_TASK = staticObjects().find(({ name }) => name === "init_task")?.address ?? NULL;

export function taintList(taints: number): readonly string[] {
  return ASI_TAINT_NAMES.filter((_, bit) => (taints & (1 << bit)) !== 0);
}

export class KernelNames {
  private readonly view: KernelView;
  private readonly cpus: readonly CpuTruth[];

  constructor(view: KernelView, cpus: readonly CpuTruth[]) {
    this.view = view;
    this.cpus = cpus;
  }

  /** `process-1 (pid 2)` */
  task(address: number): string {
    if (address === 0) return "none";
    return `${this.view.taskName(address)} (pid ${this.view.u32(address + TaskStruct.offset.pid) | 0})`;
  }

  taskOfPid(pid: number): string {
    for (const task of this.tasks()) if ((this.view.u32(task + TaskStruct.offset.pid) | 0) === pid) return this.task(task);
    return pid === 0 ? "idle" : `pid ${pid}`;
  }

  mm(address: number): string {
    const { view } = this;
    if (address === 0) return "no mm";
    if (address === view.initMm) return "the kernel";
    return this.mmNumbered(view.mmNumber(address as Ptr<"mm_struct">)); // as the kernel traces it
  }

  private mmNumbered(number: number): string {
    if (number === SHARED_BY_PROCESSES) return "several processes";
    const { view } = this;
    for (const task of this.tasks()) {
      const mm = view.word(task + TaskStruct.offset.mm) as Ptr<"mm_struct">;
      if (mm !== NULL && view.mmNumber(mm) === number) return this.task(task);
    }
    return `mm ${number}, which no task has`;
  }

  private vm(number: number): string {
    const { view } = this;
    for (let kvm = view.word(kvmGlobals + KvmGlobals.offset.vmList); kvm !== 0; kvm = view.word(kvm + Kvm.offset.vmListNext)) {
      if (view.u32(kvm + Kvm.offset.label) === number) return `VM ${number} of ${this.mm(view.word(kvm + Kvm.offset.mm))}`;
    }
    return `VM ${number}, which is gone`;
  }

  /** Whose data or training. */
  owner(label: Owner): string {
    const sensitive = isSensitiveOwner(label) ? "" : " (nonsensitive)";
    switch (ownerKind(label)) {
      case OWNER_KERNEL:
        return `the kernel${sensitive}`;
      case OWNER_USER:
        return `${this.mmNumbered(ownerNumber(label))}${sensitive}`;
      case OWNER_GUEST:
        return `${this.vm(ownerNumber(label))}${sensitive}`;
      case 0:
        return "nobody";
    }
  }

  /** A `struct asi` by its address. */
  domain(address: number): string {
    const { view } = this;
    if (address === 0) return "none";
    if (address === ASI_GLOBAL_NONSENSITIVE) return "the part that all domains share";
    return `${this.className(view.u32(address + Asi.offset.classId))} domain of ${this.mm(view.word(address + Asi.offset.mm))}`;
  }

  private className(classId: number): string {
    return classId === ASI_CLASS_KVM ? "KVM" : "userspace";
  }

  private domainName(domain: Domain): string {
    return domain.vm === 0 ? this.domain(domain.address) : `domain of ${this.vm(domain.vm)}`;
  }

  /** Which tables CR3 names. */
  tables(cpu: CpuTruth): string {
    const { view } = this;
    const root = cr3Root(cpu.cr3);
    if (root === view.pgd(view.initMm)) return "unrestricted, of the kernel";
    for (const mm of view.allMms(this.cpus)) {
      const pgd = view.pgd(mm);
      if (root === pgd) return `unrestricted, of ${this.mm(mm)}`;
      if (root === pgd + PAGE_SIZE) return `user tables of ${this.mm(mm)}`;
      for (const domain of view.domainsOf(mm)) if (root === domain.pgd) return `restricted: ${this.domainName(domain)}`;
    }
    const { restricted } = view.scan(cpu);
    return restricted === undefined ? `a root at ${hex(root)}` : `restricted: ${this.domainName(restricted)}`;
  }

  /** Number of the mm of a domain, 0 for none. */
  mmOfDomain(address: number): number {
    return address === 0 ? 0 : this.view.u32(this.view.word(address + Asi.offset.mm) + Mm.offset.number);
  }

  private *tasks(): Generator<number> {
    const { view } = this;
    for (let task: number = FIRST_TASK; task !== 0; task = view.word(task + TaskStruct.offset.tasksNext)) yield task;
  }
}
