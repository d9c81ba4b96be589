// Exceptions that the hypervisor raises in a guest, and events whose delivery a VM exit cut short and which are delivered again.
import {
  cpu,
  GUEST_INTR_STATE_MOV_SS,
  GUEST_INTR_STATE_NMI,
  GUEST_INTR_STATE_STI,
  INTR_INFO_DELIVER_CODE_MASK,
  INTR_INFO_TYPE_MASK,
  INTR_INFO_VALID_MASK,
  INTR_TYPE_EXT_INTR,
  INTR_TYPE_HARD_EXCEPTION,
  INTR_TYPE_NMI_INTR,
  INTR_TYPE_SOFT_EXCEPTION,
  INTR_TYPE_SOFT_INTR,
  type Ptr,
  RFLAGS_TF,
  VECTOR_BP,
  VECTOR_DB,
  VECTOR_DF,
  VECTOR_GP,
  VECTOR_NMI,
  VECTOR_NP,
  VECTOR_OF,
  VECTOR_PF,
  VECTOR_SS,
  VECTOR_TS,
  VECTOR_UD,
  VMCS,
} from "../../hardware/index.ts";
import { KVM_REQ_TRIPLE_FAULT, KvmVcpu, type VcpuVmx } from "./kvm-struct.ts";
import { advanceRip, getRflags } from "./regs.ts";
import { kvmMakeRequest } from "./requests.ts";

const VECTOR_DE = 0;

/** Classes of exceptions that meet: SDM vol. 3, table 7-4. */
function isContributory(vector: number): boolean {
  return vector === VECTOR_DE || vector === VECTOR_TS || vector === VECTOR_NP || vector === VECTOR_SS || vector === VECTOR_GP;
}

/** Kernel: `kvm_multiple_exception()`. A second exception becomes #DF, a third shuts the guest down. */
function queueException(vcpu: Ptr<"kvm_vcpu">, vector: number, hasErrorCode: boolean, errorCode: number): void {
  const view = KvmVcpu.at(vcpu);
  if (!view.exceptionPending && !view.exceptionInjected) {
    view.exceptionPending = true;
    view.exceptionVector = vector;
    view.exceptionHasErrorCode = hasErrorCode;
    view.exceptionErrorCode = errorCode;
    return;
  }
  const first = view.exceptionVector;
  if (first === VECTOR_DF) {
    kvmMakeRequest(KVM_REQ_TRIPLE_FAULT, vcpu);
    return;
  }
  const isDouble =
    (isContributory(first) && isContributory(vector)) || (first === VECTOR_PF && (isContributory(vector) || vector === VECTOR_PF));
  view.exceptionInjected = false;
  view.exceptionPending = true;
  view.exceptionVector = isDouble ? VECTOR_DF : vector;
  view.exceptionHasErrorCode = isDouble || hasErrorCode;
  view.exceptionErrorCode = isDouble ? 0 : errorCode;
}

/** Kernel: `kvm_queue_exception()`. */
export function kvmQueueException(vcpu: Ptr<"kvm_vcpu">, vector: number): void {
  queueException(vcpu, vector, false, 0);
}

/** Kernel: `kvm_queue_exception_e()`. */
export function kvmQueueExceptionE(vcpu: Ptr<"kvm_vcpu">, vector: number, errorCode: number): void {
  queueException(vcpu, vector, true, errorCode);
}

/** #GP(0) (kernel: `kvm_inject_gp()`). */
export function kvmInjectGp(vcpu: Ptr<"kvm_vcpu">): void {
  kvmQueueExceptionE(vcpu, VECTOR_GP, 0);
}

/** Kernel: `kvm_queue_exception(vcpu, UD_VECTOR)`. */
export function kvmInjectUd(vcpu: Ptr<"kvm_vcpu">): void {
  kvmQueueException(vcpu, VECTOR_UD);
}

/** #BP and #OF come from an instruction; their delivery needs its length. */
function isSoftException(vector: number): boolean {
  return vector === VECTOR_BP || vector === VECTOR_OF;
}

function injectException(view: KvmVcpu): void {
  const vector = view.exceptionVector;
  const hasErrorCode = view.exceptionHasErrorCode;
  const isSoft = isSoftException(vector);
  if (hasErrorCode) cpu.vmwrite(VMCS.VM_ENTRY_EXCEPTION_ERROR_CODE, view.exceptionErrorCode, 0);
  if (isSoft) cpu.vmwrite(VMCS.VM_ENTRY_INSTRUCTION_LEN, view.eventExitInstLen, 0);
  const type = isSoft ? INTR_TYPE_SOFT_EXCEPTION : INTR_TYPE_HARD_EXCEPTION;
  writeEntryInfo(vector | type | (hasErrorCode ? INTR_INFO_DELIVER_CODE_MASK : 0));
}

function writeEntryInfo(info: number): void {
  cpu.vmwrite(VMCS.VM_ENTRY_INTR_INFO_FIELD, (info | INTR_INFO_VALID_MASK) >>> 0, 0);
}

/** Hands at most one event to the next VM entry (kernel: `kvm_check_and_inject_events()`). One that was cut short goes first. */
export function kvmCheckAndInjectEvents(view: KvmVcpu): void {
  if (view.exceptionInjected) {
    injectException(view);
    return;
  }
  if (view.nmiInjected) {
    writeEntryInfo(VECTOR_NMI | INTR_TYPE_NMI_INTR);
    return;
  }
  if (view.interruptInjected) {
    const isSoft = view.interruptSoft;
    if (isSoft) cpu.vmwrite(VMCS.VM_ENTRY_INSTRUCTION_LEN, view.eventExitInstLen, 0);
    writeEntryInfo(view.interruptVector | (isSoft ? INTR_TYPE_SOFT_INTR : INTR_TYPE_EXT_INTR));
    return;
  }
  if (!view.exceptionPending) return;
  view.exceptionPending = false;
  view.exceptionInjected = true;
  injectException(view);
}

/** After an exit: what was injected was delivered, unless the IDT-vectoring information says so (kernel: `vmx_complete_interrupts()`). */
export function vmxCompleteInterrupts(vmx: VcpuVmx): void {
  const { vcpu } = vmx;
  if (vcpu.exceptionInjected) vcpu.exceptionInjected = false;
  if (vcpu.nmiInjected) vcpu.nmiInjected = false;
  if (vcpu.interruptInjected) vcpu.interruptInjected = false;
  const info = vmx.idtVectoringInfo;
  if ((info & INTR_INFO_VALID_MASK) === 0) return;
  const vector = info & 0xff;
  switch (info & INTR_INFO_TYPE_MASK) {
    case INTR_TYPE_NMI_INTR:
      vcpu.nmiInjected = true;
      // The NMI was not delivered: it does not block others.
      cpu.vmwrite(VMCS.GUEST_INTERRUPTIBILITY_INFO, cpu.vmread(VMCS.GUEST_INTERRUPTIBILITY_INFO) & ~GUEST_INTR_STATE_NMI, 0);
      return;
    case INTR_TYPE_SOFT_EXCEPTION:
    case INTR_TYPE_HARD_EXCEPTION:
      if ((info & INTR_INFO_TYPE_MASK) === INTR_TYPE_SOFT_EXCEPTION) vcpu.eventExitInstLen = cpu.vmread(VMCS.VM_EXIT_INSTRUCTION_LEN);
      vcpu.exceptionInjected = true;
      vcpu.exceptionVector = vector;
      vcpu.exceptionHasErrorCode = (info & INTR_INFO_DELIVER_CODE_MASK) !== 0;
      if ((info & INTR_INFO_DELIVER_CODE_MASK) !== 0) vcpu.exceptionErrorCode = cpu.vmread(VMCS.IDT_VECTORING_ERROR_CODE);
      return;
    case INTR_TYPE_SOFT_INTR:
    case INTR_TYPE_EXT_INTR:
      if ((info & INTR_INFO_TYPE_MASK) === INTR_TYPE_SOFT_INTR) vcpu.eventExitInstLen = cpu.vmread(VMCS.VM_EXIT_INSTRUCTION_LEN);
      vcpu.interruptInjected = true;
      vcpu.interruptSoft = (info & INTR_INFO_TYPE_MASK) === INTR_TYPE_SOFT_INTR;
      vcpu.interruptVector = vector;
      return;
    default:
      return;
  }
}

/** VM_ENTRY_INTR_INFO of an entry that was called off is taken back (kernel: `vmx_cancel_injection()`). */
export function vmxCancelInjection(): void {
  cpu.vmwrite(VMCS.VM_ENTRY_INTR_INFO_FIELD, 0, 0);
}

const INTERRUPT_SHADOW = GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS;

/** Goes on behind the emulated instruction; ends its interrupt shadow; single-steps (kernel: `kvm_skip_emulated_instruction()`). @returns 1 */
export function kvmSkipEmulatedInstruction(vcpu: Ptr<"kvm_vcpu">): 1 {
  const rflags = getRflags(vcpu);
  advanceRip(vcpu, cpu.vmread(VMCS.VM_EXIT_INSTRUCTION_LEN));
  const shadow = cpu.vmread(VMCS.GUEST_INTERRUPTIBILITY_INFO);
  if ((shadow & INTERRUPT_SHADOW) !== 0) cpu.vmwrite(VMCS.GUEST_INTERRUPTIBILITY_INFO, shadow & ~INTERRUPT_SHADOW, 0);
  if ((rflags & RFLAGS_TF) !== 0) kvmQueueException(vcpu, VECTOR_DB);
  return 1;
}
