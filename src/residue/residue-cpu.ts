// One logical CPU of the abstract machine: what the machine and explorers do with it (turns, interrupts, suspension, snapshots), what
// happens at each step, and guests.
import {
  assert,
  type CpuId,
  type CpuModel,
  CR4_MCE,
  fail,
  hex,
  isSuspension,
  MSR_IA32_SYSENTER_ESP,
  MSR_SYSCALL_MASK,
  type Observer,
  OWNER_NONE,
  type Owner,
  PAGE_SIZE,
  type PathRoot,
  type PhysAddr,
  RFLAGS_FIXED,
  RFLAGS_IF,
  SECONDARY_EXEC_ENABLE_VPID,
  SUSPEND,
  setAmbientCpu,
  type VirtAddr,
  VMCS,
  VMX_SUCCEED,
} from "../hardware/index.ts";
import { isMachineCheckUnderWay, logMachineCheck, type MachineCheck } from "../platform/index.ts";
import { R11, RCX, RDI, RSP } from "./core-state.ts";
import { externalInterruptExit, type GuestExit, machineCheckExit, nmiExit } from "./guest.ts";
import { PathCpu } from "./path-cpu.ts";
import type { ResidueHost } from "./residue-host.ts";
import { ResiduePath } from "./residue-path.ts";
import { combine } from "./state-hash.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import { userStep } from "./user-mode.ts";

/** Looks at every live step, before it; may raise interrupts or suspend the path. */
export interface StepHook {
  beforeStep(cpu: ResidueCpu): void;
  /** Before user code or a guest runs: the state is what it would find. */
  beforeEntry(cpu: ResidueCpu, kind: "user" | "guest"): void;
}

/** Entries without a gate. */
const FAST_ENTRIES = {
  syscall: "entry_SYSCALL_64",
  sysenter: "entry_SYSENTER_compat",
  syscall32: "entry_SYSCALL_compat",
} as const;
/** Kernel: IA32_SYSCALL_VECTOR. */
const INT80_VECTOR = 0x80;

export class ResidueCpu extends PathCpu {
  /** Live steps since the machine was made. */
  steps = 0;
  private hook: StepHook | undefined;
  private wantsSuspension = false;
  /** The hook looks at the step that comes. */
  private isBeforeStep = false;

  constructor(id: CpuId, model: CpuModel, memory: TrackedMemory, observer: Observer, host: ResidueHost) {
    super(id, model, memory, observer, host);
    this.attend();
  }

  /** Sets who looks at every step. */
  setHook(hook: StepHook | undefined): void {
    this.hook = hook;
    this.attend();
  }

  /** Makes `vector` pending in the APIC. */
  raise(vector: number): void {
    this.apic.request(vector);
    this.attend();
  }

  /** Lets time pass until the local APIC's timer fires, if it is armed. */
  skipToTimer(): void {
    if (Number.isFinite(this.apic.deadline)) this.now = Math.max(this.now, this.apic.deadline);
    this.collect();
  }

  /** Steps cost no time from now on, and no timer fires by itself. */
  freezeTime(now: number): void {
    this.isFrozen = true;
    this.now = now;
    this.stepCost = 0;
    this.attend();
  }

  raiseNmi(): void {
    this.state.isNmiPending = true;
    this.attend();
  }

  /** Another machine check would be taken, not shut the CPU down. */
  get canTakeMachineCheck(): boolean {
    const { state, msrs } = this;
    return (state.cr4 & CR4_MCE) !== 0 && !state.isMachineCheckPending && !isMachineCheckUnderWay(msrs);
  }

  /** An uncorrected error hits this CPU: it is in bank 0, and #MC comes at the next step. */
  raiseMachineCheck(event: MachineCheck): void {
    assert(logMachineCheck(this.msrs, event), () => `cpu ${this.id}: a machine check while one is handled: the CPU shuts down`);
    this.state.isMachineCheckPending = true;
    this.attend();
  }

  /** Suspends the running path at its next live step: its stack is dropped, its log stays. */
  suspendAtNextStep(): void {
    this.wantsSuspension = true;
    this.attend();
  }

  /** Takes in messages and timers that are due, and looks again at what is pending. */
  collect(): void {
    if (!this.isFrozen) this.apic.collect(this.now);
    if (this.apic.isNmiPending) {
      this.apic.isNmiPending = false;
      this.state.isNmiPending = true;
    }
    this.attend();
  }

  /** True when a turn would get on: not parked, and not halted unless something can be delivered. */
  get canRun(): boolean {
    if (this.state.activity === "parked") return false;
    this.collect();
    if (this.state.isInGuest)
      return this.state.isMachineCheckPending || this.apic.pending(0) >= 0 || (this.state.isNmiPending && !this.state.isNmiBlocked);
    return !this.state.isHalted || this.isDeliverable;
  }

  /** What of this CPU only counts, for a mark; everything else goes back by the undo log. */
  saveCounts(into: number[]): void {
    // The step before which this is called is counted when it happens.
    const isInStep = this.isBeforeStep ? 1 : 0;
    into.push(this.steps - isInStep, this.faults, this.now - isInStep * this.stepCost, this.perCpuBase);
  }

  /** The machine went back; `from` holds what saveCounts() pushed, from `at` on. */
  restoreCounts(from: readonly number[], at: number): void {
    this.steps = from[at] ?? 0;
    this.faults = from[at + 1] ?? 0;
    this.now = from[at + 2] ?? 0;
    this.perCpuBase = (from[at + 3] ?? 0) as VirtAddr; // as it was pushed
    this.wantsSuspension = false;
    this.isBeforeStep = false;
    this.isStepKnown = false;
    this.completed = undefined;
    this.running.length = 0;
    this.attend();
  }

  /** Only from a hook, which has seen enough: the turn ends here, and the machine is to be taken back to a mark. */
  abandon(): never {
    throw SUSPEND;
  }

  /** What of the state is in no other hash: the path, unless nothing of it counts. */
  get pathLow(): number {
    return this.state.activity === "kernel" ? combine(this.path.low, this.id) : 0;
  }

  get pathHigh(): number {
    return this.state.activity === "kernel" ? combine(this.id + 1, this.path.high) : 0;
  }

  /** One turn: kernel code until its path sleeps or its event ends; user code for one instruction. */
  turn(): void {
    setAmbientCpu(this);
    this.collect();
    if (this.state.activity === "user") this.userTurn();
    else this.kernelTurn();
  }

  /** Runs `root` as a path of its own, in kernel mode at the present stack, and puts the present path back. Must not sleep. */
  runAside(root: PathRoot): void {
    const { path, state } = this;
    const { rsp, rip } = state;
    setAmbientCpu(this);
    this.path = new ResiduePath(this.memory.log);
    this.path.restart(root);
    state.rsp = (state.rsp - PAGE_SIZE / 4) as VirtAddr;
    root();
    this.path = path;
    state.rsp = rsp;
    state.rip = rip;
  }

  /** Starts the CPU in kernel code at the stub `symbol`, as firmware does. */
  start(address: VirtAddr, argument: number): void {
    const stub = this.host.stubAt(address);
    if (stub === undefined) fail(`no stub with an effect at ${hex(address)}`);
    this.state.setRegister(RDI, argument);
    this.enterKernel(stub, argument);
  }

  registerPuppet(name: string, trap: PhysAddr): void {
    if (this.isLive) this.host.registerPuppet(name, trap);
  }

  /** Label of the user context, for observers. */
  get userLabel(): Owner {
    return this.host.contextLabel(this.id, false) ?? OWNER_NONE;
  }

  private kernelTurn(): void {
    const { path } = this;
    this.isStepKnown = false;
    this.running.length = 0;
    this.completed = undefined;
    path.rewind();
    const { root } = path;
    try {
      root();
      if (root !== path.event) this.leave(path.stub?.tail?.() ?? fail(`the entry stub ${path.stub?.symbol ?? "?"} has no tail`));
    } catch (error) {
      if (!isSuspension(error)) throw error;
    }
  }

  private userTurn(): void {
    const { state } = this;
    if (this.isDeliverable) {
      const vector = this.acknowledge();
      this.deliverEvent(vector, undefined);
      return;
    }
    this.hook?.beforeEntry(this, "user");
    this.labels.executed(this.host.contextLabel(this.id, false));
    const event = userStep({ state, mmu: this.mmu, memory: this.memory, puppetAt: (trap) => this.host.puppetAt(trap) });
    if (!this.isFrozen) this.now += 1;
    if (event === "fault") {
      this.faults++;
      this.deliverEvent(this.mmu.faultVector, this.mmu.faultError);
    } else if (event === "int80") this.deliverEvent(INT80_VECTOR, undefined);
    else if (event !== "done") this.enterFast(event);
  }

  /** SYSCALL and SYSENTER: no frame, no stack. SDM vol. 2, SYSCALL, SYSENTER. */
  private enterFast(event: "syscall" | "sysenter" | "syscall32"): void {
    const { state } = this;
    const symbol = FAST_ENTRIES[event];
    const stub = this.host.stub(symbol);
    if (stub === undefined) fail(`a system call, but the kernel has no ${symbol}`);
    state.cpl = 0;
    if (event === "sysenter") {
      const low = this.rawReadMsr(MSR_IA32_SYSENTER_ESP);
      state.setRegisterHalves(RSP, low, this.high);
      state.rflags &= ~RFLAGS_IF;
    } else {
      if (event === "syscall32") {
        // RCX has the return address, as after the 64-bit one, and R11 the flags.
        state.setRegister(RCX, state.rip);
        state.setRegister(R11, state.rflags);
      }
      const mask = this.rawReadMsr(MSR_SYSCALL_MASK);
      state.rflags = (state.rflags & ~mask) | RFLAGS_FIXED;
    }
    this.enterKernel(stub);
  }

  protected attend(): void {
    this.attention = this.hook !== undefined || this.wantsSuspension || this.isDeliverable;
    this.horizon = this.isFrozen ? Number.POSITIVE_INFINITY : this.apic.nextArrival;
  }

  protected due(): void {
    if (this.completed !== undefined || this.state.isInGuest) return;
    if (!this.isFrozen) this.collect();
    if (this.isStepKnown) {
      this.isStepKnown = false;
      this.now -= this.stepCost;
    } else {
      this.steps++;
      this.isBeforeStep = true;
      this.hook?.beforeStep(this);
      this.isBeforeStep = false;
    }
    while (this.isDeliverable) {
      if (this.state.isHalted) {
        this.state.isHalted = false;
        this.state.isWoken = true;
      }
      this.deliverNested(this.acknowledge(), undefined);
    }
    if (this.wantsSuspension) {
      this.wantsSuspension = false;
      this.attend();
      // The step has not happened: it will be charged when it does.
      this.now -= this.stepCost;
      throw SUSPEND;
    }
    // While time stands still and every step is looked at, there is nothing to find out.
    if (this.hook === undefined || !this.isFrozen) this.attend();
  }

  protected override rawEnterGuest(isResume: boolean): number {
    const { virtualization: vmx, state } = this;
    const status = vmx.check(isResume);
    if (status !== VMX_SUCCEED) return status;
    if (vmx.guestFault() !== undefined) {
      vmx.leave(vmx.failedEntry());
      return VMX_SUCCEED;
    }
    this.collect();
    // What is pending at the entry ends it before the guest's first instruction (SDM vol. 3, 27.7.5: after the entry, before that).
    if (this.leaveGuestForEvent()) return VMX_SUCCEED;
    this.hook?.beforeEntry(this, "guest");
    this.labels.executed(this.host.contextLabel(this.id, true));
    this.collect();
    if (this.leaveGuestForEvent()) return VMX_SUCCEED;
    const exit = this.host.guest(this.id);
    if (exit === undefined) {
      // Nothing but an interrupt ends this guest: the entry is made again when one is there.
      state.isInGuest = true;
      throw SUSPEND;
    }
    this.exitGuest(exit);
    return VMX_SUCCEED;
  }

  /** The VM exit for what is pending from outside, if anything is. */
  private leaveGuestForEvent(): boolean {
    const { state } = this;
    if (state.isMachineCheckPending) {
      state.isMachineCheckPending = false;
      this.exitGuest(machineCheckExit());
      return true;
    }
    if (state.isNmiPending && !state.isNmiBlocked) {
      state.isNmiPending = false;
      state.isNmiBlocked = true;
      this.exitGuest(nmiExit());
      return true;
    }
    const vector = this.apic.pending(0);
    if (vector < 0) return false;
    this.apic.acknowledge(vector);
    this.exitGuest(externalInterruptExit(vector));
    return true;
  }

  private exitGuest(exit: GuestExit): void {
    this.state.isInGuest = false;
    this.virtualization.leave(exit);
    // Without VPIDs every VMX transition invalidates what VPID 0 holds: all that is the host's. SDM vol. 3, 30.4.3.1.
    const secondary = this.virtualization.field(VMCS.SECONDARY_VM_EXEC_CONTROL);
    if ((secondary & SECONDARY_EXEC_ENABLE_VPID) === 0) this.mmu.tlb.invalidateAll(true);
    this.attend();
  }
}
