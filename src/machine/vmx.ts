// VMX operation of a logical CPU (SDM vol. 3, 24 to 31): the VMX instructions, VM entry with its checks and event injection, VM exit.
// State between instructions is in memory (the VMCS) and in three words here.
import {
  CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
  CPU_BASED_INTR_WINDOW_EXITING,
  CPU_BASED_NMI_WINDOW_EXITING,
  CPU_BASED_USE_TSC_OFFSETTING,
  type CpuModel,
  EXIT_REASON,
  INTR_INFO_DELIVER_CODE_MASK,
  INTR_INFO_VALID_MASK,
  isReadOnlyField,
  PAGE_SIZE,
  type PhysicalMemory,
  physAddr,
  SECONDARY_EXEC_ENABLE_EPT,
  SECONDARY_EXEC_ENABLE_VPID,
  VMCS,
  VMX_EXIT_REASONS_FAILED_VMENTRY,
  VMX_FAIL_INVALID,
  VMX_FAIL_VALID,
  VMX_SUCCEED,
  VMXERR_ENTRY_INVALID_CONTROL_FIELD,
  VMXERR_ENTRY_INVALID_HOST_STATE_FIELD,
  VMXERR_UNSUPPORTED_VMCS_COMPONENT,
  VMXERR_VMCLEAR_INVALID_ADDRESS,
  VMXERR_VMLAUNCH_NONCLEAR_VMCS,
  VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID,
  VMXERR_VMPTRLD_INVALID_ADDRESS,
  VMXERR_VMRESUME_NONLAUNCHED_VMCS,
  VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT,
} from "../hardware/index.ts";
import {
  controlFault,
  guestStateFault,
  hasVmcsField,
  hostStateFault,
  LINK_POINTER_FAULT,
  VMCS_REVISION,
  VmcsRegion,
} from "../platform/index.ts";
import {
  CPU_CR0_MASK,
  CPU_CR0_SHADOW,
  CPU_CR4_MASK,
  CPU_CR4_SHADOW,
  CPU_DELIVERING,
  CPU_DELIVERING_ERROR,
  CPU_DELIVERING_HAS_ERROR,
  CPU_DELIVERING_TYPE,
  CPU_DELIVERING_VECTOR,
  CPU_EPTP,
  CPU_EXCEPTION_BITMAP,
  CPU_GUEST_MODE,
  CPU_HALTED,
  CPU_INTERCEPTS,
  CPU_NMI_BLOCKED,
  CPU_PF_ERROR_MASK,
  CPU_PF_ERROR_MATCH,
  CPU_TSC_OFFSET,
  CPU_VPID,
} from "./core/layout.gen.ts";
import { interceptsOf } from "./vmx-intercepts.ts";
import { loadGuestState, loadHostState, saveGuestState, type WorldSwitchHost } from "./vmx-state.ts";

export interface VmxHost extends WorldSwitchHost {
  readonly memory: PhysicalMemory;
  readonly physicalBits: number;
  readonly model: CpuModel;
  /** Time passes. */
  charge(cycles: number): void;
  /** CR3, CR4, EFER, EPT pointer, VPID or guest mode changed. */
  contextChanged(): void;
  /** A transition without VPID: everything cached for VPID 0 goes. */
  flushUntagged(): void;
  /** Delivers an injected event in the guest; what goes wrong is an exit. */
  inject(vector: number, type: number, errorCode: number, instructionLength: number): void;
  /** An MSR of a VMCS list: low half, or -1: it faults; high half in `listedHigh`. */
  readListedMsr(msr: number): number;
  readonly listedHigh: number;
  writeListedMsr(msr: number, low: number, high: number): boolean;
  /** All checks have passed; the guest runs next. */
  beforeGuestEntry(): void;
  /** Why an entry failed, for the run's log. */
  entryFailed(reason: string): void;
}

/** No current VMCS. */
const NO_VMCS = -1;
/** Exit qualification of a failed entry: VMCS link pointer. SDM vol. 3, 28.8. */
const QUALIFICATION_LINK_POINTER = 4;

export interface VmxState {
  readonly isOn: boolean;
  readonly region: number;
  readonly current: number;
}

export class Vmx {
  private readonly host: VmxHost;
  /** High halves of physical addresses are below this. */
  private readonly highLimit: number;
  private isOn = false;
  private vmxonRegion = NO_VMCS;
  private current: VmcsRegion | null = null;
  /** VMCS objects by address: views only, dropped with the machine. */
  private readonly regions = new Map<number, VmcsRegion>();
  /** VMCS whose control and host-state checks passed, and have not been written since. */
  private checked: VmcsRegion | null = null;
  /** Number of VM exits so far. */
  exits = 0;

  constructor(host: VmxHost) {
    this.host = host;
    this.highLimit = 2 ** (host.physicalBits - 32);
  }

  save(): VmxState {
    return { isOn: this.isOn, region: this.vmxonRegion, current: this.current?.base ?? NO_VMCS };
  }

  restore(state: VmxState): void {
    this.isOn = state.isOn;
    this.vmxonRegion = state.region;
    this.current = state.current === NO_VMCS ? null : this.region(state.current);
    this.checked = null;
  }

  /** Out of VMX operation, as after a reset. */
  reset(): void {
    this.vmxoff();
    this.regions.clear();
  }

  get isInOperation(): boolean {
    return this.isOn;
  }

  /** The current VMCS, if there is one. */
  get vmcs(): VmcsRegion | null {
    return this.current;
  }

  // ---------------------------------------------------------------- instructions (SDM vol. 3, 32.3)

  vmxon(address: number): number {
    if (this.isOn) return this.fail(15); // VMXON executed in VMX root operation
    if (!this.isRegion(address) || this.region(address).revision !== VMCS_REVISION) return VMX_FAIL_INVALID;
    this.isOn = true;
    this.vmxonRegion = address;
    this.current = null;
    return VMX_SUCCEED;
  }

  vmxoff(): number {
    this.isOn = false;
    this.vmxonRegion = NO_VMCS;
    this.current = null;
    this.checked = null;
    return VMX_SUCCEED;
  }

  vmclear(address: number): number {
    if (!this.isRegion(address) || address === this.vmxonRegion) return this.fail(VMXERR_VMCLEAR_INVALID_ADDRESS);
    const region = this.region(address);
    region.isLaunched = false;
    if (this.current === region) this.current = null;
    if (this.checked === region) this.checked = null;
    return VMX_SUCCEED;
  }

  vmptrld(address: number): number {
    if (!this.isRegion(address) || address === this.vmxonRegion) return this.fail(VMXERR_VMPTRLD_INVALID_ADDRESS);
    const region = this.region(address);
    if (region.revision !== VMCS_REVISION) return this.fail(VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID);
    if (this.current !== region) this.checked = null;
    this.current = region;
    return VMX_SUCCEED;
  }

  /** VMREAD. The value is in the region's `read()`; here only the check. @returns VMX_* */
  vmreadStatus(field: number): number {
    if (this.current === null) return VMX_FAIL_INVALID;
    return hasVmcsField(field) ? VMX_SUCCEED : this.fail(VMXERR_UNSUPPORTED_VMCS_COMPONENT);
  }

  vmwrite(field: number, low: number, high: number): number {
    const { current } = this;
    if (current === null) return VMX_FAIL_INVALID;
    if (!hasVmcsField(field)) return this.fail(VMXERR_UNSUPPORTED_VMCS_COMPONENT);
    if (isReadOnlyField(field)) return this.fail(VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT);
    // Guest state (type 2) is checked at every entry; the rest once per change. HOST_RSP has no check, and HOST_CR3, which changes
    // with every address space, only that it fits the physical addresses.
    const isChecked = ((field >> 10) & 3) === 2 || field === VMCS.HOST_RSP || (field === VMCS.HOST_CR3 && high < this.highLimit);
    if (!isChecked) this.checked = null;
    current.write(field, low, high);
    return VMX_SUCCEED;
  }

  // ---------------------------------------------------------------- VM entry

  /** VMLAUNCH or VMRESUME. @returns VMX_* ; on VMX_SUCCEED the CPU runs the guest, or the entry failed and a VM exit has happened. */
  enter(isLaunch: boolean): number {
    const { current, host } = this;
    if (current === null) return VMX_FAIL_INVALID;
    if (isLaunch === current.isLaunched) return this.fail(isLaunch ? VMXERR_VMLAUNCH_NONCLEAR_VMCS : VMXERR_VMRESUME_NONLAUNCHED_VMCS);
    if (this.checked !== current) {
      const badControl = controlFault(current, host.physicalBits);
      if (badControl !== undefined) return this.fail(VMXERR_ENTRY_INVALID_CONTROL_FIELD, badControl);
      const badHost = hostStateFault(current, host.physicalBits);
      if (badHost !== undefined) return this.fail(VMXERR_ENTRY_INVALID_HOST_STATE_FIELD, badHost);
      this.checked = current;
    }
    const badGuest = guestStateFault(current, host.physicalBits);
    if (badGuest !== undefined) {
      host.entryFailed(badGuest);
      const qualification = badGuest === LINK_POINTER_FAULT ? QUALIFICATION_LINK_POINTER : 0;
      return this.failAfterChecks(current, EXIT_REASON.INVALID_STATE, qualification);
    }
    if (isLaunch) current.isLaunched = true;
    host.charge(host.model.cost.vmEntry.value);
    host.beforeGuestEntry();
    loadGuestState(host, current);
    this.loadGuestControls(current);
    const badMsr = this.loadMsrs(VMCS.VM_ENTRY_MSR_LOAD_ADDR, VMCS.VM_ENTRY_MSR_LOAD_COUNT);
    if (badMsr > 0) return this.failAfterChecks(current, EXIT_REASON.MSR_LOAD_FAIL, badMsr);
    this.injectEvent(current);
    return VMX_SUCCEED;
  }

  /** Bit of the exit reasons: an entry that failed late leaves the guest state as it was and loads the host state. */
  private failAfterChecks(current: VmcsRegion, reason: number, qualification: number): number {
    current.set(VMCS.VM_EXIT_REASON, (VMX_EXIT_REASONS_FAILED_VMENTRY | reason) >>> 0, 0);
    current.set(VMCS.EXIT_QUALIFICATION, qualification, 0);
    this.leaveGuestMode(current);
    return VMX_SUCCEED;
  }

  private loadGuestControls(vmcs: VmcsRegion): void {
    const { fields } = this.host;
    const primary = vmcs.low(VMCS.CPU_BASED_VM_EXEC_CONTROL);
    const secondary = (primary & CPU_BASED_ACTIVATE_SECONDARY_CONTROLS) !== 0 ? vmcs.low(VMCS.SECONDARY_VM_EXEC_CONTROL) : 0;
    fields.setLow(CPU_GUEST_MODE, 1);
    if ((secondary & SECONDARY_EXEC_ENABLE_EPT) !== 0) fields.set(CPU_EPTP, vmcs.low(VMCS.EPT_POINTER), vmcs.high(VMCS.EPT_POINTER));
    else fields.set(CPU_EPTP, 0, 0);
    const hasVpid = (secondary & SECONDARY_EXEC_ENABLE_VPID) !== 0;
    fields.setLow(CPU_VPID, hasVpid ? vmcs.low(VMCS.VIRTUAL_PROCESSOR_ID) : 0);
    fields.setLow(CPU_EXCEPTION_BITMAP, vmcs.low(VMCS.EXCEPTION_BITMAP));
    fields.setLow(CPU_PF_ERROR_MASK, vmcs.low(VMCS.PAGE_FAULT_ERROR_CODE_MASK));
    fields.setLow(CPU_PF_ERROR_MATCH, vmcs.low(VMCS.PAGE_FAULT_ERROR_CODE_MATCH));
    fields.setLow(CPU_INTERCEPTS, interceptsOf(primary, secondary));
    fields.set(CPU_CR0_MASK, vmcs.low(VMCS.CR0_GUEST_HOST_MASK), vmcs.high(VMCS.CR0_GUEST_HOST_MASK));
    fields.set(CPU_CR0_SHADOW, vmcs.low(VMCS.CR0_READ_SHADOW), vmcs.high(VMCS.CR0_READ_SHADOW));
    fields.set(CPU_CR4_MASK, vmcs.low(VMCS.CR4_GUEST_HOST_MASK), vmcs.high(VMCS.CR4_GUEST_HOST_MASK));
    fields.set(CPU_CR4_SHADOW, vmcs.low(VMCS.CR4_READ_SHADOW), vmcs.high(VMCS.CR4_READ_SHADOW));
    if ((primary & CPU_BASED_USE_TSC_OFFSETTING) !== 0) fields.set(CPU_TSC_OFFSET, vmcs.low(VMCS.TSC_OFFSET), vmcs.high(VMCS.TSC_OFFSET));
    this.host.contextChanged();
    if (!hasVpid) this.host.flushUntagged();
  }

  private injectEvent(vmcs: VmcsRegion): void {
    const info = vmcs.low(VMCS.VM_ENTRY_INTR_INFO_FIELD);
    if ((info & INTR_INFO_VALID_MASK) === 0) return;
    // An event wakes a halted guest.
    this.host.fields.setLow(CPU_HALTED, 0);
    const errorCode = (info & INTR_INFO_DELIVER_CODE_MASK) !== 0 ? vmcs.low(VMCS.VM_ENTRY_EXCEPTION_ERROR_CODE) : -1;
    this.host.inject(info & 0xff, (info >> 8) & 7, errorCode, vmcs.low(VMCS.VM_ENTRY_INSTRUCTION_LEN));
  }

  // ---------------------------------------------------------------- VM exit

  /**
   * Leaves the guest: records why, saves the guest's state, loads the host's. Before it the caller writes what belongs to the reason
   * (interruption information, addresses). SDM vol. 3, 29. hot: bench/exits
   */
  exit(reason: number, qualificationLow: number, qualificationHigh: number, instructionLength: number): void {
    const vmcs = this.current;
    if (vmcs === null) return;
    this.exits++;
    this.host.charge(this.host.model.cost.vmExit.value);
    vmcs.set(VMCS.VM_EXIT_REASON, reason, 0);
    vmcs.set(VMCS.EXIT_QUALIFICATION, qualificationLow, qualificationHigh);
    vmcs.set(VMCS.VM_EXIT_INSTRUCTION_LEN, instructionLength, 0);
    this.recordVectoring(vmcs);
    saveGuestState(this.host, vmcs);
    // SDM vol. 3, 29.2: the valid bit of the entry's event is cleared by every VM exit.
    vmcs.set(VMCS.VM_ENTRY_INTR_INFO_FIELD, vmcs.low(VMCS.VM_ENTRY_INTR_INFO_FIELD) & ~INTR_INFO_VALID_MASK, 0);
    this.storeMsrs(VMCS.VM_EXIT_MSR_STORE_ADDR, VMCS.VM_EXIT_MSR_STORE_COUNT);
    this.leaveGuestMode(vmcs);
  }

  /** Interruption information of an exit due to an exception, an NMI, or an acknowledged interrupt; `errorCode` -1: none. */
  setInterruption(vector: number, type: number, errorCode: number): void {
    const { current } = this;
    if (current === null) return;
    const code = errorCode >= 0 ? INTR_INFO_DELIVER_CODE_MASK : 0;
    current.set(VMCS.VM_EXIT_INTR_INFO, (INTR_INFO_VALID_MASK | type | vector | code) >>> 0, 0);
    current.set(VMCS.VM_EXIT_INTR_ERROR_CODE, Math.max(errorCode, 0), 0);
  }

  clearInterruption(): void {
    this.current?.set(VMCS.VM_EXIT_INTR_INFO, 0, 0);
  }

  private leaveGuestMode(vmcs: VmcsRegion): void {
    const { fields } = this.host;
    const hadVpid = fields.low(CPU_VPID) !== 0;
    fields.setLow(CPU_GUEST_MODE, 0);
    fields.setLow(CPU_VPID, 0);
    fields.set(CPU_EPTP, 0, 0);
    fields.set(CPU_TSC_OFFSET, 0, 0);
    fields.set(CPU_CR0_MASK, 0, 0);
    fields.set(CPU_CR4_MASK, 0, 0);
    fields.setLow(CPU_NMI_BLOCKED, 0);
    loadHostState(this.host, vmcs);
    this.host.contextChanged();
    if (!hadVpid) this.host.flushUntagged();
    this.loadMsrs(VMCS.VM_EXIT_MSR_LOAD_ADDR, VMCS.VM_EXIT_MSR_LOAD_COUNT);
  }

  /** IDT-vectoring information: the event whose delivery the exit interrupted. SDM vol. 3, 29.2.4. */
  private recordVectoring(vmcs: VmcsRegion): void {
    const { fields } = this.host;
    if (fields.low(CPU_DELIVERING) === 0) {
      vmcs.set(VMCS.IDT_VECTORING_INFO_FIELD, 0, 0);
      return;
    }
    fields.setLow(CPU_DELIVERING, 0);
    const hasError = fields.low(CPU_DELIVERING_HAS_ERROR) !== 0;
    const info = INTR_INFO_VALID_MASK | (fields.low(CPU_DELIVERING_TYPE) << 8) | fields.low(CPU_DELIVERING_VECTOR);
    vmcs.set(VMCS.IDT_VECTORING_INFO_FIELD, (info | (hasError ? INTR_INFO_DELIVER_CODE_MASK : 0)) >>> 0, 0);
    if (hasError) vmcs.set(VMCS.IDT_VECTORING_ERROR_CODE, fields.low(CPU_DELIVERING_ERROR), 0);
  }

  // ---------------------------------------------------------------- MSR lists (SDM vol. 3, 26.7.2, 26.8.2)

  /** Loads a list. @returns 0, or the number (from 1) of the entry that faulted. */
  private loadMsrs(addressField: number, countField: number): number {
    const vmcs = this.current;
    const count = vmcs?.low(countField) ?? 0;
    if (vmcs === null || count === 0) return 0;
    const { memory } = this.host;
    for (let i = 0; i < count; i++) {
      const at = vmcs.physical(addressField) + 16 * i;
      const low = memory.read32(physAddr(at + 8));
      const high = memory.read32(physAddr(at + 12));
      if (!this.host.writeListedMsr(memory.read32(physAddr(at)), low, high)) return i + 1;
    }
    return 0;
  }

  private storeMsrs(addressField: number, countField: number): void {
    const vmcs = this.current;
    const count = vmcs?.low(countField) ?? 0;
    if (vmcs === null || count === 0) return;
    const { memory } = this.host;
    for (let i = 0; i < count; i++) {
      const at = vmcs.physical(addressField) + 16 * i;
      memory.write32(physAddr(at + 8), this.host.readListedMsr(memory.read32(physAddr(at))));
      memory.write32(physAddr(at + 12), this.host.listedHigh);
    }
  }

  // ---------------------------------------------------------------- private

  /** VMfail: with a current VMCS the error number goes there. SDM vol. 3, 32.2. */
  private fail(error: number, reason?: string): number {
    if (reason !== undefined) this.host.entryFailed(reason);
    if (this.current === null) return VMX_FAIL_INVALID;
    this.current.set(VMCS.VM_INSTRUCTION_ERROR, error, 0);
    return VMX_FAIL_VALID;
  }

  private isRegion(address: number): boolean {
    return address >= 0 && address % PAGE_SIZE === 0 && this.host.memory.has(address, PAGE_SIZE);
  }

  private region(address: number): VmcsRegion {
    let region = this.regions.get(address);
    if (region === undefined) {
      region = new VmcsRegion(this.host.memory, physAddr(address));
      this.regions.set(address, region);
    }
    return region;
  }
}

/** True when the guest asked for an exit as soon as it can take an interrupt, or an NMI. */
export function wantsInterruptWindow(vmcs: VmcsRegion): boolean {
  return (vmcs.low(VMCS.CPU_BASED_VM_EXEC_CONTROL) & CPU_BASED_INTR_WINDOW_EXITING) !== 0;
}

export function wantsNmiWindow(vmcs: VmcsRegion): boolean {
  return (vmcs.low(VMCS.CPU_BASED_VM_EXEC_CONTROL) & CPU_BASED_NMI_WINDOW_EXITING) !== 0;
}
