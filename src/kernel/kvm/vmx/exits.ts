// What each VM exit comes to (kernel: kvm_vmx_exit_handlers). A handler returns 1 when the guest goes on, 0 when the monitor is asked
// (struct kvm_run says what for), or an error.
import {
  KVM_EXIT,
  KVM_INTERNAL_ERROR_DELIVERY_EV,
  KVM_INTERNAL_ERROR_EMULATION,
  KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
  KVM_RUN_OFFSET,
} from "../../../abi/index.ts";
import {
  addVirt,
  CPU_BASED_INTR_WINDOW_EXITING,
  CPU_BASED_NMI_WINDOW_EXITING,
  CR0_PE,
  CR0_PG,
  CR0_TS,
  CR4_PAE,
  cpu,
  EPT_VIOLATION_ACC_WRITE,
  EXIT_REASON,
  GUEST_INTR_STATE_NMI,
  INTR_INFO_DELIVER_CODE_MASK,
  INTR_INFO_TYPE_MASK,
  INTR_INFO_VALID_MASK,
  INTR_TYPE_HARD_EXCEPTION,
  INTR_TYPE_NMI_INTR,
  type Ptr,
  VECTOR_MC,
  VECTOR_UD,
  VMCS,
  VMX_EXIT_REASONS_FAILED_VMENTRY,
} from "../../../hardware/index.ts";
import { kvmEmulateCpuid } from "../cpuid.ts";
import { kvmInjectGp, kvmInjectUd, kvmQueueException, kvmQueueExceptionE, kvmSkipEmulatedInstruction } from "../events.ts";
import { kvmEmulateHypercall } from "../hypercall.ts";
import { handleIo, setRun } from "../io.ts";
import { KVM_REQ_TLB_FLUSH, type KvmVcpu, type VcpuVmx } from "../kvm-struct.ts";
import { FAULT_MAPPED, FAULT_NO_SLOT, FAULT_READONLY, kvmTdpPageFault } from "../mmu.ts";
import { kvmEmulateRdmsr, kvmEmulateWrmsr } from "../msr.ts";
import { kvmRegisterRead, kvmRegisterWrite, vmreadWord } from "../regs.ts";
import { kvmMakeRequest } from "../requests.ts";
import { kvmReadCr0, vmxSetCr0, vmxSetCr4 } from "./control-registers.ts";
import { EXIT_REASON_ENTRY_FAILED } from "./enter-exit.ts";

type ExitHandler = (vcpu: Ptr<"kvm_vcpu">, vmx: VcpuVmx) => number;

/** KVM_EXIT_INTERNAL_ERROR with up to three values (kernel: `kvm_prepare_emulation_failure_exit()` and its kin). @returns 0 */
function internalError(view: KvmVcpu, suberror: number, data: readonly number[]): 0 {
  const { run } = view;
  setRun(run, KVM_RUN_OFFSET.exit_reason, 4, KVM_EXIT.INTERNAL_ERROR);
  setRun(run, KVM_RUN_OFFSET.internal_suberror, 4, suberror);
  setRun(run, KVM_RUN_OFFSET.internal_ndata, 4, data.length);
  for (const [i, value] of data.entries()) cpu.storeWord(addVirt(run, KVM_RUN_OFFSET.internal_data + 8 * i), value);
  return 0;
}

function exitToMonitor(view: KvmVcpu, reason: number): 0 {
  setRun(view.run, KVM_RUN_OFFSET.exit_reason, 4, reason);
  return 0;
}

const goOn: ExitHandler = () => 1;

/** An instruction that guests do not have (kernel: `handle_vmx_instruction()` and others). */
const injectUd: ExitHandler = (vcpu) => {
  kvmInjectUd(vcpu);
  return 1;
};

const injectGp: ExitHandler = (vcpu) => {
  kvmInjectGp(vcpu);
  return 1;
};

/** An instruction that does nothing here (kernel: `kvm_emulate_wbinvd()`, `kvm_emulate_monitor()`). */
const skip: ExitHandler = (vcpu) => kvmSkipEmulatedInstruction(vcpu);

/** Kernel: `is_machine_check()`. */
export function isMachineCheckExit(vmx: VcpuVmx): boolean {
  return vmx.exitReason === EXIT_REASON.EXCEPTION_NMI && (vmx.exitIntrInfo & (INTR_INFO_TYPE_MASK | 0xff)) === MACHINE_CHECK_INFO;
}
const MACHINE_CHECK_INFO = INTR_TYPE_HARD_EXCEPTION | VECTOR_MC;

/** Kernel: `handle_exception_nmi()`. An NMI or a machine check was handled right after the exit: the guest does not learn of it. */
const handleExceptionNmi: ExitHandler = (vcpu, vmx) => {
  const info = vmx.exitIntrInfo;
  if ((info & INTR_INFO_TYPE_MASK) === INTR_TYPE_NMI_INTR || isMachineCheckExit(vmx)) return 1;
  const vector = info & 0xff;
  // The intercepted ones: #UD has nothing to emulate, #AC is the guest's own.
  if (vector === VECTOR_UD) kvmInjectUd(vcpu);
  else if ((info & INTR_INFO_DELIVER_CODE_MASK) !== 0) kvmQueueExceptionE(vcpu, vector, cpu.vmread(VMCS.VM_EXIT_INTR_ERROR_CODE));
  else kvmQueueException(vcpu, vector);
  return 1;
};

/** Kernel: `handle_triple_fault()`. */
const handleTripleFault: ExitHandler = (_vcpu, vmx) => exitToMonitor(vmx.vcpu, KVM_EXIT.SHUTDOWN);

/** Without an APIC in the kernel the monitor waits for what may wake the guest (kernel: `kvm_emulate_halt()`). */
const handleHalt: ExitHandler = (vcpu, vmx) => {
  kvmSkipEmulatedInstruction(vcpu);
  return exitToMonitor(vmx.vcpu, KVM_EXIT.HLT);
};

const handleIoExit: ExitHandler = (vcpu, vmx) => {
  if (handleIo(vcpu) === 0) return 0;
  return internalError(vmx.vcpu, KVM_INTERNAL_ERROR_EMULATION, [EXIT_REASON.IO_INSTRUCTION, cpu.vmread(VMCS.EXIT_QUALIFICATION)]);
};

/** Kernel: `handle_ept_violation()`. */
const handleEptViolation: ExitHandler = (_vcpu, vmx) => {
  const qualification = cpu.vmread(VMCS.EXIT_QUALIFICATION);
  // An IRET that unblocked NMIs before it faulted is executed again.
  const info = vmx.idtVectoringInfo;
  if ((info & INTR_INFO_VALID_MASK) === 0 && (qualification & NMI_UNBLOCKING_DUE_TO_IRET) !== 0)
    cpu.vmwrite(VMCS.GUEST_INTERRUPTIBILITY_INFO, cpu.vmread(VMCS.GUEST_INTERRUPTIBILITY_INFO) | GUEST_INTR_STATE_NMI, 0);
  const gpa = vmreadWord(VMCS.GUEST_PHYSICAL_ADDRESS);
  const isWrite = (qualification & EPT_VIOLATION_ACC_WRITE) !== 0;
  // The fault is handled with much memory: L1D is due for a flush.
  vmx.vcpu.l1tfFlushL1d = true;
  const result = kvmTdpPageFault(vmx.vcpu.kvm, gpa, isWrite);
  if (result === FAULT_MAPPED) return 1;
  // A device access: it would have to be decoded, which this hypervisor does not.
  if (result === FAULT_NO_SLOT || result === FAULT_READONLY)
    return internalError(vmx.vcpu, KVM_INTERNAL_ERROR_EMULATION, [EXIT_REASON.EPT_VIOLATION, qualification, gpa]);
  return result;
};
/** Qualification bit 12 of an EPT violation. SDM vol. 3, table 29-7. */
const NMI_UNBLOCKING_DUE_TO_IRET = 1 << 12;

const handleEptMisconfig: ExitHandler = (_vcpu, vmx) =>
  internalError(vmx.vcpu, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, [EXIT_REASON.EPT_MISCONFIG, vmreadWord(VMCS.GUEST_PHYSICAL_ADDRESS)]);

// Qualification of a control-register access. SDM vol. 3, table 29-3.
const CR_TYPE_MOV_TO = 0;
const CR_TYPE_MOV_FROM = 1;
const CR_TYPE_CLTS = 2;
const CR_TYPE_LMSW = 3;
const LMSW_BITS = 0xf;
const CR4_PCIDE = 1 << 17;

/** Kernel: `handle_cr()`. */
const handleCr: ExitHandler = (vcpu, vmx) => {
  const qualification = cpu.vmread(VMCS.EXIT_QUALIFICATION);
  const register = qualification & 15;
  const gpr = (qualification >>> 8) & 15;
  switch ((qualification >>> 4) & 3) {
    case CR_TYPE_MOV_TO:
      return moveToCr(vcpu, vmx, register, gpr);
    case CR_TYPE_MOV_FROM:
      // Only CR8 reads exit; the task priority is the monitor's.
      kvmRegisterWrite(vcpu, gpr, cpu.load(addVirt(vmx.vcpu.run, KVM_RUN_OFFSET.cr8), 1), 0);
      return kvmSkipEmulatedInstruction(vcpu);
    case CR_TYPE_CLTS:
      vmxSetCr0(vcpu, (kvmReadCr0(vcpu) & ~CR0_TS) >>> 0);
      return kvmSkipEmulatedInstruction(vcpu);
    case CR_TYPE_LMSW: {
      const old = kvmReadCr0(vcpu);
      // LMSW cannot clear PE.
      const value = ((old & ~(LMSW_BITS & ~CR0_PE)) | ((qualification >>> 16) & LMSW_BITS)) >>> 0;
      vmxSetCr0(vcpu, value);
      return kvmSkipEmulatedInstruction(vcpu);
    }
    default:
      return 1;
  }
};

function moveToCr(vcpu: Ptr<"kvm_vcpu">, vmx: VcpuVmx, register: number, gpr: number): number {
  const low = kvmRegisterRead(vcpu, gpr);
  const { high } = cpu;
  if (high !== 0) return injectGp(vcpu, vmx);
  // What the bits mean for translations has changed.
  kvmMakeRequest(KVM_REQ_TLB_FLUSH, vcpu);
  if (register === 0) {
    if ((low & CR0_PG) !== 0 && (low & CR0_PE) === 0) return injectGp(vcpu, vmx);
    vmxSetCr0(vcpu, low);
  } else if (register === 4) {
    // Long mode needs PAE; PCIDs are not offered.
    if ((low & CR4_PAE) === 0 || (low & CR4_PCIDE) !== 0) return injectGp(vcpu, vmx);
    vmxSetCr4(vcpu, low);
  } else if (register === 8) {
    if ((low & ~15) !== 0) return injectGp(vcpu, vmx);
    cpu.store64(addVirt(vmx.vcpu.run, KVM_RUN_OFFSET.cr8), low, 0);
  }
  return kvmSkipEmulatedInstruction(vcpu);
}

/** The guest can take an interrupt now; nobody here waits to inject one (kernel: `handle_interrupt_window()`). */
function closeWindow(bit: number): ExitHandler {
  return () => {
    cpu.vmwrite(VMCS.CPU_BASED_VM_EXEC_CONTROL, (cpu.vmread(VMCS.CPU_BASED_VM_EXEC_CONTROL) & ~bit) >>> 0, 0);
    return 1;
  };
}

const HANDLERS: ReadonlyMap<number, ExitHandler> = new Map<number, ExitHandler>([
  [EXIT_REASON.EXCEPTION_NMI, handleExceptionNmi],
  [EXIT_REASON.EXTERNAL_INTERRUPT, goOn],
  [EXIT_REASON.TRIPLE_FAULT, handleTripleFault],
  [EXIT_REASON.INTERRUPT_WINDOW, closeWindow(CPU_BASED_INTR_WINDOW_EXITING)],
  [EXIT_REASON.NMI_WINDOW, closeWindow(CPU_BASED_NMI_WINDOW_EXITING)],
  [EXIT_REASON.CPUID, (vcpu) => kvmEmulateCpuid(vcpu)],
  [EXIT_REASON.HLT, handleHalt],
  [EXIT_REASON.INVD, skip],
  [EXIT_REASON.RDPMC, injectGp],
  [EXIT_REASON.VMCALL, (vcpu) => kvmEmulateHypercall(vcpu)],
  ...[
    EXIT_REASON.VMCLEAR,
    EXIT_REASON.VMLAUNCH,
    EXIT_REASON.VMPTRLD,
    EXIT_REASON.VMPTRST,
    EXIT_REASON.VMREAD,
    EXIT_REASON.VMRESUME,
    EXIT_REASON.VMWRITE,
    EXIT_REASON.VMOFF,
    EXIT_REASON.VMON,
    EXIT_REASON.INVEPT,
    EXIT_REASON.INVVPID,
    EXIT_REASON.XSETBV,
  ].map((reason): readonly [number, ExitHandler] => [reason, injectUd]),
  [EXIT_REASON.CR_ACCESS, handleCr],
  [EXIT_REASON.IO_INSTRUCTION, handleIoExit],
  [EXIT_REASON.MSR_READ, (vcpu) => kvmEmulateRdmsr(vcpu)],
  [EXIT_REASON.MSR_WRITE, (vcpu) => kvmEmulateWrmsr(vcpu)],
  [EXIT_REASON.MWAIT_INSTRUCTION, skip],
  [EXIT_REASON.MONITOR_INSTRUCTION, skip],
  [EXIT_REASON.PAUSE_INSTRUCTION, skip],
  [EXIT_REASON.EPT_VIOLATION, handleEptViolation],
  [EXIT_REASON.EPT_MISCONFIG, handleEptMisconfig],
  [EXIT_REASON.WBINVD, skip],
]);

/** Exits that may cut an event's delivery short (kernel: in `__vmx_handle_exit()`). */
const MAY_INTERRUPT_DELIVERY: ReadonlySet<number> = new Set([
  EXIT_REASON.EXCEPTION_NMI,
  EXIT_REASON.EXTERNAL_INTERRUPT,
  EXIT_REASON.EPT_VIOLATION,
  EXIT_REASON.TASK_SWITCH,
  EXIT_REASON.TRIPLE_FAULT,
]);

function failEntry(view: KvmVcpu, reason: number): 0 {
  const { run } = view;
  setRun(run, KVM_RUN_OFFSET.exit_reason, 4, KVM_EXIT.FAIL_ENTRY);
  cpu.storeWord(addVirt(run, KVM_RUN_OFFSET.hardware_entry_failure_reason), reason);
  setRun(run, KVM_RUN_OFFSET.fail_entry_cpu, 4, cpu.id);
  return 0;
}

/** Kernel: `__vmx_handle_exit()`. */
export function vmxHandleExit(vcpu: Ptr<"kvm_vcpu">, vmx: VcpuVmx): number {
  const { exitReason } = vmx;
  if (exitReason === EXIT_REASON_ENTRY_FAILED) return failEntry(vmx.vcpu, cpu.vmread(VMCS.VM_INSTRUCTION_ERROR));
  if ((exitReason & VMX_EXIT_REASONS_FAILED_VMENTRY) !== 0) return failEntry(vmx.vcpu, exitReason);
  const info = vmx.idtVectoringInfo;
  if ((info & INTR_INFO_VALID_MASK) !== 0 && !MAY_INTERRUPT_DELIVERY.has(exitReason))
    return internalError(vmx.vcpu, KVM_INTERNAL_ERROR_DELIVERY_EV, [info, exitReason, vmreadWord(VMCS.EXIT_QUALIFICATION)]);
  const handler = HANDLERS.get(exitReason & 0xffff);
  if (handler !== undefined) return handler(vcpu, vmx);
  return internalError(vmx.vcpu, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, [exitReason, vmreadWord(VMCS.EXIT_QUALIFICATION)]);
}
