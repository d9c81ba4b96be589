// The format of 4-level page tables and EPT entries: bits, indices, frames. An entry is two u32 halves (a 64-bit entry does not
// fit a double exactly); the low half holds the flags of bits 0..31, the high half frame bits 32..51 and NX (bit 63).
//
//   virtual address   63..48 sign | 47..39 PGD | 38..30 PUD | 29..21 PMD | 20..12 PTE | 11..0 offset
import type { PhysAddr, VirtAddr } from "./addresses.ts";

/** Bits of the low half. SDM vol. 3, 5.5 "4-level paging". */
export const PTE_PRESENT = 1 << 0;
export const PTE_WRITE = 1 << 1;
export const PTE_USER = 1 << 2;
export const PTE_PWT = 1 << 3;
export const PTE_PCD = 1 << 4;
export const PTE_ACCESSED = 1 << 5;
export const PTE_DIRTY = 1 << 6;
/** In a PUD or PMD: the entry maps a 1 GiB or 2 MiB page. In a PTE: PAT. */
export const PTE_LARGE = 1 << 7;
export const PTE_GLOBAL = 1 << 8;
/** Bit 63, in the high half. */
export const PTE_NX_HIGH = 0x80000000;

/** SDM vol. 3, 30.3 "EPT". */
export const EPT_READ = 1 << 0;
export const EPT_WRITE = 1 << 1;
export const EPT_EXECUTE = 1 << 2;
/** Memory type write-back (6) in bits 5:3 of a leaf. */
export const EPT_MEMORY_TYPE_WB = 6 << 3;
export const EPT_LARGE = 1 << 7;
export const EPT_ACCESSED = 1 << 8;
export const EPT_DIRTY = 1 << 9;

export const ENTRIES_PER_TABLE = 512;
export const KERNEL_PGD_BOUNDARY = 256;

/** Level of a table: 4 = PGD (PML4), 3 = PUD, 2 = PMD, 1 = PTE. */
export type Level = 1 | 2 | 3 | 4;

/** Bytes that one entry of each level maps; a power would be computed anew at every step of every walk. */
const ENTRY_BYTES_BY_LEVEL = [0, 2 ** 12, 2 ** 21, 2 ** 30, 2 ** 39] as const;

/** Index into the table of `level` for an address. */
export function tableIndex(address: number, level: Level): number {
  return Math.floor(address / ENTRY_BYTES_BY_LEVEL[level]) & 511;
}

export function pgdIndex(va: VirtAddr): number {
  return tableIndex(va, 4);
}

/** Bytes that one entry of `level` maps. */
export function levelSize(level: Level): number {
  return ENTRY_BYTES_BY_LEVEL[level];
}

/** Frame address (bits 12..51) of an entry given as halves. */
export function entryFrame(low: number, high: number): PhysAddr {
  return ((high & 0xfffff) * 2 ** 32 + ((low & 0xfffff000) >>> 0)) as PhysAddr;
}

/** Frame address of a large leaf at `level`, with the PAT bit (12) and bits below the page size dropped. */
export function largeEntryFrame(low: number, high: number, level: Level): PhysAddr {
  const frame = entryFrame(low, high);
  const size = levelSize(level);
  return (Math.floor(frame / size) * size) as PhysAddr;
}

/** Low half of an entry for `frame` with `flags`. */
export function entryLow(frame: PhysAddr, flags: number): number {
  return ((frame % 2 ** 32) + flags) >>> 0;
}

/** High half of an entry for `frame`; `nxHigh` is 0 or PTE_NX_HIGH. */
export function entryHigh(frame: PhysAddr, nxHigh: number): number {
  return (Math.floor(frame / 2 ** 32) | nxHigh) >>> 0;
}
