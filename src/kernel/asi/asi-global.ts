// The global nonsensitive part of every restricted address space: the kernel's text and static data, per-CPU areas, the page array, and
// what allocators add page by page from then on.
import { addVirt, assert, cpu, entryFrame, levelSize, PAGE_SIZE, type PhysAddr, type VirtAddr } from "../../hardware/index.ts";
import { ESPFIX_BASE_ADDR } from "../entry/espfix-layout.ts";
import { bootTablesRange, KERNEL_TEXT_BYTES } from "../mm/boot-memory.ts";
import { CPU_ENTRY_AREA_BASE, PAGE_OFFSET, VMALLOC_START, VMEMMAP_START, va } from "../mm/layout.ts";
import { memblockAlloc, memblockMaxPossible } from "../mm/memblock.ts";
import { initMm } from "../mm/mm-struct.ts";
import { entryAlloc, entryAt, KERNPG_TABLE } from "../mm/page-table.ts";
import { PERCPU_UNIT_BYTES } from "../mm/percpu-struct.ts";
import { KERNEL_DATA_BASE, KERNEL_DATA_BYTES, KERNEL_TEXT_BASE } from "../static-data.ts";
import { asiClonePgd, asiMap, asiMapPercpu } from "./asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled, asiGlobalReady } from "./asi-state.ts";
import { Asi } from "./asi-struct.ts";

function bootTable(): PhysAddr {
  return memblockAlloc(PAGE_SIZE, PAGE_SIZE);
}

/**
 * Makes the root and every table right below it that will ever be used, since domains copy the root (kernel: `asi_global_init()`,
 * preallocate_sub_pgd_pages()). Before the page allocator hands out its first page; the kernel's own tables are loaded.
 */
export function asiGlobalInitPgd(): void {
  if (!asiEnabled()) return;
  const global = Asi.at(ASI_GLOBAL_NONSENSITIVE);
  global.pgd = bootTable();
  global.mm = initMm;
  for (const address of ownRootEntries()) entryAlloc(global.pgd, address, 3, KERNPG_TABLE, bootTable, () => undefined);
  asiClonePgd(VMEMMAP_START);
  asiClonePgd(CPU_ENTRY_AREA_BASE);
}

/** One address for each root entry that has tables of its own: the direct map, vmalloc space, the kernel image. */
function ownRootEntries(): readonly VirtAddr[] {
  const entries: VirtAddr[] = [VMALLOC_START, KERNEL_TEXT_BASE];
  const end = memblockMaxPossible();
  for (let at = 0; at < end; at += levelSize(4)) entries.push(addVirt(PAGE_OFFSET, at));
  return entries;
}

/** Maps what exists since boot and is not sensitive (patches 16 and 18). The page allocator is up. */
export function asiGlobalInit(): void {
  if (!asiEnabled()) return;
  // Its tables are made by the page allocator, after the root: no domain exists yet that would miss them.
  asiClonePgd(ESPFIX_BASE_ADDR);
  mapAtBoot(KERNEL_TEXT_BASE, KERNEL_TEXT_BYTES);
  mapAtBoot(KERNEL_DATA_BASE, KERNEL_DATA_BYTES);
  // The tables themselves: allocating a page in the restricted address space writes them.
  const { pgd } = Asi.at(ASI_GLOBAL_NONSENSITIVE);
  mapAtBoot(va(pgd), PAGE_SIZE);
  for (const address of ownRootEntries()) {
    const low = cpu.load64(entryAt(va(pgd), address, 4));
    mapAtBoot(va(entryFrame(low, cpu.high)), PAGE_SIZE);
  }
  const [first, end] = bootTablesRange();
  mapAtBoot(first, end - first);
  const error = asiMapPercpu(0, PERCPU_UNIT_BYTES);
  assert(error === 0, () => `out of memory at boot: the per-CPU areas (${error})`);
  asiGlobalReady.set(1);
}

function mapAtBoot(address: VirtAddr, bytes: number): void {
  const error = asiMap(ASI_GLOBAL_NONSENSITIVE, address, bytes);
  assert(error === 0, () => `out of memory at boot: the nonsensitive map (${error})`);
}
