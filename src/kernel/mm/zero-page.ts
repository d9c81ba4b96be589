// The page that every read of untouched anonymous memory sees: one frame of the kernel's data, never written, in no count. It holds no
// secret, and is in every restricted address space like the rest of the kernel's data.
import { PAGE_SIZE, type PhysAddr, pfnOf, type VirtAddr } from "../../hardware/index.ts";
import { staticBytes } from "../static-data.ts";
import { pa } from "./layout.ts";

/** Kernel: empty_zero_page. */
const emptyZeroPage: VirtAddr = staticBytes("empty_zero_page", PAGE_SIZE, PAGE_SIZE);
const frame: PhysAddr = pa(emptyZeroPage);

/** Kernel: `my_zero_pfn()`. */
export function zeroFrame(): PhysAddr {
  return frame;
}

/** Kernel: `is_zero_pfn()`. */
export function isZeroFrame(other: PhysAddr): boolean {
  return pfnOf(other) === pfnOf(frame);
}
