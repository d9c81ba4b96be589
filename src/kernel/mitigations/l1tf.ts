// Flushing L1D, for KVM's own mitigation and for address space isolation alike (kernel: arch/x86/lib/l1tf.c of the series).
import { ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, L1D_FLUSH, MSR_IA32_FLUSH_CMD, PAGE_SIZE, STUB_L1D_FLUSH_SOFTWARE, virtual } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { allocPages } from "../mm/page-alloc.ts";
import { pageAddress } from "../mm/page-struct.ts";
import { staticBytes } from "../static-data.ts";
import { bootCpuHas } from "./cpu-features.ts";
import { L1D_FLUSH_BYTES } from "./flush-stubs.ts";

/** Order of the flush buffer: 16 pages. Kernel: L1D_CACHE_ORDER. */
const L1D_CACHE_ORDER = 4;
/** Address of the flush buffer, or 0. */
const l1dFlushPages = staticBytes("l1tf_flush_pages", 8, 8);

/**
 * Prepares for l1tfFlush(): nothing where the CPU has IA32_FLUSH_CMD, else a buffer whose pages differ, so that no hypervisor below us
 * merges them (kernel: `l1tf_flush_setup()`). @returns 0; ENOMEM.
 */
export function l1tfFlushSetup(): 0 | Errno {
  if (bootCpuHas("FLUSH_L1D") || virtual.get(l1dFlushPages) !== 0) return 0;
  const page = allocPages(GFP_KERNEL, L1D_CACHE_ORDER);
  if (page === 0) return ENOMEM;
  const pages = pageAddress(page);
  for (let i = 0; i * PAGE_SIZE < L1D_FLUSH_BYTES; i++) cpu.fill(addVirt(pages, i * PAGE_SIZE), i + 1, PAGE_SIZE);
  virtual.set(l1dFlushPages, pages);
  return 0;
}

/** Flushes L1D (kernel: `l1tf_flush()`). After l1tfFlushSetup(). */
export function l1tfFlush(): void {
  if (bootCpuHas("FLUSH_L1D")) cpu.writeMsr(MSR_IA32_FLUSH_CMD, L1D_FLUSH, 0);
  else cpu.callStub(STUB_L1D_FLUSH_SOFTWARE, virtual.get(l1dFlushPages));
}
