// The kernel's own state as an observer reads it: physical memory, by the offsets of its structures, without a step. Here it is only a
// means to know what a domain asks for and what the kernel believes; it is never the truth that is judged.
import {
  cr3Root,
  entryFrame,
  largeEntryFrame,
  levelSize,
  NULL,
  type PhysAddr,
  type PhysicalMemory,
  PTE_LARGE,
  PTE_PRESENT,
  type Ptr,
  tableIndex,
  type VirtAddr,
} from "../../hardware/index.ts";
import {
  ASI_GLOBAL_NONSENSITIVE,
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
  Kvm,
  KvmGlobals,
  KvmVcpu,
  kvmAsiPolicyNoSecrets,
  kvmGlobals,
  kvmRunningVcpu,
  lastVm,
  loadedMm,
  Mm,
  staticObjects,
  TASK_COMM_LEN,
  TaskStruct,
  ThreadStruct,
} from "../../kernel/index.ts";
import type { CpuTruth, MemoryWatch } from "./ground-truth.ts";

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
  /** Address of its policy. */
  readonly policyAddress: number;
  /** `Asi.id`. */
  readonly id: number;
  /** Number of the one VM that it is for; 0 if all VMs of the mm share it, or it is no VM's. */
  readonly vm: number;
}

/** The state of a CPU's address space. */
export interface Scan {
  /** The loaded mm; NULL in the middle of a switch. */
  mm: Ptr<"mm_struct">;
  currAsi: Ptr<"asi">;
  taints: number;
  /** The domain whose tables CR3 holds: one of the loaded mm's, or the one that curr_asi names. */
  restricted: Domain | undefined;
  /** The domains of the loaded mm, and the one that curr_asi names. */
  readonly domains: Domain[];
}

/** What of the running task a report names and S7 judges. */
export interface TaskState {
  readonly pid: number;
  readonly comm: string;
  readonly mm: Ptr<"mm_struct">;
  readonly target: Ptr<"asi">;
  readonly depth: number;
}

function staticAddress(name: string): VirtAddr | undefined {
  return staticObjects().find((object) => object.name === name)?.address;
}

const classesAddress = staticAddress("asi_class");
const quietAddress = staticAddress("asi_quiet");
const classesPhysical = classesAddress === undefined ? -1 : classesAddress - KERNEL_DATA_BASE + KERNEL_DATA_PHYSICAL;
const featureAddress = staticAddress("X86_FEATURE_ASI");
const ptiAddress = staticAddress("X86_FEATURE_PTI");
/** Words of memory that decide a judgement besides CR3 and the structures: `KernelView.stamp`. */
export const STAMP_WORDS = 4 + 2 * ASI_MAX_NUM_CLASSES;

/** What `root` maps `va` to; -1 for nothing. */
function walkTables(memory: PhysicalMemory, root: PhysAddr, va: number): number {
  let table: number = root;
  for (const level of [4, 3, 2, 1] as const) {
    const at = (table + tableIndex(va, level) * 8) as PhysAddr;
    if (!memory.has(at, 8)) return -1;
    const low = memory.read32(at);
    const high = memory.read32((at + 4) as PhysAddr);
    if ((low & PTE_PRESENT) === 0) return -1;
    const size = levelSize(level);
    if (level === 1 || (level < 4 && (low & PTE_LARGE) !== 0)) {
      const frame = level === 1 ? entryFrame(low, high) : largeEntryFrame(low, high, level);
      return frame + (va - Math.floor(va / size) * size);
    }
    table = entryFrame(low, high);
  }
  return -1;
}

export class KernelView {
  private readonly memory: PhysicalMemory;
  private readonly watch: MemoryWatch | undefined;
  private readonly found: Scan = { mm: NULL, currAsi: NULL, taints: 0, restricted: undefined, domains: [] };

  constructor(memory: PhysicalMemory, watch?: MemoryWatch) {
    this.memory = memory;
    this.watch = watch;
  }

  /** Physical address of a kernel address that is not vmalloc memory; -1 if it is none. */
  physical(address: number): number {
    if (address >= KERNEL_DATA_BASE) return address - KERNEL_DATA_BASE + KERNEL_DATA_PHYSICAL;
    if (address >= KERNEL_TEXT_BASE) return address - KERNEL_TEXT_BASE + KERNEL_DATA_PHYSICAL - (KERNEL_DATA_BASE - KERNEL_TEXT_BASE);
    if (address >= PAGE_OFFSET && address < VMALLOC_START && address - PAGE_OFFSET < this.memory.size) return address - PAGE_OFFSET;
    return -1;
  }

  /** Physical address of any kernel address, by the kernel's own tables; -1 where they have nothing. */
  walked(address: number): number {
    const direct = this.physical(address);
    return direct >= 0 ? direct : walkTables(this.memory, this.pgd(this.initMm), address);
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

  /** What isUp(), isAsiEnabled() and stamp() read is watched from now on, as it is placed now. */
  watchSteps(cpu: CpuTruth): void {
    const { watch } = this;
    if (watch === undefined) return;
    const base = this.physical(cpu.perCpuBase);
    const words = [base + loadedMm.offset, base + currAsi.offset, base + asiTaints.offset, base + currentTask.offset];
    if (featureAddress !== undefined) words.push(this.physical(featureAddress));
    const mm = this.memory.readWord((base + loadedMm.offset) as PhysAddr);
    const domains = mm === 0 || mm === SWITCHING ? -1 : this.physical(mm) + Mm.offset.asi + Asi.offset.pgd;
    for (let classId = 0; classId < ASI_MAX_NUM_CLASSES; classId++) {
      if (classesPhysical >= 0) words.push(classesPhysical + 8 * classId);
      if (domains >= 0) words.push(domains + classId * Asi.bytes);
    }
    for (const at of words) {
      watch.watch(at as PhysAddr);
      watch.watch((at + 4) as PhysAddr);
    }
  }

  isAsiEnabled(): boolean {
    return featureAddress !== undefined && this.u8(featureAddress) !== 0;
  }

  /** User mode runs on tables of its own: the page behind the mm's root. */
  isPtiEnabled(): boolean {
    return ptiAddress !== undefined && this.u8(ptiAddress) !== 0;
  }

  /** Root of the domain of `mm` for a class; 0 without one. */
  domainRoot(mm: Ptr<"mm_struct">, classId: number): PhysAddr {
    return mm === NULL ? (0 as PhysAddr) : (this.word(mm + Mm.offset.asi + classId * Asi.bytes + Asi.offset.pgd) as PhysAddr);
  }

  /**
   * Writes what decides every judgement of a step into `into`, apart from CR3 and the structures of the core.
   * @returns false if all of it stood there already.
   */
  stamp(cpu: CpuTruth, into: Float64Array): boolean {
    const { memory } = this;
    const base = this.physical(cpu.perCpuBase);
    const mm = memory.readWord((base + loadedMm.offset) as PhysAddr);
    const domain = memory.readWord((base + currAsi.offset) as PhysAddr);
    const taints = memory.read8((base + asiTaints.offset) as PhysAddr);
    let changed = into[0] !== mm || into[1] !== domain || into[2] !== taints;
    into[0] = mm;
    into[1] = domain;
    into[2] = taints;
    const domains = mm === 0 || mm === SWITCHING ? -1 : this.physical(mm) + Mm.offset.asi + Asi.offset.pgd;
    for (let classId = 0; classId < ASI_MAX_NUM_CLASSES; classId++) {
      const policy = classesPhysical < 0 ? 0 : memory.readWord((classesPhysical + 8 * classId) as PhysAddr);
      const root = domains < 0 ? 0 : memory.readWord((domains + classId * Asi.bytes) as PhysAddr);
      const at = 3 + 2 * classId;
      changed ||= into[at] !== policy || into[at + 1] !== root;
      into[at] = policy;
      into[at + 1] = root;
    }
    return changed;
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

  readonly initMm: Ptr<"mm_struct"> = (staticAddress("init_mm") ?? NULL) as Ptr<"mm_struct">;

  /** Root of the part that all domains share; 0 before it is there. */
  globalRoot(): PhysAddr {
    return this.word(ASI_GLOBAL_NONSENSITIVE + Asi.offset.pgd) as PhysAddr;
  }

  /** Address spaces of all tasks and those that CPUs have loaded. */
  allMms(cpus: readonly CpuTruth[]): ReadonlySet<Ptr<"mm_struct">> {
    const found = new Set<Ptr<"mm_struct">>();
    const first = staticAddress("init_task") ?? NULL;
    for (let task = first as number; task !== 0; task = this.word(task + TaskStruct.offset.tasksNext)) {
      for (const offset of [TaskStruct.offset.mm, TaskStruct.offset.activeMm]) found.add(this.word(task + offset) as Ptr<"mm_struct">);
    }
    for (const cpu of cpus) if (this.isUp(cpu)) found.add(this.loadedMm(cpu));
    found.delete(NULL);
    found.delete(this.initMm);
    return found;
  }

  /** Tasks that have an address space of their own. */
  userTasks(): number {
    let count = 0;
    const first = staticAddress("init_task") ?? NULL;
    for (let task = first as number; task !== 0; task = this.word(task + TaskStruct.offset.tasksNext)) {
      if (this.word(task + TaskStruct.offset.mm) !== 0) count++;
    }
    return count;
  }

  /** The domains that `mm` embeds. */
  domainsOf(mm: Ptr<"mm_struct">): readonly Domain[] {
    const domains: Domain[] = [];
    for (let classId = 0; classId < ASI_MAX_NUM_CLASSES; classId++) {
      const pgd = this.domainRoot(mm, classId);
      const address = (mm + Mm.offset.asi + classId * Asi.bytes) as Ptr<"asi">;
      if (pgd !== 0) domains.push(this.domainAt(address, pgd, this.mmNumber(mm), 0));
    }
    for (let kvm = this.word(kvmGlobals + KvmGlobals.offset.vmList); kvm !== 0; kvm = this.word(kvm + Kvm.offset.vmListNext)) {
      if (this.word(kvm + Kvm.offset.mm) !== mm) continue;
      const address = this.word(kvm + Kvm.offset.asi) as Ptr<"asi">;
      if (address === NULL || domains.some((domain) => domain.address === address)) continue;
      const pgd = this.word(address + Asi.offset.pgd) as PhysAddr;
      if (pgd !== 0) domains.push(this.domainAt(address, pgd, this.mmNumber(mm), this.u32(kvm + Kvm.offset.label)));
    }
    return domains;
  }

  private domainAt(address: Ptr<"asi">, pgd: PhysAddr, mmNumber: number, vm: number): Domain {
    return {
      address,
      pgd,
      classId: this.u32(address + Asi.offset.classId),
      mmNumber,
      policyAddress: this.word(address + Asi.offset.policy),
      id: this.u32(address + Asi.offset.id),
      vm,
    };
  }

  /** What entering `domain` looks at: its own policy, which a VM's monitor may have chosen. */
  policyOf(domain: Domain): Policy {
    const at = domain.policyAddress;
    if (at === 0) return this.policy(domain.classId);
    return {
      isInitialized: true,
      preventControl: this.u8(at + AsiTaintPolicy.offset.preventControl),
      protectData: this.u8(at + AsiTaintPolicy.offset.protectData),
    };
  }

  /** The monitors of all VMs of the domain said that they hold no secrets. */
  isWithoutSecrets(domain: Domain): boolean {
    return domain.policyAddress === kvmAsiPolicyNoSecrets;
  }

  /** `Asi.id` of the VM's domain that was entered last on the CPU. */
  lastVm(cpu: CpuTruth): number {
    return this.u32(cpu.perCpuBase + lastVm.offset);
  }

  /** The domain of the VM whose vCPU is loaded on the CPU, or NULL. */
  runningVmDomain(cpu: CpuTruth): Ptr<"asi"> {
    const vcpu = this.word(cpu.perCpuBase + kvmRunningVcpu.offset);
    if (vcpu === 0) return NULL;
    return this.word(this.word(vcpu + KvmVcpu.offset.kvm) + Kvm.offset.asi) as Ptr<"asi">;
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
    if (found.currAsi !== NULL && !found.domains.some((domain) => domain.address === found.currAsi)) this.addCurrent(found, root);
    if (found.restricted === undefined) found.restricted = this.quiet(root);
    return found;
  }

  /** Option core_sched: the domain of idle threads, if `root` is its root; curr_asi names the next one a few steps before CR3 does. */
  private quiet(root: PhysAddr): Domain | undefined {
    if (quietAddress === undefined || this.word(quietAddress + Asi.offset.pgd) !== root) return undefined;
    return this.domainAt(quietAddress as Ptr<"asi">, root, this.mmNumber(this.initMm), 0); // the static object
  }

  /** A domain that no mm embeds (one of a VM's own), or that of another mm: only curr_asi tells of it. */
  private addCurrent(found: Scan, root: PhysAddr): void {
    const at = found.currAsi;
    const pgd = this.word(at + Asi.offset.pgd) as PhysAddr;
    const mm = this.word(at + Asi.offset.mm) as Ptr<"mm_struct">;
    if (pgd === 0 || mm === NULL) return;
    const domain = this.domainAt(at, pgd, this.mmNumber(mm), 0);
    if (mm === found.mm) found.domains.push(domain);
    if (pgd === root) found.restricted = domain;
  }

  /** The running task. */
  taskState(cpu: CpuTruth): TaskState {
    const task = this.word(cpu.perCpuBase + currentTask.offset);
    const at = task + TaskStruct.offset.thread + ThreadStruct.offset.asiState;
    return {
      pid: this.u32(task + TaskStruct.offset.pid) | 0,
      comm: this.taskName(task),
      mm: this.word(task + TaskStruct.offset.mm) as Ptr<"mm_struct">,
      target: this.word(at + AsiState.offset.target) as Ptr<"asi">,
      depth: this.u32(at + AsiState.offset.intrNestDepth) | 0,
    };
  }

  /** Handlers nested in the running task's critical section. */
  nestDepth(cpu: CpuTruth): number {
    const task = this.word(cpu.perCpuBase + currentTask.offset);
    return this.u32(task + TaskStruct.offset.thread + ThreadStruct.offset.asiState + AsiState.offset.intrNestDepth) | 0;
  }

  /** Command name of a task. */
  taskName(task: number): string {
    let name = "";
    for (let i = 0; i < TASK_COMM_LEN; i++) {
      const code = this.u8(task + TaskStruct.offset.comm + i);
      if (code === 0) break;
      name += String.fromCharCode(code);
    }
    return name;
  }
}
