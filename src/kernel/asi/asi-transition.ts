// Entering, relaxing and leaving a restricted address space, and the flushes that each owes. The order of the steps is the design:
// an interrupt or NMI may come between any two of them and may itself leave the restricted address space.

import { type Cr3, cpu, cr3, MSR_IA32_PRED_CMD, NULL, PRED_CMD_IBPB, type Ptr } from "../../hardware/index.ts";
import { STUB_CLEAR_BRANCH_HISTORY } from "../mitigations/flush-stubs.ts";
import { l1tfFlush } from "../mitigations/l1tf.ts";
import { vmscapeBarrierIssued } from "../mitigations/vmscape.ts";
import { asiPcid, buildCr3 } from "../mm/cr3.ts";
import { Mm } from "../mm/mm-struct.ts";
import { loadedMm, loadedMmAsid } from "../mm/tlb-struct.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import {
  EXIT_REASONS,
  type ExitReason,
  FLUSH_CONTROL,
  FLUSH_DATA,
  TRACE_ASI_ENTER,
  TRACE_ASI_ENTER_NOOP,
  TRACE_ASI_EXIT,
  TRACE_ASI_RELAX,
  TRACE_FLUSH,
  trace,
  WARN_ENTER_TWICE,
  WARN_EXIT_IN_CRITICAL,
  warn,
} from "../trace.ts";
import {
  asiClassPolicy,
  asiEnabled,
  asiRfcV2,
  asiTaints,
  currAsi,
  doBranchHistoryClear,
  doCpuBufferClear,
  doL1tfFlush,
  hasIbpb,
} from "./asi-state.ts";
import {
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_CONTROL,
  ASI_TAINT_USER_DATA,
  ASI_TAINTS_CONTROL_MASK,
  ASI_TAINTS_DATA_MASK,
  ASI_TAINTS_DATA_MASK_RFC_V2,
  ASI_TAINTS_GUEST_MASK,
  ASI_TAINTS_USER_MASK,
  Asi,
  type AsiClassId,
  type AsiState,
  AsiTaintPolicy,
} from "./asi-struct.ts";

function currentState(): AsiState {
  return TaskStruct.at(current()).thread.asiState;
}

/** Domain of the running task's critical section, or NULL (kernel: `asi_get_target()`). */
export function asiGetTarget(): Ptr<"asi"> {
  return currentState().target;
}

/** Kernel: `asi_is_restricted()`. */
export function asiIsRestricted(): boolean {
  return currAsi.get() !== NULL;
}

/** The task has no target (kernel: `asi_is_relaxed()`). */
export function asiIsRelaxed(): boolean {
  return asiGetTarget() === NULL;
}

/** Kernel: `asi_is_tense()`. */
export function asiIsTense(): boolean {
  return !asiIsRelaxed();
}

/** In a critical section, no interrupt on top (kernel: `asi_in_critical_section()`). */
export function asiInCriticalSection(): boolean {
  const state = currentState();
  return state.target !== NULL && state.intrNestDepth === 0;
}

/** Begins the critical section of `asi` (kernel: `asi_enter()`). Preemption off; not in interrupt context. */
export function asiEnter(asi: Ptr<"asi">): void {
  if (!asiEnabled()) return;
  const state = currentState();
  if (state.target !== NULL) warn(WARN_ENTER_TWICE);
  state.target = asi;
  __asiEnter();
}

/**
 * Goes to the restricted address space of the running task's target, if there is one and the CPU is elsewhere (kernel:
 * `__asi_enter()`). Also the end of the outermost interrupt of a critical section.
 */
export function __asiEnter(): void {
  const target = asiGetTarget();
  if (target === NULL) return;
  const from = currAsi.get();
  const asi = Asi.at(target);
  if (target === from) {
    // The case that ASI exists for: nothing is owed.
    trace(TRACE_ASI_ENTER_NOOP, 0, target);
    return;
  }
  const classId = asi.classId as AsiClassId; // written by asiInit() alone
  const policy = AsiTaintPolicy.at(asiClassPolicy(classId));
  // Before CR3: an exit nested from here on must see that there may be something to undo (S4).
  currAsi.set(target);
  maybeFlushControl(policy.preventControl, 1);
  cpu.writeCr3(asiCr3(asi, classId), false);
  // After CR3: what is sensitive can no longer be brought in.
  maybeFlushData(policy.protectData);
  // This late: a nested enter can only come from an interrupt that returns to this same domain.
  asiTaints.or(policy.set);
  trace(TRACE_ASI_ENTER, classId, target);
}

/** CR3 of the domain on this CPU, in the address space number of the loaded mm (kernel: `build_cr3_pcid_noinstr()`). */
export function asiCr3(asi: Asi, classId: AsiClassId): Cr3 {
  return cr3(asi.pgd, asiPcid(loadedMmAsid.get(), classId));
}

/** Ends the critical section; the CPU stays where it is (kernel: `asi_relax()`). */
export function asiRelax(): void {
  if (!asiEnabled()) return;
  currentState().target = NULL;
  trace(TRACE_ASI_RELAX);
}

/**
 * Leaves the restricted address space, if the CPU is in one (kernel: `asi_exit()`). Callable in any context, NMI included.
 * `address` and `rip`: of the page fault that asks for it, for the ledger.
 */
export function asiExit(reason: ExitReason, address = 0, rip = 0): void {
  if (!asiEnabled()) return;
  if (currAsi.get() === NULL) return;
  if (asiInCriticalSection()) warn(WARN_EXIT_IN_CRITICAL);
  // What the domain trained must not steer the unrestricted kernel.
  maybeFlushControl(ASI_TAINTS_CONTROL_MASK, 0);
  // Before the switch: an NMI after it already leaves kernel data behind.
  asiTaints.or(ASI_TAINT_KERNEL_DATA);
  cpu.writeCr3(buildCr3(Mm.at(loadedMm.get()).pgd, loadedMmAsid.get()), false);
  // After it: an exit nested in between repeats, harmlessly.
  currAsi.set(NULL);
  trace(TRACE_ASI_EXIT, reason, address, rip);
}

/** A control flush if this CPU holds training that `refused` names (kernel: `maybe_flush_control()`). Clears every control taint. */
function maybeFlushControl(refused: number, entering: 0 | 1): void {
  const owed = asiTaints.get() & refused & ASI_TAINTS_CONTROL_MASK;
  if (owed === 0) return;
  if (hasIbpb.isEnabled()) {
    cpu.writeMsr(MSR_IA32_PRED_CMD, PRED_CMD_IBPB, 0);
    vmscapeBarrierIssued();
  }
  cpu.callStub("fill_return_buffer");
  if (doBranchHistoryClear.isEnabled()) cpu.callStub(STUB_CLEAR_BRANCH_HISTORY);
  asiTaints.and(~ASI_TAINTS_CONTROL_MASK);
  trace(TRACE_FLUSH, FLUSH_CONTROL, owed, entering);
}

/** A data flush if this CPU may hold data that `protectedData` names (kernel: `maybe_flush_data()`). Clears every data taint. */
function maybeFlushData(protectedData: number): void {
  const owed = asiTaints.get() & protectedData;
  if (owed === 0) return;
  if (doL1tfFlush.isEnabled()) l1tfFlush();
  if (doCpuBufferClear.isEnabled()) cpu.callStub("clear_cpu_buffers");
  asiTaints.and(~(asiRfcV2.isEnabled() ? ASI_TAINTS_DATA_MASK_RFC_V2 : ASI_TAINTS_DATA_MASK));
  trace(TRACE_FLUSH, FLUSH_DATA, owed, 1);
}

/**
 * The mm really changes: what this mm left becomes another mm's (kernel: `asi_handle_switch_mm()`). In switch_mm_irqs_off(), before its
 * own IBPB. or/and, not a store: a racing exit's KERNEL_DATA stays.
 */
export function asiHandleSwitchMm(): void {
  if (!asiEnabled()) return;
  const taints = asiTaints.get();
  const dataMask = asiRfcV2.isEnabled() ? ASI_TAINTS_DATA_MASK_RFC_V2 : ASI_TAINTS_DATA_MASK;
  let others = 0;
  if ((taints & ASI_TAINTS_CONTROL_MASK) !== 0) others |= ASI_TAINT_OTHER_MM_CONTROL;
  if ((taints & dataMask) !== 0) others |= ASI_TAINT_OTHER_MM_DATA;
  asiTaints.or(others);
  asiTaints.and(~(ASI_TAINTS_GUEST_MASK | ASI_TAINTS_USER_MASK));
}

/**
 * User code runs next without a domain of its own: it trains and leaves data all the same. Not in the posted series, whose taints
 * of a later mm switch would derive nothing from it.
 */
export function asiReturnToUserWithoutDomain(): void {
  if (!asiEnabled() || asiRfcV2.isEnabled()) return;
  asiTaints.or(ASI_TAINT_USER_CONTROL | ASI_TAINT_USER_DATA);
}

/** Names for reports. */
export function exitReasonName(reason: number): string {
  return EXIT_REASONS[reason] ?? `reason ${reason}`;
}
