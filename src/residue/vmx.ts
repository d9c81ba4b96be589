// VMX of the abstract machine: the VMCS is a region of memory with its fields, entry is checked, and the guest's exit is the explorer's
// choice. What the guest's registers and tables hold is never looked at. SDM vol. 3, 26 to 31.

import type { CpuModel } from "../hardware/index.ts";
import {
  assert,
  type Cr3,
  EXIT_REASON,
  fail,
  hex,
  INTR_INFO_VALID_MASK,
  isReadOnlyField,
  type PhysAddr,
  RFLAGS_FIXED,
  type VirtAddr,
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
import { controlFault, guestStateFault, hasVmcsField, hostStateFault, VMCS_BYTES, VMCS_REVISION, VmcsRegion } from "../platform/index.ts";
import type { CoreState } from "./core-state.ts";
import type { GuestExit } from "./guest.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

const NO_VMCS = -1;

/** A region whose changes are hashed and go back. */
class TrackedRegion extends VmcsRegion {
  private readonly memory: TrackedMemory;

  constructor(memory: TrackedMemory, base: PhysAddr) {
    super(memory, base);
    this.memory = memory;
  }

  protected override put(offset: number, value: number): void {
    this.memory.write32((this.base + offset) as PhysAddr, value); // inside the region
  }
}

export class Vmx {
  /** High half of the last VMREAD. */
  high = 0;
  /** Why the last entry failed, in words. */
  lastFault = "";
  private readonly memory: TrackedMemory;
  private readonly state: CoreState;
  private readonly model: CpuModel;
  /** Views of regions, by address: they hold nothing, and may be dropped at any time. */
  private readonly regions = new Map<number, VmcsRegion>();

  constructor(memory: TrackedMemory, state: CoreState, model: CpuModel) {
    this.memory = memory;
    this.state = state;
    this.model = model;
  }

  instruction(name: "vmxon" | "vmxoff" | "vmclear" | "vmptrld", region: PhysAddr): number {
    const { state } = this;
    if (name === "vmxon") {
      if (!this.isRegion(region) || this.region(region).revision !== VMCS_REVISION) return VMX_FAIL_INVALID;
      state.isVmxOn = true;
      state.vmcs = NO_VMCS;
      return VMX_SUCCEED;
    }
    assert(state.isVmxOn, () => `${name} outside VMX operation`);
    switch (name) {
      case "vmxoff":
        state.isVmxOn = false;
        state.vmcs = NO_VMCS;
        return VMX_SUCCEED;
      case "vmclear":
        if (!this.isRegion(region)) return this.failWith(VMXERR_VMCLEAR_INVALID_ADDRESS);
        this.region(region).isLaunched = false;
        if (state.vmcs === region) state.vmcs = NO_VMCS;
        return VMX_SUCCEED;
      case "vmptrld":
        if (!this.isRegion(region)) return this.failWith(VMXERR_VMPTRLD_INVALID_ADDRESS);
        if (this.region(region).revision !== VMCS_REVISION) return this.failWith(VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID);
        state.vmcs = region;
        return VMX_SUCCEED;
    }
  }

  read(field: number): number {
    const vmcs = this.current() ?? fail(`VMREAD of ${hex(field)} without a current VMCS`);
    assert(hasVmcsField(field), () => `VMREAD of a field that does not exist: ${hex(field)}`);
    const low = vmcs.read(field);
    this.high = vmcs.readHigh;
    return low;
  }

  write(field: number, low: number, high: number): number {
    if (this.current() === undefined) return VMX_FAIL_INVALID;
    if (!hasVmcsField(field)) return this.failWith(VMXERR_UNSUPPORTED_VMCS_COMPONENT);
    if (isReadOnlyField(field)) return this.failWith(VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT);
    this.region(this.state.vmcs).write(field, low, high);
    return VMX_SUCCEED;
  }

  /** A word field of the current VMCS, for observers. */
  field(encoding: number): number {
    return this.current()?.word(encoding) ?? 0;
  }

  /** Checks VMLAUNCH or VMRESUME. @returns VMX_SUCCEED when the guest may run, else the failure (already recorded). */
  check(isResume: boolean): number {
    const vmcs = this.current();
    if (vmcs === undefined) return VMX_FAIL_INVALID;
    if (isResume && !vmcs.isLaunched) return this.failWith(VMXERR_VMRESUME_NONLAUNCHED_VMCS);
    if (!isResume && vmcs.isLaunched) return this.failWith(VMXERR_VMLAUNCH_NONCLEAR_VMCS);
    const control = controlFault(vmcs, this.model.physicalBits);
    if (control !== undefined) {
      this.lastFault = control;
      return this.failWith(VMXERR_ENTRY_INVALID_CONTROL_FIELD);
    }
    const host = hostStateFault(vmcs, this.model.physicalBits);
    if (host !== undefined) {
      this.lastFault = host;
      return this.failWith(VMXERR_ENTRY_INVALID_HOST_STATE_FIELD);
    }
    return VMX_SUCCEED;
  }

  /** What is wrong with the guest state: the entry then "exits" with reason 33. */
  guestFault(): string | undefined {
    const vmcs = this.current();
    return vmcs === undefined ? undefined : guestStateFault(vmcs, this.model.physicalBits);
  }

  /** Records `exit`, marks the VMCS launched and loads the host state. */
  leave(exit: GuestExit): void {
    const { state } = this;
    const isFailedEntry = (exit.reason & VMX_EXIT_REASONS_FAILED_VMENTRY) !== 0;
    const vmcs = this.region(state.vmcs);
    vmcs.set(VMCS.VM_EXIT_REASON, exit.reason >>> 0, 0);
    vmcs.setWord(VMCS.EXIT_QUALIFICATION, exit.qualification ?? 0);
    if (isFailedEntry) {
      this.loadHostState(exit, vmcs);
      return;
    }
    vmcs.isLaunched = true;
    if (exit.rip !== undefined) vmcs.setWord(VMCS.GUEST_RIP, exit.rip);
    vmcs.set(VMCS.VM_EXIT_INTR_INFO, exit.interruption ?? 0, 0);
    vmcs.set(VMCS.VM_EXIT_INTR_ERROR_CODE, 0, 0);
    vmcs.set(VMCS.IDT_VECTORING_INFO_FIELD, 0, 0);
    vmcs.set(VMCS.VM_EXIT_INSTRUCTION_LEN, exit.instructionLength ?? 0, 0);
    vmcs.setWord(VMCS.GUEST_PHYSICAL_ADDRESS, exit.guestPhysical ?? 0);
    vmcs.setWord(VMCS.GUEST_LINEAR_ADDRESS, exit.guestLinear ?? 0);
    // SDM vol. 3, 29.2.4: the valid bit of the entry's injection field is cleared.
    const injected = vmcs.low(VMCS.VM_ENTRY_INTR_INFO_FIELD);
    vmcs.set(VMCS.VM_ENTRY_INTR_INFO_FIELD, injected & ~INTR_INFO_VALID_MASK, 0);
    this.loadHostState(exit, vmcs);
  }

  private loadHostState(exit: GuestExit, vmcs: VmcsRegion): void {
    const { state } = this;
    for (const [register, value] of exit.registers ?? []) state.setRegister(register, value);
    state.cr0 = vmcs.low(VMCS.HOST_CR0);
    state.cr4 = vmcs.low(VMCS.HOST_CR4);
    state.cr3 = vmcs.physical(VMCS.HOST_CR3) as Cr3;
    state.rsp = vmcs.word(VMCS.HOST_RSP) as VirtAddr;
    state.rip = vmcs.word(VMCS.HOST_RIP) as VirtAddr;
    // SDM vol. 3, 29.5.3: RFLAGS is cleared but for bit 1.
    state.rflags = RFLAGS_FIXED;
  }

  /** The exit of an entry whose guest state is refused. */
  failedEntry(): GuestExit {
    return { reason: (EXIT_REASON.INVALID_STATE | VMX_EXIT_REASONS_FAILED_VMENTRY) >>> 0 };
  }

  private current(): VmcsRegion | undefined {
    const { vmcs } = this.state;
    return vmcs === NO_VMCS ? undefined : this.region(vmcs);
  }

  /** The region at a physical address, which VMPTRLD, VMXON or VMCLEAR found to be one. */
  private region(base: number): VmcsRegion {
    let region = this.regions.get(base);
    if (region === undefined) {
      region = new TrackedRegion(this.memory, base as PhysAddr); // what names a region is physical
      this.regions.set(base, region);
    }
    return region;
  }

  private isRegion(region: PhysAddr): boolean {
    return region % VMCS_BYTES === 0 && this.memory.has(region, VMCS_BYTES);
  }

  /** VMfailValid with an error number if there is a current VMCS, else VMfailInvalid. */
  private failWith(error: number): number {
    if (this.state.vmcs === NO_VMCS) return VMX_FAIL_INVALID;
    this.region(this.state.vmcs).set(VMCS.VM_INSTRUCTION_ERROR, error, 0);
    return VMX_FAIL_VALID;
  }
}
