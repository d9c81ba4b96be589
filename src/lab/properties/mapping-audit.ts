// S5 by walking: every leaf of a restricted table must be in the unrestricted tables with the same frame; in the kernel half it must not
// reach a sensitive frame, and the user half may hold what its own mm maps, or nothing where the class does not map user addresses. The
// restricted and the unrestricted tables are walked side by side, and what all domains share is walked once.
import {
  entryFrame,
  hex,
  isSensitiveOwner,
  KERNEL_PGD_BOUNDARY,
  type Level,
  largeEntryFrame,
  levelSize,
  OWNER_NONE,
  type Owner,
  PAGE_SIZE,
  type PhysAddr,
  PTE_LARGE,
  PTE_PRESENT,
  tableIndex,
} from "../../hardware/index.ts";
import type { GroundTruth } from "./ground-truth.ts";

const DIRECT_MAP = -0x778000000000;
/** Root entry of ephemeral mappings: 0xffff878000000000. */
const EPHMAP_INDEX = 0x10f;
const ENTRIES = 512;
const USER_ENTRY_BYTES = levelSize(4);

export interface AuditFinding {
  readonly owner: Owner;
  readonly detail: string;
}

/** What the unrestricted tables have at a place: a table, the frame that a larger leaf maps it to, or nothing. */
interface Other {
  readonly table: number;
  readonly frame: number;
}

const NOTHING: Other = { table: -1, frame: -1 };

/** True when the direct map of `root` reaches the frame. */
export function frameIn(truth: GroundTruth, root: PhysAddr, pfn: number): boolean {
  let table: number = root;
  const va = DIRECT_MAP + pfn * PAGE_SIZE;
  for (const level of [4, 3, 2, 1] as const) {
    const at = (table + tableIndex(va, level) * 8) as PhysAddr;
    if (!truth.memory.has(at, 8)) return false;
    const low = truth.memory.read32(at);
    if ((low & PTE_PRESENT) === 0) return false;
    if (level === 1 || (level < 4 && (low & PTE_LARGE) !== 0)) return true;
    table = entryFrame(low, truth.memory.read32((at + 4) as PhysAddr));
  }
  return false;
}

/** First thing that is wrong with the kernel half of the restricted tables at `root`, or undefined. */
export function auditDomain(truth: GroundTruth, root: PhysAddr, unrestricted: PhysAddr): AuditFinding | undefined {
  return auditTable(truth, root, 4, KERNEL_PGD_BOUNDARY, ENTRIES, -(2 ** 47), { table: unrestricted, frame: -1 }, true);
}

/**
 * The same for a domain's root where `shared`, the part that all domains have in common, was audited already: only entries that differ
 * from it are walked; and the user half, which must be that of `unrestricted`, the mm's own table (or empty).
 */
export function auditRoot(
  truth: GroundTruth,
  root: PhysAddr,
  unrestricted: PhysAddr,
  shared: PhysAddr,
  mapsUser: boolean,
): AuditFinding | undefined {
  const { memory } = truth;
  for (let index = KERNEL_PGD_BOUNDARY; index < ENTRIES; index++) {
    const at = index * 8;
    const isShared =
      memory.readWord((root + at) as PhysAddr) === memory.readWord((shared + at) as PhysAddr) ||
      (memory.read32((root + at) as PhysAddr) & PTE_PRESENT) === 0;
    if (isShared) continue;
    const base = -(2 ** 47) + (index - KERNEL_PGD_BOUNDARY) * USER_ENTRY_BYTES;
    // Where a process's pages are for as long as its own system call looks into them (docs/asi.md, S5): as its user half.
    const isEphemeral = mapsUser && index === EPHMAP_INDEX;
    const found = auditTable(truth, root, 4, index, index + 1, base, { table: unrestricted, frame: -1 }, !isEphemeral);
    if (found !== undefined) return found;
  }
  for (let index = 0; index < KERNEL_PGD_BOUNDARY; index++) {
    const low = memory.read32((root + index * 8) as PhysAddr);
    if ((low & PTE_PRESENT) === 0) continue;
    const va = index * USER_ENTRY_BYTES;
    if (!mapsUser) return { owner: OWNER_NONE, detail: `${hex(va)}: a class without user addresses maps some` };
    const found = auditTable(truth, root, 4, index, index + 1, va, { table: unrestricted, frame: -1 }, false);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Entries `first` to `end` of a restricted table, of which the first maps `base`. */
function auditTable(
  truth: GroundTruth,
  table: number,
  level: Level,
  first: number,
  end: number,
  base: number,
  other: Other,
  isKernel: boolean,
): AuditFinding | undefined {
  const { memory } = truth;
  const size = levelSize(level);
  for (let index = first; index < end; index++) {
    const at = (table + index * 8) as PhysAddr;
    const low = memory.read32(at);
    if ((low & PTE_PRESENT) === 0) continue;
    const high = memory.read32((at + 4) as PhysAddr);
    const va = base + (index - first) * size;
    const below = otherEntry(truth, other, level, index);
    if (level === 1 || (level < 4 && (low & PTE_LARGE) !== 0)) {
      const frame = level === 1 ? entryFrame(low, high) : largeEntryFrame(low, high, level);
      const found = auditLeaf(truth, va, size, frame, below, isKernel);
      if (found !== undefined) return found;
      continue;
    }
    const next = entryFrame(low, high);
    // The very same table below in both: the frames agree, and only a kernel half can hold what it must not.
    if (!isKernel && below.table === next) continue;
    const found = auditTable(truth, next, (level - 1) as Level, 0, ENTRIES, va, below, isKernel);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Entry `index` of what the unrestricted tables have at a level. */
function otherEntry(truth: GroundTruth, other: Other, level: Level, index: number): Other {
  if (other.table < 0) return other.frame < 0 ? NOTHING : { table: -1, frame: other.frame + index * levelSize(level) };
  const at = (other.table + index * 8) as PhysAddr;
  if (!truth.memory.has(at, 8)) return NOTHING;
  const low = truth.memory.read32(at);
  if ((low & PTE_PRESENT) === 0) return NOTHING;
  const high = truth.memory.read32((at + 4) as PhysAddr);
  if (level === 1) return { table: -1, frame: entryFrame(low, high) };
  if (level < 4 && (low & PTE_LARGE) !== 0) return { table: -1, frame: largeEntryFrame(low, high, level) };
  return { table: entryFrame(low, high), frame: -1 };
}

function auditLeaf(truth: GroundTruth, va: number, size: number, frame: number, other: Other, isKernel: boolean): AuditFinding | undefined {
  const differs = other.table >= 0 ? differentLeaf(truth, other.table, size, frame) : other.frame === frame ? undefined : other.frame;
  if (differs !== undefined) {
    return {
      owner: OWNER_NONE,
      detail: `${hex(va)} maps ${hex(frame)}, in the unrestricted tables ${differs < 0 ? "nothing" : hex(differs)}`,
    };
  }
  if (!isKernel) return undefined;
  for (let pfn = frame / PAGE_SIZE; pfn < (frame + size) / PAGE_SIZE; pfn++) {
    const owner = truth.frameOwner(pfn);
    if (isSensitiveOwner(owner)) return { owner, detail: `${hex(va)} reaches frame ${hex(pfn * PAGE_SIZE)}` };
  }
  return undefined;
}

/** The unrestricted tables map a restricted leaf by smaller ones: the first that does not agree, or undefined. */
function differentLeaf(truth: GroundTruth, table: number, size: number, frame: number): number | undefined {
  const level: Level = size > levelSize(2) ? 2 : 1;
  const step = levelSize(level);
  for (let index = 0; index < ENTRIES; index++) {
    const other = otherEntry(truth, { table, frame: -1 }, level, index);
    const wanted = frame + index * step;
    const differs = other.table >= 0 ? differentLeaf(truth, other.table, step, wanted) : other.frame === wanted ? undefined : other.frame;
    if (differs !== undefined) return differs;
  }
  return undefined;
}
