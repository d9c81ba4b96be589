// The address spaces of a running system side by side: for each region of the kernel half, and for the user half, how many pages the
// unrestricted tables of an mm reach and how many each of its restricted address spaces does, by whose data the frames hold. Read from
// physical memory by an observer: no time passes and nothing changes.
import {
  cr3Root,
  ENTRIES_PER_TABLE,
  entryFrame,
  isSensitiveOwner,
  type Level,
  largeEntryFrame,
  levelSize,
  NULL,
  OWNER_NONE,
  type Owner,
  PAGE_SIZE,
  type PhysAddr,
  PTE_LARGE,
  PTE_PRESENT,
  type Ptr,
} from "../hardware/index.ts";
import {
  type AsiClassId,
  asiClassName,
  CPU_ENTRY_AREA_BASE,
  initTask,
  KERNEL_DATA_BASE,
  KERNEL_TEXT_BASE,
  loadedMm,
  PAGE_OFFSET,
  TaskStruct,
  VMALLOC_END,
  VMALLOC_START,
  VMEMMAP_START,
} from "../kernel/index.ts";
import type { SimulatedMachine } from "../machine/index.ts";
import { KernelView, ownerText } from "./properties/index.ts";

/** Pages of 4 KiB that one set of tables reaches in a region, and how many of them hold sensitive data. */
export interface PageCount {
  readonly pages: number;
  readonly sensitive: number;
}

/** One region's frames of one owner, in each address space; the unrestricted one first, then as `spaces` says. */
export interface MapRow {
  readonly region: string;
  readonly owner: string;
  readonly counts: readonly PageCount[];
}

/** One process: its unrestricted address space and its restricted ones. */
export interface AddressMap {
  readonly pid: number;
  readonly name: string;
  readonly mm: number;
  /** "unrestricted", then the class of each domain. */
  readonly spaces: readonly string[];
  readonly rows: readonly MapRow[];
}

/** What the regions of the address space are called, by first address, in order. Documentation/arch/x86/x86_64/mm.rst. */
const REGIONS: readonly (readonly [number, string])[] = [
  [0, "user half"],
  [-(2 ** 47), "guard hole, LDT"],
  [PAGE_OFFSET, "direct map"],
  [VMALLOC_START, "vmalloc, stacks"],
  [VMALLOC_END, "unused"],
  [VMEMMAP_START, "page array"],
  [VMEMMAP_START + 2 ** 40, "other"],
  [CPU_ENTRY_AREA_BASE, "cpu_entry_area"],
  [CPU_ENTRY_AREA_BASE + 2 ** 39, "espfix, EFI"],
  [KERNEL_TEXT_BASE, "kernel text"],
  [KERNEL_DATA_BASE, "kernel data"],
  [KERNEL_DATA_BASE + 2 ** 24, "modules, fixmap"],
];
const USER_REGION = 0;

/** Index into REGIONS. Kernel addresses are negative and in order behind the first. */
function regionOf(va: number): number {
  if (va >= 0) return USER_REGION;
  let found = 1;
  for (let i = 1; i < REGIONS.length; i++) if (va >= (REGIONS[i]?.[0] ?? 0)) found = i;
  return found;
}

/** Pages by `region * 65536 + owner`. */
type Counts = Map<number, number>;
const OWNERS = 65536;

class Walker {
  private readonly machine: SimulatedMachine;

  constructor(machine: SimulatedMachine) {
    this.machine = machine;
  }

  count(root: PhysAddr): Counts {
    const counts: Counts = new Map();
    this.walk(counts, root, 4, 0);
    return counts;
  }

  private walk(counts: Counts, table: number, level: Level, base: number): void {
    const { memory } = this.machine;
    for (let index = 0; index < ENTRIES_PER_TABLE; index++) {
      const at = (table + index * 8) as PhysAddr;
      const low = memory.read32(at);
      if ((low & PTE_PRESENT) === 0) continue;
      const high = memory.read32((at + 4) as PhysAddr);
      let va = base + index * levelSize(level);
      if (level === 4 && index >= ENTRIES_PER_TABLE / 2) va -= 2 ** 48;
      if (level === 1) this.leaf(counts, va, entryFrame(low, high), 1);
      else if (level < 4 && (low & PTE_LARGE) !== 0) this.leaf(counts, va, largeEntryFrame(low, high, level), levelSize(level) / PAGE_SIZE);
      else this.walk(counts, entryFrame(low, high), (level - 1) as Level, va);
    }
  }

  private leaf(counts: Counts, va: number, frame: number, pages: number): void {
    const end = this.machine.memory.size / PAGE_SIZE;
    const first = frame / PAGE_SIZE;
    const region = regionOf(va);
    for (let pfn = first; pfn < Math.min(first + pages, end); pfn++) {
      const key = region * OWNERS + this.machine.inspection.frameOwner(pfn);
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  }
}

/** The address spaces of every process, in order of pid; processes that share an mm are one. */
export function addressMaps(machine: SimulatedMachine): readonly AddressMap[] {
  const view = new KernelView(machine.memory);
  const walker = new Walker(machine);
  const maps: AddressMap[] = [];
  const seen = new Set<number>();
  for (let task = view.word(initTask + TaskStruct.offset.tasksNext); task !== NULL; task = view.word(task + TaskStruct.offset.tasksNext)) {
    const mm = view.word(task + TaskStruct.offset.mm) as Ptr<"mm_struct">; // what the field holds
    if (mm === NULL || seen.has(mm)) continue;
    seen.add(mm);
    maps.push(addressMap(view, walker, task, mm));
  }
  return maps.sort((a, b) => a.pid - b.pid);
}

function addressMap(view: KernelView, walker: Walker, task: number, mm: Ptr<"mm_struct">): AddressMap {
  const domains = view.domainsOf(mm);
  const roots = [view.pgd(mm), ...domains.map((domain) => domain.pgd)];
  const counts = roots.map((root) => walker.count(root));
  const keys = [...new Set(counts.flatMap((map) => [...map.keys()]))].sort((a, b) => a - b);
  return {
    pid: view.u32(task + TaskStruct.offset.pid),
    name: view.taskName(task),
    mm: view.mmNumber(mm),
    spaces: ["unrestricted", ...domains.map((domain) => asiClassName(domain.classId as AsiClassId))],
    rows: keys.map((key) => {
      const label = (key % OWNERS) as Owner; // what the walker counted
      return {
        region: REGIONS[Math.floor(key / OWNERS)]?.[1] ?? "",
        owner: label === OWNER_NONE ? "nobody: free, or since boot" : ownerText(label),
        counts: counts.map((map) => {
          const pages = map.get(key) ?? 0;
          return { pages, sensitive: isSensitiveOwner(label) ? pages : 0 };
        }),
      };
    }),
  };
}

/** Names of the tables that each CPU has loaded: "unrestricted", or the class of the domain. For the head of a map. */
export function loadedSpaces(machine: SimulatedMachine): readonly string[] {
  const view = new KernelView(machine.memory);
  return machine.cpus.map((cpu) => {
    const root = cr3Root(machine.inspection.cr3(cpu.id));
    const mm = view.word(cpu.perCpuBase + loadedMm.offset) as Ptr<"mm_struct">; // what the variable holds
    if (mm === NULL) return "unrestricted";
    const domain = view.domainsOf(mm).find((candidate) => candidate.pgd === root);
    return domain === undefined ? "unrestricted" : asiClassName(domain.classId as AsiClassId);
  });
}
