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
import { KERNEL_DATA_BYTES, KERNEL_DATA_PHYSICAL, KERNEL_TEXT_PHYSICAL, staticStruct } from "../static-data.ts";
import { KERNEL_TEXT_BYTES } from "./boot-memory.ts";
import { va } from "./layout.ts";

const Memblock = struct("memblock", {
  /** First byte not handed out. */
  next: word,
  /** Bytes of RAM, whole pages. */
  end: word,
  /** End of what may be handed out: what firmware left at the end of memory begins there. */
  limit: word,
});
const memblock = staticStruct("memblock", Memblock);

/** Less cannot hold the image, the page array and a process. */
const MINIMUM_BYTES = 48 * 2 ** 20;

/** Learns from firmware how much RAM there is (kernel: `e820__memblock_setup()`). */
export function memblockInit(): void {
  const end = pageDown(cpu.loadWord(va(BOOT_MEMORY_BYTES as PhysAddr)));
  assert(end >= MINIMUM_BYTES, () => `the kernel needs at least ${MINIMUM_BYTES / 2 ** 20} MiB of memory, has ${end / 2 ** 20} MiB`);
  const view = Memblock.at(memblock);
  view.end = end;
  const initrdBytes = cpu.loadWord(va(BOOT_INITRD_BYTES as PhysAddr));
  view.limit = initrdBytes === 0 ? end : cpu.loadWord(va(BOOT_INITRD as PhysAddr));
  assert(view.limit >= MINIMUM_BYTES, () => `an initial RAM disk of ${initrdBytes} bytes leaves no memory`);
  view.next = KERNEL_DATA_PHYSICAL + KERNEL_DATA_BYTES;
}

/** Bytes of RAM. */
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
