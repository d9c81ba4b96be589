// S9 for what allocators hand out: the kernel tells what it hands out and takes back, and this keeps account. Memory that is handed out
// twice or taken back twice is told at once; two counts of a quiet kernel that did and undid the same are equal, or something was leaked.
import {
  entryFrame,
  hex,
  KERNEL_PGD_BOUNDARY,
  type Level,
  type MemoryKind,
  PAGE_SIZE,
  type PhysAddr,
  type PhysicalMemory,
  PTE_LARGE,
  PTE_PRESENT,
  type VirtAddr,
} from "../../hardware/index.ts";
import {
  AREA_LIVE,
  allocationSite,
  PAGE_OFFSET,
  Page,
  PG_SLAB,
  pageToPfn,
  pfnToPage,
  staticObjects,
  VmStruct,
} from "../../kernel/index.ts";
import type { Journal } from "./journal.ts";
import type { KernelView } from "./kernel-view.ts";

const ENTRIES = 512;
/** Of the list of areas: its first one, behind the lock. */
const LIST_FIRST = 8;
const KINDS: readonly MemoryKind[] = ["pages", "slab", "vmalloc", "percpu"];

interface Live {
  readonly kind: MemoryKind;
  readonly address: number;
  readonly bytes: number;
  /** Kernel function that asked for it; "" unless sites are kept. */
  readonly site: string;
}

/** What was live at a moment, without what is never given back. */
export type Census = ReadonlyMap<string, Live>;

function key(kind: MemoryKind, address: number): string {
  return `${KINDS.indexOf(kind)}${address}`;
}

export class Objects {
  private readonly live = new Map<string, Live>();
  private readonly keepsSites: boolean;
  private readonly journal: Journal;

  constructor(keepsSites: boolean, journal: Journal) {
    this.keepsSites = keepsSites;
    this.journal = journal;
  }

  /** @returns what is wrong with it, or undefined */
  allocated(kind: MemoryKind, address: VirtAddr, bytes: number): string | undefined {
    const at = key(kind, address);
    const before = this.live.get(at);
    this.live.set(at, { kind, address, bytes, site: this.keepsSites ? allocationSite() : "" });
    this.journal.changed(() => this.put(at, before));
    return before === undefined ? undefined : `${kind} at ${hex(address)} were handed out twice: ${sizeOf(before)} and ${bytes} bytes`;
  }

  /** @returns what is wrong with it, or undefined */
  freed(kind: MemoryKind, address: VirtAddr): string | undefined {
    const at = key(kind, address);
    const before = this.live.get(at);
    if (before === undefined) return `${kind} at ${hex(address)} were taken back, but not handed out`;
    this.live.delete(at);
    this.journal.changed(() => this.put(at, before));
    return undefined;
  }

  private put(at: string, object: Live | undefined): void {
    if (object === undefined) this.live.delete(at);
    else this.live.set(at, object);
  }

  /** Records and frames of freed areas that wait for a flush together with others: given back, though not yet taken. */
  private lazyAreas(memory: PhysicalMemory, view: KernelView): ReadonlySet<string> {
    const found = new Set<string>();
    for (let area = view.word(staticAddress("vmap_area_list") + LIST_FIRST); area !== 0; area = view.word(area + VmStruct.offset.next)) {
      if (view.u32(area + VmStruct.offset.state) === AREA_LIVE) continue;
      found.add(key("slab", area));
      for (let page = view.word(area + VmStruct.offset.pages); page !== 0; ) {
        found.add(key("pages", PAGE_OFFSET + pageToPfn(page as never) * PAGE_SIZE));
        page = memory.readWord((view.walked(page) + Page.offset.next) as PhysAddr);
      }
    }
    return found;
  }

  /** What is live now. Slabs count by their objects, and tables of the kernel's half, which are never freed, not at all. */
  census(memory: PhysicalMemory, view: KernelView): Census {
    const tables = new Set<number>();
    kernelTables(memory, view.pgd(view.initMm), tables);
    if (view.globalRoot() !== 0) kernelTables(memory, view.globalRoot(), tables);
    const waiting = this.lazyAreas(memory, view);
    const found = new Map<string, Live>();
    for (const [at, object] of this.live) {
      if (waiting.has(at)) continue;
      if (object.kind === "pages") {
        const pfn = (object.address - PAGE_OFFSET) / PAGE_SIZE;
        if (tables.has(pfn)) continue;
        const page = view.walked(pfnToPage(pfn as never));
        if (page >= 0 && (memory.read32((page + Page.offset.flags) as PhysAddr) & PG_SLAB) !== 0) continue;
      }
      found.set(at, object);
    }
    return found;
  }
}

function staticAddress(name: string): number {
  return staticObjects().find((object) => object.name === name)?.address ?? 0;
}

function sizeOf({ bytes, site }: Live): string {
  return `${bytes} bytes${site === "" ? "" : ` for ${site}`}`;
}

/** Frames of the tables below the kernel half of `root`. */
function kernelTables(memory: PhysicalMemory, root: PhysAddr, into: Set<number>): void {
  const visit = (table: number, level: Level, first: number): void => {
    for (let index = first; index < ENTRIES; index++) {
      const at = (table + index * 8) as PhysAddr;
      const low = memory.read32(at);
      if ((low & PTE_PRESENT) === 0 || (level < 4 && (low & PTE_LARGE) !== 0)) continue;
      const below = entryFrame(low, memory.read32((at + 4) as PhysAddr));
      if (into.has(below / PAGE_SIZE)) continue;
      into.add(below / PAGE_SIZE);
      if (level > 2) visit(below, (level - 1) as Level, 0);
    }
  };
  into.add(root / PAGE_SIZE);
  visit(root, 4, KERNEL_PGD_BOUNDARY);
}

/** How many of each kind and size there are. */
function tally(census: Census): Map<string, Live[]> {
  const by = new Map<string, Live[]>();
  for (const object of census.values()) {
    const what = `${object.kind} of ${object.bytes} bytes`;
    const same = by.get(what);
    if (same === undefined) by.set(what, [object]);
    else same.push(object);
  }
  return by;
}

/** What `after` has more or less than `before`, in words; undefined if they are alike. Addresses may differ, numbers may not. */
export function censusDifference(before: Census, after: Census): string | undefined {
  const was = tally(before);
  const is = tally(after);
  const parts: string[] = [];
  for (const what of new Set([...was.keys(), ...is.keys()])) {
    const old = was.get(what)?.length ?? 0;
    const now = is.get(what) ?? [];
    if (old === now.length) continue;
    const sites = new Set(now.filter(({ kind, address }) => !before.has(key(kind, address))).map(({ site }) => site));
    sites.delete("");
    parts.push(`${now.length} ${what} instead of ${old}${sites.size === 0 ? "" : ` (of ${[...sites].join(", ")})`}`);
  }
  return parts.length === 0 ? undefined : parts.sort().join("; ");
}
