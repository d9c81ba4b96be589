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
/** VERW as the last act before a guest runs (kernel: X86_FEATURE_CLEAR_CPU_BUF_VM). */
export const clearCpuBufVm = staticKey("X86_FEATURE_CLEAR_CPU_BUF_VM");
/** VERW before halting (kernel: the static key cpu_buf_idle_clear). */
export const cpuBufIdleClear = staticKey("cpu_buf_idle_clear");
/** IBRS set on every entry to the kernel (kernel: X86_FEATURE_KERNEL_IBRS). */
export const kernelIbrs = staticKey("X86_FEATURE_KERNEL_IBRS");
/** Branch history cleared on system call entry (kernel: X86_FEATURE_CLEAR_BHB_LOOP). */
export const clearBhbLoop = staticKey("X86_FEATURE_CLEAR_BHB_LOOP");
/** ... and after a VM exit (kernel: X86_FEATURE_CLEAR_BHB_VMEXIT). */
export const clearBhbVmexit = staticKey("X86_FEATURE_CLEAR_BHB_VMEXIT");
/** After a VM exit one CALL retires before anything is predicted from the return stack (kernel: X86_FEATURE_RSB_VMEXIT_LITE). */
export const rsbVmexitLite = staticKey("X86_FEATURE_RSB_VMEXIT_LITE");
/** IBPB before the first return to user mode after a VM exit (kernel: X86_FEATURE_IBPB_EXIT_TO_USER). */
export const ibpbExitToUser = staticKey("X86_FEATURE_IBPB_EXIT_TO_USER");
/** IBRS around calls of the firmware (kernel: X86_FEATURE_USE_IBRS_FW). */
export const useIbrsFw = staticKey("X86_FEATURE_USE_IBRS_FW");
/** LFENCE behind SWAPGS at entries from user mode (kernel: X86_FEATURE_FENCE_SWAPGS_USER). */
export const fenceSwapgsUser = staticKey("X86_FEATURE_FENCE_SWAPGS_USER");
/** LFENCE where entries from kernel mode skip SWAPGS (kernel: X86_FEATURE_FENCE_SWAPGS_KERNEL). */
export const fenceSwapgsKernel = staticKey("X86_FEATURE_FENCE_SWAPGS_KERNEL");
/** A task's STIBP follows its own choice (kernel: switch_to_cond_stibp). */
export const switchToCondStibp = staticKey("switch_to_cond_stibp");
/** SPEC_CTRL of kernel mode, for every CPU (kernel: x86_spec_ctrl_base). */
export const x86SpecCtrlBase = staticKey("x86_spec_ctrl_base");
/** Events are delivered by FRED (kernel: X86_FEATURE_FRED). */
export const fredFeature = staticKey("X86_FEATURE_FRED");
