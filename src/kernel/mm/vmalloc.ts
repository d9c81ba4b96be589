// Virtually contiguous kernel memory: kernel stacks, large tables, the text of modules. The alias is nonsensitive unless VM_SENSITIVE says
// otherwise (spec 1, patch 17, whose message has such flags and whose code has none); the frames stay out of the restricted direct map.
import { addVirt, assert, cpu, hex, NULL, PAGE_SIZE, pageUp, type VirtAddr } from "../../hardware/index.ts";
import { asiMapGfp } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "../asi/asi-state.ts";
import { __GFP_SENSITIVE, __GFP_ZERO, GFP_KERNEL } from "./gfp.ts";
import { kernelMapPage } from "./kernel-map.ts";
import { MODULES_END, MODULES_VADDR, VMALLOC_END, VMALLOC_START } from "./layout.ts";
import { allocPagesBulk, freePages } from "./page-alloc.ts";
import { type PagePtr, pageToPhys } from "./page-struct.ts";
import { resetDirectMap, setMemoryRo, setMemoryX } from "./set-memory.ts";
import {
  findArea,
  removeArea,
  reserveArea,
  VM_ALLOC,
  VM_FLUSH_RESET_PERMS,
  VM_SENSITIVE,
  VmStruct,
  type VmStructPtr,
} from "./vmap-area.ts";

/** At least `bytes` zeroed bytes, page aligned, or 0 (kernel: `vzalloc()`). `flags`: VM_SENSITIVE or 0. May block. */
export function vmalloc(bytes: number, flags = 0): VirtAddr {
  return allocArea(bytes, flags, VMALLOC_START, VMALLOC_END);
}

/** Maps `pages` in a row (kernel: `vmap()`). `flags`: VM_SENSITIVE or 0. @returns 0 when there is no memory. */
export function vmap(pages: readonly PagePtr[], flags = 0): VirtAddr {
  const area = reserveArea(pages.length * PAGE_SIZE, flags & ~VM_ALLOC, VMALLOC_START, VMALLOC_END);
  return area === NULL ? NULL : mapArea(area, pages);
}

/** As `vmap`, without the restricted address spaces: sensitive (kernel: `vm_map_ram()`). */
export function vmMapRam(pages: readonly PagePtr[]): VirtAddr {
  return vmap(pages, VM_SENSITIVE);
}

/** Unmaps an area; frees its frames if vmalloc() took them (kernel: `vfree()`, `vunmap()`, `vm_unmap_ram()`). NULL is fine. */
export function vfree(address: VirtAddr): void {
  if (address === NULL) return;
  const area = findArea(address);
  assert(area !== NULL, () => `vfree() of ${hex(address)}, which is no area`);
  const { bytes, flags } = VmStruct.at(area);
  if ((flags & VM_FLUSH_RESET_PERMS) !== 0) resetDirectMap(address, bytes);
  if (cpu.isLive) cpu.observer.freed?.("vmalloc", address, bytes);
  removeArea(area, bytes);
}

/**
 * Memory for the text of a module, within reach of the kernel's calls; writable until `moduleEnableRox` (kernel: `execmem_alloc()`).
 * Nonsensitive: restricted code runs it. @returns 0 when there is no memory
 */
export function moduleAlloc(bytes: number): VirtAddr {
  return allocArea(bytes, VM_FLUSH_RESET_PERMS, MODULES_VADDR, MODULES_END);
}

/** The text is complete: executable, and writable at no address (kernel: `module_enable_text_rox()`). @returns 0; ENOMEM */
export function moduleEnableRox(address: VirtAddr, bytes: number): ReturnType<typeof setMemoryRo> {
  const pages = pageUp(bytes) / PAGE_SIZE;
  return setMemoryRo(address, pages) || setMemoryX(address, pages);
}

/** Gives the memory of a module back; nobody runs it any more (kernel: `execmem_free()`). NULL is fine. */
export function moduleFree(address: VirtAddr): void {
  vfree(address);
}

function allocArea(bytes: number, flags: number, from: VirtAddr, to: VirtAddr): VirtAddr {
  const mapped = pageUp(bytes);
  const area = reserveArea(mapped, flags | VM_ALLOC, from, to);
  if (area === NULL) return NULL;
  const gfp = GFP_KERNEL | __GFP_ZERO | ((flags & VM_SENSITIVE) !== 0 ? __GFP_SENSITIVE : 0);
  const pages = allocPagesBulk(gfp, mapped / PAGE_SIZE);
  if (pages.length === mapped / PAGE_SIZE) return mapArea(area, pages);
  for (const page of pages) freePages(page, 0);
  removeArea(area, 0);
  return NULL;
}

/** Maps the pages, the restricted address spaces last. Without memory for the tables everything is taken back. */
function mapArea(area: VmStructPtr, pages: readonly PagePtr[]): VirtAddr {
  const { start, bytes, flags } = VmStruct.at(area);
  for (const [i, page] of pages.entries()) {
    if (kernelMapPage(addVirt(start, i * PAGE_SIZE), pageToPhys(page), true) === 0) continue;
    if ((flags & VM_ALLOC) !== 0) for (const rest of pages.slice(i)) freePages(rest, 0);
    removeArea(area, i * PAGE_SIZE);
    return NULL;
  }
  if ((flags & VM_SENSITIVE) === 0 && asiMapGfp(ASI_GLOBAL_NONSENSITIVE, start, bytes, GFP_KERNEL) !== 0) {
    removeArea(area, bytes);
    return NULL;
  }
  if (cpu.isLive) cpu.observer.allocated?.("vmalloc", start, bytes);
  return start;
}
