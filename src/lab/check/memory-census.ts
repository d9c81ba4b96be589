// What is allocated, counted from outside (S9): frames and slab objects, by the machine's own record of who owns each frame and the
// page array's words. Two counts of a quiet kernel that did and undid the same are equal, or something was leaked.
import {
  entryFrame,
  KERNEL_PGD_BOUNDARY,
  type Level,
  OWNER_NONE,
  PAGE_SIZE,
  type PhysAddr,
  type PhysicalMemory,
  PTE_LARGE,
  PTE_PRESENT,
} from "../../hardware/index.ts";
import { KmemCache, Page, PG_SLAB, pfnToPage } from "../../kernel/index.ts";
import type { GroundTruth, KernelView } from "../properties/index.ts";

const ENTRIES = 512;

export interface Census {
  /** Frames that are allocated as pages: not slabs, and not tables of the kernel's half, which are never freed. */
  readonly pages: ReadonlySet<number>;
  /** Objects in use, by the bytes of their slots. */
  readonly objects: ReadonlyMap<number, number>;
  /** Slabs, used or kept. */
  readonly slabs: number;
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

/** Counts. The kernel is quiet: nothing waits to be freed. */
export function takeCensus(truth: GroundTruth, view: KernelView): Census {
  const { memory } = truth;
  const tables = new Set<number>();
  kernelTables(memory, view.pgd(view.initMm), tables);
  if (view.globalRoot() !== 0) kernelTables(memory, view.globalRoot(), tables);
  const pages = new Set<number>();
  const objects = new Map<number, number>();
  let slabs = 0;
  const frames = memory.size / PAGE_SIZE;
  for (let pfn = 0; pfn < frames; pfn++) {
    if (truth.frameOwner(pfn) === OWNER_NONE || tables.has(pfn)) continue;
    const page = view.walked(pfnToPage(pfn as never));
    if (page < 0) continue;
    const flags = memory.read32((page + Page.offset.flags) as PhysAddr);
    const head = memory.readWord((page + Page.offset.compoundHead) as PhysAddr);
    const isSlabTail = head !== 0 && (memory.read32((view.walked(head) + Page.offset.flags) as PhysAddr) & PG_SLAB) !== 0;
    if (isSlabTail) continue;
    if ((flags & PG_SLAB) === 0) {
      pages.add(pfn);
      continue;
    }
    slabs++;
    const cache = memory.readWord((page + Page.offset.slabCache) as PhysAddr);
    const bytes = view.u32(cache + KmemCache.offset.objectBytes);
    objects.set(bytes, (objects.get(bytes) ?? 0) + memory.read32((page + Page.offset.inuse) as PhysAddr));
  }
  return { pages, objects, slabs };
}

/** What `after` has more or less than `before`, in words; undefined if nothing. */
export function censusDifference(before: Census, after: Census): string | undefined {
  const parts: string[] = [];
  if (before.pages.size !== after.pages.size) {
    const fresh = [...after.pages].filter((pfn) => !before.pages.has(pfn));
    parts.push(
      `${after.pages.size} pages instead of ${before.pages.size} (frames ${fresh
        .slice(0, 8)
        .map((pfn) => `0x${pfn.toString(16)}`)
        .join(", ")})`,
    );
  }
  const sizes = new Set([...before.objects.keys(), ...after.objects.keys()]);
  for (const bytes of [...sizes].sort((a, b) => a - b)) {
    const was = before.objects.get(bytes) ?? 0;
    const is = after.objects.get(bytes) ?? 0;
    if (was !== is) parts.push(`${is} objects of ${bytes} bytes instead of ${was}`);
  }
  return parts.length === 0 ? undefined : parts.join("; ");
}
