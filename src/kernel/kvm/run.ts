// KVM_RUN: the loop that enters the guest, handles what made it exit, and goes on until the monitor is wanted. The top of the loop is a
// cut point: a path that is suspended there or in the guest goes on from vcpuRun() and ends the system call as if it had never left.
import { EINTR, type Errno, KVM_EXIT, KVM_RUN_OFFSET } from "../../abi/index.ts";
import { addVirt, count, cpu, type Ptr, RFLAGS_IF } from "../../hardware/index.ts";
import { exitAfterRun } from "../asi/asi-options.ts";
import { asiExit } from "../asi/asi-transition.ts";
import { siblingsWait } from "../asi/sibling-wait.ts";
import { siblingsApart, siblingsMustWait } from "../asi/siblings.ts";
import { syscallExit } from "../entry/syscall.ts";
import { tryToFreeze } from "../power/freezer.ts";
import { current } from "../sched/current.ts";
import { mutexUnlock } from "../sched/mutex.ts";
import { schedule } from "../sched/schedule.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { EXIT_VCPU_RUN } from "../trace.ts";
import { kvmCheckAndInjectEvents, vmxCancelInjection } from "./events.ts";
import { KVM_EXIT_FOOTPRINT_BYTES, kvmExitFootprint } from "./footprint.ts";
import { completeUserspaceIo, setRun } from "./io.ts";
import {
  IN_GUEST_MODE,
  KVM_REQ_TLB_FLUSH,
  KVM_REQ_TRIPLE_FAULT,
  Kvm,
  KvmVcpu,
  kvmRunningVcpu,
  OUTSIDE_GUEST_MODE,
  type VcpuVmx,
} from "./kvm-struct.ts";
import { getRflags } from "./regs.ts";
import { kvmClearRequest } from "./requests.ts";
import { toVmx, vcpuPut } from "./vcpu-load.ts";
import { vmxHandleExit } from "./vmx/exits.ts";
import { vmxPrepareSwitchToGuest } from "./vmx/host-state-switch.ts";
import { vmxFlushTlb, vmxHandleExitIrqoff, vmxVcpuRun } from "./vmx/vcpu-run.ts";

/** Requests that must be served before the guest is entered. @returns 1 to go on, 0 to ask the monitor. */
function serveRequests(vcpu: Ptr<"kvm_vcpu">, view: KvmVcpu, vmx: VcpuVmx, requests: number): 0 | 1 {
  if ((requests & KVM_REQ_TLB_FLUSH) !== 0) {
    kvmClearRequest(KVM_REQ_TLB_FLUSH, vcpu);
    vmxFlushTlb(vmx);
  }
  if ((requests & KVM_REQ_TRIPLE_FAULT) !== 0) {
    kvmClearRequest(KVM_REQ_TRIPLE_FAULT, vcpu);
    setRun(view.run, KVM_RUN_OFFSET.exit_reason, 4, KVM_EXIT.SHUTDOWN);
    return 0;
  }
  return 1;
}

/** Kernel: `xfer_to_guest_mode_work_pending()`. */
function isWorkPending(): boolean {
  const task = TaskStruct.at(current());
  return task.needResched !== 0 || task.pendingSignal !== 0;
}

/** Something came up since requests were looked at (kernel: `kvm_vcpu_exit_request()`). Interrupts off. */
function isEntryCalledOff(view: KvmVcpu): boolean {
  return view.requests !== 0 || isWorkPending();
}

/** Kernel: `vcpu_enter_guest()`. @returns 1 to go on, 0 to ask the monitor, or an error. */
function vcpuEnterGuest(vcpu: Ptr<"kvm_vcpu">): number {
  const vmx = toVmx(vcpu);
  const view = vmx.vcpu;
  const { requests } = view;
  if (requests !== 0 && serveRequests(vcpu, view, vmx, requests) === 0) return 0;
  kvmCheckAndInjectEvents(view);
  vmxPrepareSwitchToGuest(vcpu, vmx);

  // From here to the entry nothing may come between: who sets a request now sees IN_GUEST_MODE and sends an interrupt, which is held
  // until the guest has been entered, and forces an exit.
  cpu.disableInterrupts();
  view.mode = IN_GUEST_MODE;
  if (isEntryCalledOff(view)) {
    view.mode = OUTSIDE_GUEST_MODE;
    cpu.enableInterrupts();
    vmxCancelInjection();
    return 1;
  }
  vmxVcpuRun(vcpu, vmx);
  view.mode = OUTSIDE_GUEST_MODE;
  vmxHandleExitIrqoff(vmx);
  count(addVirt(view.address, KvmVcpu.offset.exits));
  cpu.enableInterrupts();

  cpu.touch(kvmExitFootprint, KVM_EXIT_FOOTPRINT_BYTES);
  return vmxHandleExit(vcpu, vmx);
}

/** Kernel: `xfer_to_guest_mode_handle_work()`. @returns 0; EINTR: a signal waits, which the return to user mode delivers. */
function xferToGuestModeHandleWork(): 0 | Errno {
  for (;;) {
    const task = TaskStruct.at(current());
    if (task.pendingSignal !== 0) {
      setRun(KvmVcpu.at(kvmRunningVcpu.get()).run, KVM_RUN_OFFSET.exit_reason, 4, KVM_EXIT.INTR);
      return EINTR;
    }
    if (task.needResched === 0) return 0;
    tryToFreeze();
    schedule();
  }
}

/** Option core_sched: until the guest may run beside the sibling, or something else is to be done first. */
function waitForSibling(vcpu: KvmVcpu): void {
  const domain = Kvm.at(vcpu.kvm).asi;
  cpu.disableInterrupts();
  if (siblingsMustWait(domain)) siblingsWait(domain, () => isEntryCalledOff(vcpu));
  cpu.enableInterrupts();
}

/** Kernel: `vcpu_run()`, on the vCPU that is loaded on this CPU. */
function vcpuRun(): number {
  for (;;) {
    cpu.cutPoint(kvmRunResume);
    if (siblingsApart.isEnabled()) waitForSibling(KvmVcpu.at(kvmRunningVcpu.get()));
    const result = vcpuEnterGuest(kvmRunningVcpu.get());
    if (result <= 0) return result;
    if (isWorkPending() && xferToGuestModeHandleWork() !== 0) return EINTR;
  }
}

/** What the monitor may look at after every exit (kernel: `post_kvm_run_save()`). */
function postKvmRunSave(vcpu: Ptr<"kvm_vcpu">): void {
  const isInterruptible = (getRflags(vcpu) & RFLAGS_IF) !== 0;
  setRun(KvmVcpu.at(vcpu).run, KVM_RUN_OFFSET.if_flag, 1, isInterruptible ? 1 : 0);
}

/** The end of KVM_RUN behind the loop (kernel: the end of `kvm_arch_vcpu_ioctl_run()` and of `kvm_vcpu_ioctl()`). */
function finishRun(result: number): number {
  const vcpu = kvmRunningVcpu.get();
  // As posted there is no way from the restricted address space straight to user mode: go to the unrestricted one in between. Without it
  // the return to user mode goes from domain to domain, and pays for the guest's training there.
  if (exitAfterRun.key.isEnabled()) asiExit(EXIT_VCPU_RUN);
  postKvmRunSave(vcpu);
  vcpuPut(vcpu);
  mutexUnlock(addVirt(vcpu, KvmVcpu.offset.mutex));
  return result;
}

/** What a suspended KVM_RUN goes on with: the loop, the end of the ioctl, the end of the system call. */
function kvmRunResume(): void {
  syscallExit(finishRun(vcpuRun()));
}

/**
 * Kernel: `kvm_arch_vcpu_ioctl_run()`. The vCPU is loaded and its mutex held; both are given back, also on errors. Nothing of the
 * caller may be a step after this returns (the resumed path would not take it).
 */
export function kvmArchVcpuIoctlRun(vcpu: Ptr<"kvm_vcpu">): number {
  const view = KvmVcpu.at(vcpu);
  const { run } = view;
  if (cpu.load(addVirt(run, KVM_RUN_OFFSET.immediate_exit), 1) !== 0) {
    setRun(run, KVM_RUN_OFFSET.exit_reason, 4, KVM_EXIT.INTR);
    vcpuPut(vcpu);
    mutexUnlock(addVirt(vcpu, KvmVcpu.offset.mutex));
    return EINTR;
  }
  completeUserspaceIo(vcpu);
  setRun(run, KVM_RUN_OFFSET.exit_reason, 4, KVM_EXIT.UNKNOWN);
  return finishRun(vcpuRun());
}
