// S5 by walking: every leaf of a restricted table's kernel half must be in the unrestricted tables with the same frame, and must not
// reach a sensitive frame. The user half belongs to the process and is left out.
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
const ENTRIES = 512;

export interface AuditFinding {
  readonly owner: Owner;
  readonly detail: string;
}

interface Leaf {
  readonly frame: number;
  readonly level: Level;
}

/** The leaf that `root` maps `va` with, or undefined. */
function lookup(truth: GroundTruth, root: number, va: number): Leaf | undefined {
  let table = root;
  for (const level of [4, 3, 2, 1] as const) {
    const at = (table + tableIndex(va, level) * 8) as PhysAddr;
    if (!truth.memory.has(at, 8)) return undefined;
    const low = truth.memory.read32(at);
    if ((low & PTE_PRESENT) === 0) return undefined;
    const high = truth.memory.read32((at + 4) as PhysAddr);
    if (level === 1) return { frame: entryFrame(low, high), level };
    if (level < 4 && (low & PTE_LARGE) !== 0) return { frame: largeEntryFrame(low, high, level), level };
    table = entryFrame(low, high);
  }
  return undefined;
}

/** True when the direct map of `root` reaches the frame. */
export function frameIn(truth: GroundTruth, root: PhysAddr, pfn: number): boolean {
  return lookup(truth, root, DIRECT_MAP + pfn * PAGE_SIZE) !== undefined;
}

/** First thing that is wrong with the restricted tables at `root`, or undefined. */
export function auditDomain(truth: GroundTruth, root: PhysAddr, unrestricted: PhysAddr): AuditFinding | undefined {
  return auditTable(truth, root, 4, KERNEL_PGD_BOUNDARY, -(2 ** 47), unrestricted);
}

function auditTable(
  truth: GroundTruth,
  table: number,
  level: Level,
  first: number,
  base: number,
  unrestricted: PhysAddr,
): AuditFinding | undefined {
  const { memory } = truth;
  for (let index = first; index < ENTRIES; index++) {
    const at = (table + index * 8) as PhysAddr;
    const low = memory.read32(at);
    if ((low & PTE_PRESENT) === 0) continue;
    const high = memory.read32((at + 4) as PhysAddr);
    const va = base + (index - first) * levelSize(level);
    let found: AuditFinding | undefined;
    if (level === 1) found = auditLeaf(truth, va, 1, entryFrame(low, high), unrestricted);
    else if (level < 4 && (low & PTE_LARGE) !== 0) found = auditLeaf(truth, va, level, largeEntryFrame(low, high, level), unrestricted);
    else found = auditTable(truth, entryFrame(low, high), (level - 1) as Level, 0, va, unrestricted);
    if (found !== undefined) return found;
  }
  return undefined;
}

function auditLeaf(truth: GroundTruth, va: number, level: Level, frame: number, unrestricted: PhysAddr): AuditFinding | undefined {
  const size = levelSize(level);
  const other = lookup(truth, unrestricted, va);
  const otherFrame = other === undefined ? -1 : other.frame + (va - Math.floor(va / levelSize(other.level)) * levelSize(other.level));
  if (otherFrame !== frame) {
    return {
      owner: OWNER_NONE,
      detail: `${hex(va)} maps ${hex(frame)}, in the unrestricted tables ${otherFrame < 0 ? "nothing" : hex(otherFrame)}`,
    };
  }
  for (let pfn = frame / PAGE_SIZE; pfn < (frame + size) / PAGE_SIZE; pfn++) {
    const owner = truth.frameOwner(pfn);
    if (isSensitiveOwner(owner)) return { owner, detail: `${hex(va)} reaches frame ${hex(pfn * PAGE_SIZE)}` };
  }
  return undefined;
}
