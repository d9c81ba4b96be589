// Entering, relaxing and leaving a restricted address space, and the flushes that each owes. The order of the steps is the design:
// an interrupt or NMI may come between any two of them and may itself leave the restricted address space.

import {
  assert,
  cpu,
  cr3,
  cr3Root,
  MSR_IA32_PRED_CMD,
  NULL,
  PRED_CMD_IBPB,
  type Ptr,
  STUB_FILL_RETURN_BUFFER,
} from "../../hardware/index.ts";
import { STUB_CLEAR_BRANCH_HISTORY } from "../mitigations/flush-stubs.ts";
import { l1tfFlush } from "../mitigations/l1tf.ts";
import { vmscapeBarrierIssued } from "../mitigations/vmscape.ts";
import { asiPcid, buildCr3, readCr3Raw, writeCr3Raw } from "../mm/cr3.ts";
import { Mm } from "../mm/mm-struct.ts";
import { LOADED_MM_SWITCHING, loadedMm, loadedMmAsid } from "../mm/tlb-struct.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
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
  TRACE_RETURN_STACK_FILLED,
  TRACE_TLB_KEPT,
  trace,
  WARN_ENTER_IN_INTERRUPT,
  WARN_ENTER_TWICE,
  WARN_EXIT_IN_CRITICAL,
  warn,
} from "../trace.ts";
import { domainPerVm, ephmap, rsbTaint } from "./asi-options.ts";
import {
  asiEnabled,
  asiRfcV2,
  asiTaints,
  currAsi,
  doBranchHistoryClear,
  doCpuBufferClear,
  doL1tfFlush,
  hasIbpb,
  lastVm,
} from "./asi-state.ts";
import { countAsiExit } from "./asi-stats.ts";
import {
  ASI_CLASS_KVM,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_GUEST_DATA,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_RETURN_STACK,
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
import { asiKeepsTlb, asiTlbKeepsDomain, asiTlbKeepsUnrestricted } from "./asi-tlb.ts";
import { siblingsAfterEnter, siblingsBeforeEnter, siblingsBeforeUnrestricted, siblingsLeftOutside } from "./siblings.ts";

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
  assert(asi !== NULL, () => "asi_enter() without a domain");
  const state = currentState();
  if (state.target !== NULL) warn(WARN_ENTER_TWICE);
  asiEnterRelaxed(state, asi);
}

/** asi_enter() of the running task, whose state is at hand and has no target: on the way to user mode every step counts. */
export function asiEnterRelaxed(state: AsiState, asi: Ptr<"asi">): void {
  if (state.intrNestDepth !== 0) warn(WARN_ENTER_IN_INTERRUPT);
  state.target = asi;
  enterDomain(asi);
}

/**
 * Goes to the restricted address space of the running task's target, if there is one and the CPU is elsewhere (kernel:
 * `__asi_enter()`). Also the end of the outermost interrupt of a critical section.
 */
export function __asiEnter(): void {
  const target = asiGetTarget();
  if (target !== NULL) enterDomain(target);
}

function enterDomain(target: Ptr<"asi">): void {
  if (target === currAsi.get()) {
    // The case that ASI exists for: nothing is owed, but for what ephemeral mappings let through meanwhile.
    if (ephmap.key.isEnabled()) flushInPlace(target);
    trace(TRACE_ASI_ENTER_NOOP, 0, target);
    return;
  }
  assert(loadedMm.get() !== LOADED_MM_SWITCHING, () => "asi_enter() in the middle of a switch of mm");
  const asi = Asi.at(target);
  const classId = asi.classId as AsiClassId; // written by asiInit() alone
  const policy = AsiTaintPolicy.at(asi.policy);
  siblingsBeforeEnter(currAsi.get(), target);
  // Before CR3: an exit nested from here on must see that there may be something to undo (S4).
  currAsi.set(target);
  if (domainPerVm.key.isEnabled() && classId === ASI_CLASS_KVM) handleOtherVm(asi.id);
  maybeFlushControl(policy.preventControl, 1);
  loadDomain(asi, classId);
  // After CR3: what is sensitive can no longer be brought in.
  maybeFlushData(policy.protectData);
  // This late: a nested enter can only come from an interrupt that returns to this same domain.
  asiTaints.or(policy.set);
  siblingsAfterEnter(target);
  trace(TRACE_ASI_ENTER, classId, target);
}

/**
 * The CPU has not left the domain, yet may hold data that it protects (option ephmap). Not in a handler that came into an enter before
 * CR3 was written: what is flushed there comes back, and the enter itself will flush.
 */
function flushInPlace(target: Ptr<"asi">): void {
  const { pgd, policy: at } = Asi.at(target);
  const policy = AsiTaintPolicy.at(at);
  const { protectData } = policy;
  if ((asiTaints.get() & protectData) === 0 || cr3Root(readCr3Raw()) !== pgd) return;
  maybeFlushData(protectData);
  asiTaints.or(policy.set);
}

/** Loads the tables of a domain, in the address space number of the loaded mm (kernel: `build_cr3_pcid_noinstr()`). */
function loadDomain(asi: Asi, classId: AsiClassId): void {
  const { pgd } = asi;
  const asid = loadedMmAsid.get();
  const value = cr3(pgd, asiPcid(asid, classId));
  if (!asiKeepsTlb()) {
    writeCr3Raw(value, false);
    return;
  }
  const flags = localIrqSave();
  const keeps = asiTlbKeepsDomain(asid, classId, asi.id);
  writeCr3Raw(value, keeps);
  if (keeps) trace(TRACE_TLB_KEPT, 1);
  localIrqRestore(flags);
}

/** Loads the tables of the loaded mm. */
function loadUnrestricted(): void {
  const mm = loadedMm.get();
  assert(mm !== LOADED_MM_SWITCHING, () => "asi_exit() in the middle of a switch of mm");
  const { pgd } = Mm.at(mm);
  const asid = loadedMmAsid.get();
  const value = buildCr3(pgd, asid);
  if (!asiKeepsTlb()) {
    writeCr3Raw(value, false);
    return;
  }
  const flags = localIrqSave();
  const keeps = asiTlbKeepsUnrestricted(asid);
  writeCr3Raw(value, keeps);
  if (keeps) trace(TRACE_TLB_KEPT, 0);
  localIrqRestore(flags);
}

/** Ends the critical section; the CPU stays where it is (kernel: `asi_relax()`). */
export function asiRelax(): void {
  if (!asiEnabled()) return;
  const state = currentState();
  if (state.intrNestDepth !== 0) warn(WARN_ENTER_IN_INTERRUPT);
  state.target = NULL;
  siblingsLeftOutside();
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
  // The sibling runs nothing that could look on: from here on, and until the next enter has cleared what this thread touches.
  siblingsBeforeUnrestricted();
  // What the domain trained must not steer the unrestricted kernel.
  maybeFlushControl(ASI_TAINTS_CONTROL_MASK, 0);
  // Before the switch: an NMI after it already leaves kernel data behind.
  asiTaints.or(ASI_TAINT_KERNEL_DATA);
  loadUnrestricted();
  // After it: an exit nested in between repeats, harmlessly.
  currAsi.set(NULL);
  countAsiExit(reason);
  trace(TRACE_ASI_EXIT, reason, address, rip);
}

/** A control flush if this CPU holds training that `refused` names (kernel: `maybe_flush_control()`). Clears every control taint. */
function maybeFlushControl(refused: number, entering: 0 | 1): void {
  const taints = asiTaints.get();
  const owed = taints & refused & ASI_TAINTS_CONTROL_MASK;
  if (owed === 0) return;
  if (hasIbpb.isEnabled()) {
    cpu.writeMsr(MSR_IA32_PRED_CMD, PRED_CMD_IBPB, 0);
    vmscapeBarrierIssued();
  }
  if (!rsbTaint.key.isEnabled() || (taints & ASI_TAINT_RETURN_STACK) !== 0) {
    cpu.callStub(STUB_FILL_RETURN_BUFFER);
    trace(TRACE_RETURN_STACK_FILLED);
  }
  if (doBranchHistoryClear.isEnabled()) cpu.callStub(STUB_CLEAR_BRANCH_HISTORY);
  asiTaints.and(~(ASI_TAINTS_CONTROL_MASK | ASI_TAINT_RETURN_STACK));
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

/** A VM exit has filled the return stack: whatever was in it, the guest's training included, is gone (option rsb_taint). */
export function asiReturnStackIsFilled(): void {
  if (asiEnabled() && rsbTaint.key.isEnabled()) asiTaints.and(~ASI_TAINT_RETURN_STACK);
}

/**
 * A guest is about to run (option rsb_taint): until the VM exit has filled the return stack it holds the guest's training, and an NMI may
 * come before that. Entering the domain said so only if the CPU was elsewhere.
 */
export function asiReturnStackIsLent(): void {
  if (asiEnabled() && rsbTaint.key.isEnabled()) asiTaints.or(ASI_TAINT_RETURN_STACK);
}

/** The taints that entering a domain with these leaves on this kernel: the return stack's with the others, where it has one. */
export function asiTaintsSet(taints: number): number {
  return rsbTaint.key.isEnabled() ? taints | ASI_TAINT_RETURN_STACK : taints;
}

/**
 * Another VM than the last here, of the same mm (option domain_per_vm): to this one the last one's traces are a stranger's. or before and,
 * and both before the last VM is forgotten, so that the byte is never less than the truth, whatever an NMI in between does.
 */
function handleOtherVm(id: number): void {
  if (lastVm.get() === id) return;
  const taints = asiTaints.get() & ASI_TAINTS_GUEST_MASK;
  let others = 0;
  if ((taints & ASI_TAINT_GUEST_CONTROL) !== 0) others |= ASI_TAINT_OTHER_MM_CONTROL;
  if ((taints & ASI_TAINT_GUEST_DATA) !== 0) others |= ASI_TAINT_OTHER_MM_DATA;
  if (others !== 0) {
    asiTaints.or(others);
    asiTaints.and(~ASI_TAINTS_GUEST_MASK);
  }
  lastVm.set(id);
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
  asiTaints.or(asiTaintsSet(ASI_TAINT_USER_CONTROL | ASI_TAINT_USER_DATA));
}

/** Names for reports. */
export function exitReasonName(reason: number): string {
  return EXIT_REASONS[reason] ?? `reason ${reason}`;
}
