// Where things are in the kernel half of the address space (Documentation/arch/x86/x86_64/mm.rst, 4-level tables, no KASLR), and the
// conversions that are pure arithmetic.
import { assert, hex, type PhysAddr, type VirtAddr } from "../../hardware/index.ts";
import { KERNEL_DATA_BASE, KERNEL_DATA_BYTES, KERNEL_DATA_PHYSICAL, KERNEL_TEXT_BASE, KERNEL_TEXT_PHYSICAL } from "../static-data.ts";

/** 0xffff888000000000: the direct map of all memory (kernel: PAGE_OFFSET). */
export const PAGE_OFFSET = -0x7780_0000_0000 as VirtAddr;
/** 0xffff878000000000, in the guard hole below the direct map: the root entry whose tables are each mm's own (ephmap.ts). */
export const EPHMAP_BASE = -0x7880_0000_0000 as VirtAddr;
/** 0xffffc90000000000. 32 TiB in the kernel; the allocator hands out the lowest free address. */
export const VMALLOC_START = -0x3700_0000_0000 as VirtAddr;
export const VMALLOC_END = -0x1700_0000_0000 as VirtAddr;
/** 0xffffffffc0000000: the text of modules, within 2 GiB of the kernel's. */
export const MODULES_VADDR = -0x4000_0000 as VirtAddr;
export const MODULES_END = -0x0100_0000 as VirtAddr;
/** 0xffffea0000000000: the array of struct page, and behind it the buddy allocator's maps. */
export const VMEMMAP_START = -0x1600_0000_0000 as VirtAddr;
/** 0xfffffe0000000000. */
export const CPU_ENTRY_AREA_BASE = -0x0200_0000_0000 as VirtAddr;
/** End of what user space may use (kernel: TASK_SIZE_MAX): one guard page below bit 47. */
export const TASK_SIZE_MAX = (2 ** 47 - 4096) as VirtAddr;
/** Top of the area in which mmap() looks for room, downwards (kernel: mm->mmap_base without randomisation). */
export const MMAP_BASE = 0x7fff_f7ff_f000 as VirtAddr;
/** The same for 32-bit programs: 128 MiB below the end of what they may use (kernel: mm->mmap_compat_base). */
export const MMAP_BASE_32 = 0xf7ff_e000 as VirtAddr;
/** What MAP_32BIT asks for: the second GiB. Kernel: find_start_end(). */
export const MAP_32BIT_START = 0x4000_0000 as VirtAddr;
export const MAP_32BIT_END = 0x8000_0000 as VirtAddr;
/** Lowest address that a user mapping may have (kernel: vm.mmap_min_addr). */
export const MMAP_MIN_ADDR = 0x10000 as VirtAddr;

/** Logical CPUs that the kernel supports: CPU masks are one u32. */
export const NR_CPUS = 32;

/** Direct-map address of a physical address (kernel: `__va()`). */
export function va(pa: PhysAddr): VirtAddr {
  return (pa + PAGE_OFFSET) as VirtAddr;
}

/** Physical address of a direct-map or kernel-image address (kernel: `__pa()`). */
export function pa(address: VirtAddr): PhysAddr {
  if (address >= KERNEL_DATA_BASE && address < KERNEL_DATA_BASE + KERNEL_DATA_BYTES)
    return (address - KERNEL_DATA_BASE + KERNEL_DATA_PHYSICAL) as PhysAddr;
  if (address >= KERNEL_TEXT_BASE && address < KERNEL_DATA_BASE) return (address - KERNEL_TEXT_BASE + KERNEL_TEXT_PHYSICAL) as PhysAddr;
  assert(address >= PAGE_OFFSET && address < VMALLOC_START, () => `__pa() of ${hex(address)}, which is not in the direct map`);
  return (address - PAGE_OFFSET) as PhysAddr;
}

/** True when `[address, address + bytes)` lies in the user half (kernel: `access_ok()`). */
export function accessOk(address: number, bytes: number): boolean {
  return address >= 0 && bytes >= 0 && address + bytes <= TASK_SIZE_MAX;
}
