// A short-lived buffer for what comes from user memory. Kernel stacks here hold frames only, so it is allocated.
import { ENOMEM, type Errno } from "../../abi/index.ts";
import { NULL, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kmalloc } from "../mm/slab.ts";

/** Calls `use` with `bytes` bytes of kernel memory. @returns its result, or ENOMEM. */
export function kernelBuffer<T>(bytes: number, use: (buffer: VirtAddr) => T): T | Errno {
  const buffer = kmalloc(bytes, GFP_KERNEL);
  if (buffer === NULL) return ENOMEM;
  const result = use(buffer);
  kfree(buffer);
  return result;
}
