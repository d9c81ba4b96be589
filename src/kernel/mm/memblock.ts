// Memory before the page allocator: handed out from the first free frame behind the kernel's data upwards, never given back. What is
// allocated here is never mapped in a restricted address space unless somebody maps it on purpose (spec 2.14).
import {
  assert,
  BOOT_INITRD,
  BOOT_INITRD_BYTES,
  BOOT_MEMORY_BYTES,
  cpu,
  LOW_MEMORY_RESERVED,
  type Pfn,
  type PhysAddr,
  pageDown,
  pfnOf,
  struct,
  word,
} from "../../hardware/index.ts";
import { bootCommandLine, commandLineOption } from "../boot/command-line.ts";
import { KERNEL_DATA_BYTES, KERNEL_DATA_PHYSICAL, KERNEL_TEXT_PHYSICAL, staticStruct } from "../static-data.ts";
import { printk } from "../trace.ts";
import { KERNEL_TEXT_BYTES } from "./boot-memory.ts";
import { va } from "./layout.ts";

const Memblock = struct("memblock", {
  /** First byte not handed out. */
  next: word,
  /** Bytes of RAM, whole pages. */
  end: word,
  /** Bytes of RAM that may ever be there: more than `end` with mem=. */
  maxPossible: word,
  /** End of what may be handed out: what firmware left at the end of memory begins there. */
  limit: word,
});
const memblock = staticStruct("memblock", Memblock);

/** Less cannot hold the image, the page array and a process. */
const MINIMUM_BYTES = 48 * 2 ** 20;

/** Learns from firmware how much RAM there is (kernel: `e820__memblock_setup()`). */
export function memblockInit(): void {
  const all = pageDown(cpu.loadWord(va(BOOT_MEMORY_BYTES as PhysAddr)));
  const end = Math.min(all, memoryLimit(bootCommandLine()));
  assert(end >= MINIMUM_BYTES, () => `the kernel needs at least ${MINIMUM_BYTES / 2 ** 20} MiB of memory, has ${end / 2 ** 20} MiB`);
  const view = Memblock.at(memblock);
  view.end = end;
  view.maxPossible = all;
  const initrdBytes = cpu.loadWord(va(BOOT_INITRD_BYTES as PhysAddr));
  const initrd = cpu.loadWord(va(BOOT_INITRD as PhysAddr));
  assert(initrdBytes === 0 || initrd + initrdBytes <= end, () => "mem= leaves the initial RAM disk out");
  view.limit = initrdBytes === 0 ? end : initrd;
  assert(view.limit >= MINIMUM_BYTES, () => `an initial RAM disk of ${initrdBytes} bytes leaves no memory`);
  view.next = KERNEL_DATA_PHYSICAL + KERNEL_DATA_BYTES;
}

/** Bytes of RAM that there may ever be, those included that mem= leaves out (kernel: max_possible_pfn). */
export function memblockMaxPossible(): PhysAddr {
  return Memblock.at(memblock).maxPossible as PhysAddr;
}

/** Granule of mem=: what is left out must be whole sections, to be added later. */
const MEM_GRANULE = 128 * 2 ** 20;

/** What mem=nn[KMG] allows, in whole sections (kernel: `parse_memopt()`). */
function memoryLimit(commandLine: string): number {
  const text = commandLineOption(commandLine, "mem");
  if (text === undefined) return Number.POSITIVE_INFINITY;
  const match = /^(\d+)([kKmMgG]?)$/.exec(text);
  const unit = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }[(match?.[2] ?? "").toLowerCase()] ?? 1;
  const bytes = Math.floor((Number(match?.[1] ?? 0) * unit) / MEM_GRANULE) * MEM_GRANULE;
  if (bytes > 0) return bytes;
  printk(`Ignoring mem=${text}: expected a size of at least 128M, as in mem=256M`);
  return Number.POSITIVE_INFINITY;
}

/** Bytes of RAM in use since boot. */
export function memblockEnd(): PhysAddr {
  return Memblock.at(memblock).end as PhysAddr;
}

/** Zeroed memory; `align` a power of two, at least a cache line (kernel: `memblock_phys_alloc()`). */
export function memblockAlloc(bytes: number, align: number): PhysAddr {
  const view = Memblock.at(memblock);
  const at = Math.ceil(view.next / align) * align;
  assert(at + bytes <= view.limit, () => `out of memory at boot: ${bytes} bytes`);
  view.next = at + bytes;
  return at as PhysAddr;
}

/** Frame ranges `[first, end)` that nobody holds, in order of address. The page allocator takes them over. */
export function memblockFreeRanges(): readonly (readonly [Pfn, Pfn])[] {
  const view = Memblock.at(memblock);
  return [
    [pfnOf(LOW_MEMORY_RESERVED as PhysAddr), pfnOf(KERNEL_TEXT_PHYSICAL as PhysAddr)],
    [pfnOf((KERNEL_TEXT_PHYSICAL + KERNEL_TEXT_BYTES) as PhysAddr), pfnOf(KERNEL_DATA_PHYSICAL as PhysAddr)],
    [pfnOf((view.next + 4095) as PhysAddr), pfnOf(view.limit as PhysAddr)],
  ];
}
