// The kernel's face: the image for a machine, trace points, and what reports and checks need to know of its memory.

export { asiClassName } from "./asi/asi-class.ts";
export { asiDestroy, asiInit } from "./asi/asi-domain.ts";
export { asiMap, asiMapGfp, asiUnmap, isMappedIn } from "./asi/asi-map.ts";
export { ASI_OPTIONS, type AsiOption, PRESETS, type Preset } from "./asi/asi-options.ts";
export * from "./asi/asi-state.ts";
export { asiExitCount, asiExitsText, asiExitTotal } from "./asi/asi-stats.ts";
export * from "./asi/asi-struct.ts";
export { asiEnter, asiExit, asiInCriticalSection, asiIsRelaxed, asiIsRestricted, asiRelax } from "./asi/asi-transition.ts";
export { PRESET_DIFFERENCES, type PresetDifference } from "./asi/preset-differences.ts";
export { buildKernelImage, type KernelConfig } from "./boot/kernel-image.ts";
export type { KernelHooks } from "./boot/kernel-stubs.ts";
export { symbolAddress, symbolOf } from "./boot/kernel-text.ts";
export { PtRegs } from "./entry/pt-regs.ts";
export { ADDED_SYSCALL } from "./entry/syscall.ts";
export * from "./entry/vectors.ts";
export { testStaticKey } from "./jump-label.ts";
export { hcTable, hcTableSize } from "./kvm/hypercall-gadget.ts";
export { Kvm, KvmGlobals, KvmVcpu, kvmAsiPolicyNoSecrets, kvmGlobals, kvmRunningVcpu } from "./kvm/kvm-struct.ts";
export { unlinkPath } from "./linux/namei.ts";
export type { ProcessConfig } from "./linux/process.ts";
export { type MitigationReport, mitigationReport, type ReportOptions } from "./mitigations/host-report.ts";
export type { Replacement } from "./mitigations/replacements.ts";
export { MITIGATION_FILES } from "./mitigations/report-files.ts";
export { lastUserMmSpec } from "./mm/cond-mitigation.ts";
export { FAIL_FROM_THEN_ON, FAIL_NEVER, FAIL_ONCE, FailAlloc, failAlloc, failAllocState } from "./mm/fail-alloc.ts";
export { __GFP_SENSITIVE, GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "./mm/gfp.ts";
export { CPU_ENTRY_AREA_BASE, PAGE_OFFSET, pa, VMALLOC_END, VMALLOC_START, VMEMMAP_START, va } from "./mm/layout.ts";
export { Mm, MmContext } from "./mm/mm-struct.ts";
export {
  asiAsyncFreeWork,
  drainAllFrees,
  getFreePages,
  nrFreePages,
  type PageAllocStatistics,
  pageAllocStatistics,
} from "./mm/page-alloc.ts";
export { Page, type PagePtr, PG_SLAB, pageToPfn, pfnToPage } from "./mm/page-struct.ts";
export { kfree, kmalloc } from "./mm/slab.ts";
export { flushTlbAll } from "./mm/tlb.ts";
export { FlushTlbInfo, flushTlbInfo, loadedMm, loadedMmAsid, TLB_NR_DYN_ASIDS, TlbContext, tlbContexts } from "./mm/tlb-struct.ts";
export { moduleAlloc, moduleEnableRox, moduleFree, vfree, vmalloc } from "./mm/vmalloc.ts";
export { AREA_LIVE, VmStruct } from "./mm/vmap-area.ts";
export { cpuDown, cpuUp } from "./power/non-boot-cpus.ts";
export { pmSuspend } from "./power/suspend.ts";
export * from "./running-functions.ts";
export { current, currentTask } from "./sched/current.ts";
export { idleTaskExit } from "./sched/idle-mm.ts";
export { allTasks, initTask, taskComm } from "./sched/task.ts";
export { TASK_COMM_LEN, TaskStruct, ThreadStruct } from "./sched/task-struct.ts";
export { KERNEL_DATA_BASE, KERNEL_DATA_PHYSICAL, KERNEL_TEXT_BASE, staticBytes, staticObjects } from "./static-data.ts";
export * from "./trace.ts";
