// Walking and changing page tables in memory, through the direct map. Tables are reached by the physical address of their root, so
// that the unrestricted tables, those of a domain and those under construction are all the same to this code.
import {
  addVirt,
  cpu,
  ENTRIES_PER_TABLE,
  entryFrame,
  entryHigh,
  entryLow,
  type Level,
  largeEntryFrame,
  levelSize,
  type PhysAddr,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_LARGE,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_USER,
  PTE_WRITE,
  tableIndex,
  type VirtAddr,
} from "../../hardware/index.ts";
import { va } from "./layout.ts";

/** Kernel: _KERNPG_TABLE, _PAGE_TABLE. */
export const KERNPG_TABLE = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY;
export const PAGE_TABLE = KERNPG_TABLE | PTE_USER;
/** Kernel: __PAGE_KERNEL and __PAGE_KERNEL_ROX without NX and without the Global bit, which are added per boot. */
export const PAGE_KERNEL = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY;
export const PAGE_KERNEL_ROX = PTE_PRESENT | PTE_ACCESSED;

/** The entry at which a walk ended: a leaf, or the first one that is not present. */
export interface Translation {
  /** Level of the table that the entry stands in. */
  readonly level: Level;
  /** Direct-map address of the entry. */
  readonly entry: VirtAddr;
  readonly low: number;
  readonly high: number;
}

/** Direct-map address of the entry for `address` in the table of `level` at `table`. */
export function entryAt(table: VirtAddr, address: VirtAddr, level: Level): VirtAddr {
  return addVirt(table, tableIndex(address, level) * 8);
}

/** The entry that maps `address`, or the one that is missing (kernel: `lookup_address_in_pgd()`). Hardware's present bit counts. */
export function lookupAddress(pgd: PhysAddr, address: VirtAddr): Translation {
  let table = va(pgd);
  for (let level: Level = 4; ; level = (level - 1) as Level) {
    const entry = entryAt(table, address, level);
    const low = cpu.load64(entry);
    const high = cpu.high;
    if (level === 1 || (low & PTE_PRESENT) === 0 || (level <= 3 && (low & PTE_LARGE) !== 0)) return { level, entry, low, high };
    table = va(entryFrame(low, high));
  }
}

export function isPresent(translation: Translation): boolean {
  return (translation.low & PTE_PRESENT) !== 0;
}

/** Physical address that a present translation gives `address`. */
export function translate(translation: Translation, address: VirtAddr): PhysAddr {
  const bytes = levelSize(translation.level);
  const inside = address - Math.floor(address / bytes) * bytes;
  return (frameOf(translation) + inside) as PhysAddr;
}

/** Frame of a present leaf. */
export function frameOf(translation: Translation): PhysAddr {
  const { level, low, high } = translation;
  return level === 1 ? entryFrame(low, high) : largeEntryFrame(low, high, level);
}

/** Writes a leaf for `frame`; `nx` forbids execution. Nothing is flushed. */
export function setLeaf(entry: VirtAddr, frame: PhysAddr, flags: number, nx: boolean): void {
  cpu.store64(entry, entryLow(frame, flags), entryHigh(frame, nx ? PTE_NX_HIGH : 0));
}

/** Clears an entry: to zero, so that what is left names frame 0 and no data (L1TF). */
export function clearEntry(entry: VirtAddr): void {
  cpu.store64(entry, 0, 0);
}

/**
 * Replaces the large leaf `found` by a table of smaller ones with the same attributes; nothing is flushed, since every address keeps its
 * frame and its rights (kernel: `__split_large_page()`, without the flush). Of two CPUs one wins. @returns false when there is no memory.
 */
export function splitLargeLeaf(found: Translation, allocate: TableAllocator, free: (table: PhysAddr) => void): boolean {
  const { level, entry, low, high } = found;
  const table = allocate();
  if (table === 0) return false;
  const below = (level - 1) as Level; // of a leaf of level 2 or 3
  const first = frameOf(found);
  // Bit 7 says "large" down to level 2; in a PTE it would choose a memory type.
  const flags = below === 1 ? low & 0xfff & ~PTE_LARGE : low & 0xfff;
  const nx = (high & PTE_NX_HIGH) >>> 0;
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const frame = (first + i * levelSize(below)) as PhysAddr;
    cpu.store64(addVirt(va(table), i * 8), entryLow(frame, flags), entryHigh(frame, nx));
  }
  if (!cpu.compareExchange64(entry, low, high, entryLow(table, KERNPG_TABLE), entryHigh(table, 0))) free(table);
  return true;
}

/** Gives a zeroed page for a table, or 0. */
export type TableAllocator = () => PhysAddr | 0;

/**
 * Direct-map address of the entry for `address` at `level`, making the tables above it with `flags` where they are missing. Lock-free:
 * of two CPUs that fill the same entry one wins and `free` gets the other's page (kernel: `p4d_alloc()` and its kin).
 * @returns 0 when `allocate` had nothing, or where a large leaf is in the way.
 */
export function entryAlloc(
  pgd: PhysAddr,
  address: VirtAddr,
  level: Level,
  flags: number,
  allocate: TableAllocator,
  free: (table: PhysAddr) => void,
): VirtAddr | 0 {
  let table = va(pgd);
  for (let at: Level = 4; at > level; at = (at - 1) as Level) {
    const next = tableAlloc(entryAt(table, address, at), flags, allocate, free);
    if (next === 0) return 0;
    table = next;
  }
  return entryAt(table, address, level);
}

/** Direct-map address of the table that `entry` points to, made if it is missing. @returns 0 as `entryAlloc`. */
function tableAlloc(entry: VirtAddr, flags: number, allocate: TableAllocator, free: (table: PhysAddr) => void): VirtAddr | 0 {
  const low = cpu.load64(entry);
  const high = cpu.high;
  if ((low & PTE_PRESENT) !== 0) return (low & PTE_LARGE) !== 0 ? 0 : va(entryFrame(low, high));
  const frame = allocate();
  if (frame === 0) return 0;
  if (cpu.compareExchange64(entry, low, high, entryLow(frame, flags), entryHigh(frame, 0))) return va(frame);
  free(frame);
  const winner = cpu.load64(entry);
  return va(entryFrame(winner, cpu.high));
}
