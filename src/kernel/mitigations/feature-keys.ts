// Features that the kernel selects for itself (kernel: setup_force_cpu_cap() and static keys of bugs.c): set once at boot by what selects
// mitigations, read by whoever acts on them. Reading one is free, as a patched branch is.
import { staticKey } from "../static-key.ts";

/** Kernel page-table isolation: user mode runs on tables of its own (kernel: X86_FEATURE_PTI). Never together with ASI. */
export const ptiFeature = staticKey("X86_FEATURE_PTI");
/** IBPB when the mm changes and one of both tasks asked for it (kernel: switch_mm_cond_ibpb). */
export const switchMmCondIbpb = staticKey("switch_mm_cond_ibpb");
/** IBPB whenever the user mm changes (kernel: switch_mm_always_ibpb). */
export const switchMmAlwaysIbpb = staticKey("switch_mm_always_ibpb");
/** Return stack filled at every task switch (kernel: X86_FEATURE_RSB_CTXSW). */
export const rsbCtxsw = staticKey("X86_FEATURE_RSB_CTXSW");
/** VERW as the last act before user mode (kernel: X86_FEATURE_CLEAR_CPU_BUF). */
export const clearCpuBuf = staticKey("X86_FEATURE_CLEAR_CPU_BUF");
/** VERW before halting (kernel: the static key cpu_buf_idle_clear). */
export const cpuBufIdleClear = staticKey("cpu_buf_idle_clear");
/** IBRS set on every entry to the kernel (kernel: X86_FEATURE_KERNEL_IBRS). */
export const kernelIbrs = staticKey("X86_FEATURE_KERNEL_IBRS");
/** Branch history cleared on system call entry (kernel: X86_FEATURE_CLEAR_BHB_LOOP). */
export const clearBhbLoop = staticKey("X86_FEATURE_CLEAR_BHB_LOOP");
/** Events are delivered by FRED (kernel: X86_FEATURE_FRED). */
export const fredFeature = staticKey("X86_FEATURE_FRED");
