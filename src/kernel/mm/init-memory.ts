// What only booting needed is given back, and leaves every address space as text (kernel: free_initmem(), free_kernel_image_pages()).
import { addVirt, assert, PAGE_SIZE, type PhysAddr, pageUp, pfnOf, type VirtAddr } from "../../hardware/index.ts";
import { asiUnmapNoflush } from "../asi/asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiEnabled } from "../asi/asi-state.ts";
import { kernelText } from "../boot/kernel-text.ts";
import { KERNEL_TEXT_BASE, KERNEL_TEXT_PHYSICAL } from "../static-data.ts";
import { printk, TRACE_UNMAPPED, trace } from "../trace.ts";
import { KERNEL_TEXT_BYTES } from "./boot-memory.ts";
import { freeFrames } from "./buddy.ts";
import { kernelUnmapPage } from "./kernel-map.ts";
import { setMemory4k } from "./set-memory.ts";
import { flushTlbKernelRange } from "./tlb.ts";

/** Kernel: __init_begin: behind text and early tables, which CPUs that come later start with. */
export function initBegin(): VirtAddr {
  return addVirt(KERNEL_TEXT_BASE, pageUp(kernelText().bytes.length));
}

/** Kernel: __init_end. */
export const INIT_END = addVirt(KERNEL_TEXT_BASE, KERNEL_TEXT_BYTES);

/** Gives the image's part that nobody needs any more to the page allocator (kernel: `free_initmem()`). Interrupts on, all CPUs up. */
export function freeInitmem(): void {
  const begin = initBegin();
  const bytes = INIT_END - begin;
  if (bytes <= 0) return;
  const error = setMemory4k(begin, bytes / PAGE_SIZE);
  assert(error === 0, () => `out of memory at boot: splitting the image's pages (${error})`);
  if (asiEnabled()) asiUnmapNoflush(ASI_GLOBAL_NONSENSITIVE, begin, bytes);
  for (let at = 0; at < bytes; at += PAGE_SIZE) kernelUnmapPage(addVirt(begin, at));
  flushTlbKernelRange(begin, INIT_END);
  trace(TRACE_UNMAPPED, 0, begin, INIT_END);
  const first = pfnOf((KERNEL_TEXT_PHYSICAL + (begin - KERNEL_TEXT_BASE)) as PhysAddr);
  freeFrames(first, first + bytes / PAGE_SIZE);
  printk(`Freeing unused kernel image (initmem) memory: ${bytes / 1024}K`);
}
