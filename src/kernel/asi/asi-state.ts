// What address space isolation remembers per CPU and per system, and what is patched at boot.
import { addVirt, type Ptr, perCpu, perCpuInteger, pointer, virtual } from "../../hardware/index.ts";
import { staticBytes, staticStruct } from "../static-data.ts";
import { staticKey } from "../static-key.ts";
import { ASI_MAX_NUM_CLASSES, Asi, type AsiClassId, AsiTaintPolicy } from "./asi-struct.ts";

/**
 * Domain whose tables this CPU uses, or NULL (kernel: curr_asi). Written by this CPU alone, in __asiEnter() before CR3 and in asiExit()
 * after it; an NMI may read it between any two steps.
 */
export const currAsi = perCpu("curr_asi", pointer("asi"));
/** ASI_TAINT_* of this CPU (kernel: asi_taints). or/and only: a nested exit's bit must not be lost. */
export const asiTaints = perCpuInteger("asi_taints", 1);

/** What every domain maps is there: domains may be made from now on. */
export const asiGlobalReady = staticKey("asi_global_ready");
/** `Asi.id` of the last VM's domain that was entered on this CPU (option domain_per_vm). */
export const lastVm = perCpuInteger("asi_last_vm", 4);

/** X86_FEATURE_ASI. */
export const asiFeature = staticKey("X86_FEATURE_ASI");
/** 1: as posted, its faults included (preset rfc-v2). 0: preset cordon. */
export const asiRfcV2 = staticKey("asi_preset_rfc_v2");
/** The CPU has IBPB (kernel: X86_FEATURE_IBPB). */
export const hasIbpb = staticKey("X86_FEATURE_IBPB");
/** Data flushes flush L1D (kernel: the static key do_l1tf_flush). */
export const doL1tfFlush = staticKey("do_l1tf_flush");
/** Data flushes also overwrite CPU buffers: the CPU has MDS, and VERW that clears them. */
export const doCpuBufferClear = staticKey("asi_clear_cpu_buffers");

/** Control flushes also clear the branch history (option flush_taints, on a CPU where it is cleared in software). */
export const doBranchHistoryClear = staticKey("asi_clear_branch_history");

/** Policies of the initialised classes, by class (kernel: asi_class). */
const classes = staticBytes("asi_class", 8 * ASI_MAX_NUM_CLASSES, 8);

/** The pseudo-domain of what every domain maps (kernel: asi_global_nonsensitive). */
export const ASI_GLOBAL_NONSENSITIVE: Ptr<"asi"> = staticStruct("asi_global_nonsensitive", Asi);

/** Policy of the class; NULL while it is not initialised. */
export function asiClassPolicy(id: AsiClassId): Ptr<"asi_taint_policy"> {
  return virtual.get(addVirt(classes, 8 * id)) as Ptr<"asi_taint_policy">;
}

export function setAsiClassPolicy(id: AsiClassId, policy: Ptr<"asi_taint_policy">): void {
  virtual.set(addVirt(classes, 8 * id), policy);
}

/** A static policy, for a class that is compiled in. */
export function staticPolicy(name: string): Ptr<"asi_taint_policy"> {
  return staticStruct(name, AsiTaintPolicy);
}

/** Kernel: `static_asi_enabled()`. Free: patched at boot. */
export function asiEnabled(): boolean {
  return asiFeature.isEnabled();
}
