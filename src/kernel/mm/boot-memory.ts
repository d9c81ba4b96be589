// The kernel's memory at boot, in the order of start_kernel(): the page tables with real permissions, the page array, the allocators.
// Work is per 2 MiB page or per block, never per frame: several GiB take a few thousand steps.
import {
  addVirt,
  assert,
  cr3,
  ENTRIES_PER_TABLE,
  LARGE_PAGE_SIZE,
  levelSize,
  PAGE_SIZE,
  type PhysAddr,
  PTE_GLOBAL,
  PTE_LARGE,
  pcid,
  pfnOf,
  physical,
  type VirtAddr,
} from "../../hardware/index.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import {
  KERNEL_DATA_BASE,
  KERNEL_DATA_BYTES,
  KERNEL_DATA_PHYSICAL,
  KERNEL_TEXT_BASE,
  KERNEL_TEXT_PHYSICAL,
  staticBytes,
} from "../static-data.ts";
import { detectTlbFeatures, enablePcid, kernelPagesAreGlobal, writeCr3Raw } from "./cr3.ts";
import { CPU_ENTRY_AREA_BASE, PAGE_OFFSET, VMALLOC_START, VMEMMAP_START, va } from "./layout.ts";
import { memblockAlloc, memblockEnd, memblockInit, memblockMaxPossible } from "./memblock.ts";
import { INIT_MM_CTX_ID, initMm, Mm } from "./mm-struct.ts";
import { pageAllocBytes, pageAllocInit } from "./page-alloc.ts";
import { PAGE_STRUCT_BYTES } from "./page-struct.ts";
import { entryAlloc, KERNPG_TABLE, PAGE_KERNEL, PAGE_KERNEL_ROX, setLeaf } from "./page-table.ts";
import { kmemCacheInit } from "./slab.ts";

/** Bytes of kernel text that are mapped: executable, not writable. The image's text must fit. */
export const KERNEL_TEXT_BYTES = LARGE_PAGE_SIZE;

/** First and end address of the tables made at boot (kernel: pgt_buf_start, pgt_buf_end). */
const earlyTables = staticBytes("early_page_table_pool", 24, 8);
const POOL_NEXT = 8;
const POOL_END = 16;

function poolWord(offset: number): PhysAddr {
  return physical.get(addVirt(earlyTables, offset));
}

/** Room for the tables of the direct map, the page array, the image, and the empty ones that every mm shares. */
function poolInit(memoryBytes: number): void {
  const tables = Math.ceil(memoryBytes / levelSize(3)) + 16;
  const first = memblockAlloc(tables * PAGE_SIZE, PAGE_SIZE);
  physical.set(earlyTables, first);
  physical.set(addVirt(earlyTables, POOL_NEXT), first);
  physical.set(addVirt(earlyTables, POOL_END), (first + tables * PAGE_SIZE) as PhysAddr);
}

function poolTable(): PhysAddr | 0 {
  const table = poolWord(POOL_NEXT);
  if (table === poolWord(POOL_END)) return 0;
  physical.set(addVirt(earlyTables, POOL_NEXT), (table + PAGE_SIZE) as PhysAddr);
  return table;
}

/** The tables made at boot, as a range of the direct map: the walks of nonsensitive code read them, so they are nonsensitive. */
export function bootTablesRange(): readonly [VirtAddr, VirtAddr] {
  return [va(physical.get(earlyTables)), va(poolWord(POOL_END))];
}

/**
 * Builds the kernel's own page tables and loads them (kernel: `setup_arch()` with `init_mem_mapping()` and `paging_init()`). The command
 * line was parsed: whether kernel pages are global depends on asi=. Boot CPU, on the image's early tables, interrupts off.
 */
export function setupArchMemory(): void {
  memblockInit();
  detectTlbFeatures();
  const memoryBytes = memblockEnd();
  poolInit(memoryBytes);
  const mm = Mm.at(initMm);
  // With PTI a root is a pair of pages, aligned, though user code never runs on this one's second.
  const pgd = ptiFeature.isEnabled() ? memblockAlloc(2 * PAGE_SIZE, 2 * PAGE_SIZE) : (poolTable() as PhysAddr);
  mm.pgd = pgd;
  mm.users = 2;
  mm.count = 1;
  mm.context.ctxId = INIT_MM_CTX_ID;
  const data = PAGE_KERNEL | (kernelPagesAreGlobal() ? PTE_GLOBAL : 0);
  const text = PAGE_KERNEL_ROX | (kernelPagesAreGlobal() ? PTE_GLOBAL : 0);
  mapRange(pgd, PAGE_OFFSET, 0 as PhysAddr, memoryBytes, data, true);
  mapRange(pgd, KERNEL_TEXT_BASE, KERNEL_TEXT_PHYSICAL as PhysAddr, KERNEL_TEXT_BYTES, text, false);
  mapRange(pgd, KERNEL_DATA_BASE, KERNEL_DATA_PHYSICAL as PhysAddr, KERNEL_DATA_BYTES, data, true);
  // The page array, and right behind it the allocator's maps; those leave room for the array of memory that is added later.
  const frames = pfnOf(memoryBytes);
  const mapBytes = pageAllocBytes(pfnOf(memblockMaxPossible()));
  const isAllThere = memoryBytes === memblockMaxPossible();
  const arrayBytes = frames * PAGE_STRUCT_BYTES + (isAllThere ? mapBytes : 0);
  mapLarge(pgd, VMEMMAP_START, arrayBytes, data);
  if (!isAllThere) mapLarge(pgd, freeMapBase(), mapBytes, data);
  // Root entries that come later would be missing in every mm that exists by then: all that will be used are made now.
  for (const area of [VMALLOC_START, CPU_ENTRY_AREA_BASE]) entryAlloc(pgd, area, 3, KERNPG_TABLE, poolTable, () => undefined);
  loadSwapperPgDir();
}

/** Where the allocator's maps are: behind the page array of all memory that may ever be there. */
function freeMapBase(): VirtAddr {
  const arrayBytes = pfnOf(memblockMaxPossible()) * PAGE_STRUCT_BYTES;
  return addVirt(VMEMMAP_START, memblockEnd() === memblockMaxPossible() ? arrayBytes : wholePages(arrayBytes));
}

function wholePages(bytes: number): number {
  return Math.ceil(bytes / LARGE_PAGE_SIZE) * LARGE_PAGE_SIZE;
}

/** Zeroed memory at `address`, in 2 MiB pages. */
function mapLarge(pgd: PhysAddr, address: VirtAddr, bytes: number, flags: number): void {
  const whole = wholePages(bytes);
  mapRange(pgd, address, memblockAlloc(whole, LARGE_PAGE_SIZE), whole, flags, true);
}

/** Loads the kernel's own tables on this CPU, which comes from the early ones, and turns PCIDs on. */
export function loadSwapperPgDir(): void {
  writeCr3Raw(cr3(Mm.at(initMm).pgd, pcid(0)), false);
  enablePcid();
}

/** Starts the allocators (kernel: `mm_core_init()`). The per-CPU areas exist and this CPU uses its own. */
export function mmCoreInit(): void {
  pageAllocInit(pfnOf(memblockMaxPossible()), freeMapBase());
  kmemCacheInit();
}

/** Maps `[frame, frame + bytes)` at `address`, with 2 MiB pages where both are aligned. */
function mapRange(pgd: PhysAddr, address: VirtAddr, frame: PhysAddr, bytes: number, flags: number, nx: boolean): void {
  let at = 0;
  while (at < bytes) {
    const isLarge = bytes - at >= LARGE_PAGE_SIZE;
    const level = isLarge ? 2 : 1;
    const size = levelSize(level);
    const first = entryAlloc(pgd, addVirt(address, at), level, KERNPG_TABLE, poolTable, () => undefined);
    assert(first !== 0, () => "the pool of boot page tables is too small");
    let entry: VirtAddr = first;
    // The rest of this table without walking again.
    do {
      setLeaf(entry, (frame + at) as PhysAddr, flags | (isLarge ? PTE_LARGE : 0), nx);
      at += size;
      entry = addVirt(entry, 8);
    } while (bytes - at >= size && entry % (ENTRIES_PER_TABLE * 8) !== 0);
  }
}
