// One logical CPU of the abstract machine: the seam's raw steps over real memory and page tables, delivery through the IDT, and the
// effects of stubs in place of instructions. Law 3 is kept throughout: every nested thing (a handler, a stub's effect) is a root that
// can be run again from its beginning.
import {
  assert,
  type CpuId,
  type Cr3,
  type CpuModel,
  fail,
  hex,
  INVPCID_ADDRESS,
  INVPCID_ALL,
  INVPCID_ALL_GLOBAL,
  INVPCID_SINGLE,
  isSuspension,
  LEAVE_SYSRETQ,
  LogicalCpu,
  type Observer,
  type Owner,
  OWNER_NONE,
  PAGE_SIZE,
  type PathRoot,
  type PhysAddr,
  RFLAGS_IF,
  type RmwOp,
  SECONDARY_EXEC_ENABLE_VPID,
  STUB_CLEAR_CPU_BUFFERS,
  STUB_FILL_RETURN_BUFFER,
  STUB_L1D_FLUSH_SOFTWARE,
  type Stub,
  SUSPEND,
  setAmbientCpu,
  VECTOR_NMI,
  VECTOR_PF,
  type VirtAddr,
  VMCS,
  VMX_SUCCEED,
  type Width,
} from "../hardware/index.ts";
import { cpuidOf } from "../machine/cpuid.ts";
import type { IoBus } from "../machine/io-bus.ts";
import { LocalApic, type LocalApicState } from "../machine/local-apic.ts";
import { CoreState, RCX, RDI, RDX, RSI, RSP } from "./core-state.ts";
import { interruptReturn, type LinearAccess, pushFrame, systemReturn } from "./frames.ts";
import { externalInterruptExit, type GuestModel, nmiExit } from "./guest.ts";
import { Labels } from "./labels.ts";
import { type Access, FAULT, Mmu, READ, WRITE } from "./mmu.ts";
import { readMsr, writeMsr } from "./model-registers.ts";
import { ResiduePath } from "./residue-path.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import { Translations } from "./translations.ts";
import { userStep } from "./user-mode.ts";
import { Vmx } from "./vmx.ts";

/** What a CPU needs of the machine it is in. */
export interface ResidueHost {
  readonly cpuCount: number;
  readonly ports: IoBus;
  readonly guest: GuestModel;
  /** Entry points and other stubs of kernel text. */
  stub(symbol: string): Stub | undefined;
  stubAt(address: VirtAddr): Stub | undefined;
  symbol(name: string): VirtAddr | undefined;
  /** Address of the trap of the stub at `address`. */
  trapOf(address: VirtAddr): VirtAddr;
  registerPuppet(name: string, trap: PhysAddr): void;
  puppetAt(trap: PhysAddr): ReturnType<Parameters<typeof userStep>[0]["puppetAt"]>;
  sendInterrupt(destination: number, vector: number, isNmi: boolean): void;
  /** Kernel paths that sleep, by the address of their task. */
  readonly sleeping: Map<VirtAddr, ResiduePath>;
  /** The owner that context() last named for user and guest code of a CPU. */
  contextLabel(cpu: number, isGuest: boolean): Owner;
}

/** Looks at every live step, before it; may raise interrupts or suspend the path. */
export interface StepHook {
  beforeStep(cpu: ResidueCpu): void;
  /** Before user code or a guest runs: the state is what it would find. */
  beforeEntry(cpu: ResidueCpu, kind: "user" | "guest"): void;
}

/** A CPU at the edge of a turn. */
export interface CpuSnapshot {
  readonly state: CoreState;
  readonly labels: Labels;
  readonly translations: Translations;
  readonly path: ResiduePath;
  readonly apic: LocalApicState;
  readonly now: number;
  readonly steps: number;
  readonly faults: number;
  readonly perCpuBase: VirtAddr;
}

/** Faults of one access without progress before the machine gives up (spec S6). */
const FAULT_LIMIT = 8;
const PUSHED_BY_CALL = 16;
const INTERRUPT_VECTOR_LIMIT = 256;

export class ResidueCpu extends LogicalCpu {
  declare readonly memory: TrackedMemory;
  declare path: ResiduePath;
  readonly state = new CoreState();
  readonly labels: Labels;
  readonly apic = new LocalApic();
  readonly mmu: Mmu;
  readonly virtualization: Vmx;
  /** Live steps since the machine was made. */
  steps = 0;
  /** Page faults that were delivered. */
  faults = 0;
  private readonly host: ResidueHost;
  private readonly linear: LinearAccess;
  private hook: StepHook | undefined;
  private wantsSuspension = false;
  /** Result of a stub call or of an invoked vector that came to its end while its path was brought back; the step takes it. */
  private completed: number | undefined;
  /** Addresses of the stubs whose effects run, innermost last. */
  private readonly running: VirtAddr[] = [];

  constructor(id: CpuId, model: CpuModel, memory: TrackedMemory, observer: Observer, host: ResidueHost) {
    super(id, model, memory, observer);
    this.host = host;
    this.labels = new Labels(model);
    this.mmu = new Mmu(memory, this.state, this.labels);
    this.virtualization = new Vmx(memory, this.state, model);
    this.path = new ResiduePath();
    this.linear = {
      readWord: (va) => this.memory.readWord(this.at(va, READ)),
      read32: (va) => this.memory.read32(this.at(va, READ)),
      writeWord: (va, value) => this.memory.writeWord(this.at(va, WRITE), value),
      canWrite: (va, bytes) =>
        this.mmu.translate(va, WRITE, false) !== FAULT && this.mmu.translate(va + bytes - 1, WRITE, false) !== FAULT,
    };
    this.attend();
  }

  // ---------------------------------------------------------------- control by the machine and by explorers

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

  raiseNmi(): void {
    this.state.isNmiPending = true;
    this.attend();
  }

  /** Suspends the running path at its next live step: its stack is dropped, its log stays. */
  suspendAtNextStep(): void {
    this.wantsSuspension = true;
    this.attend();
  }

  /** Takes in messages and timers that are due, and looks again at what is pending. */
  collect(): void {
    this.apic.collect(this.now);
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
    if (this.state.isInGuest) return this.apic.pending(0) >= 0 || (this.state.isNmiPending && !this.state.isNmiBlocked);
    return !this.state.isHalted || this.isDeliverable;
  }

  /** Everything of this CPU that is not in memory, apart from what its path and the machine keep. Not inside a turn. */
  save(): CpuSnapshot {
    const state = new CoreState();
    state.copyFrom(this.state);
    const labels = new Labels(this.model);
    labels.copyFrom(this.labels);
    const translations = new Translations();
    translations.copyFrom(this.mmu.tlb);
    const path = new ResiduePath();
    path.copyFrom(this.path);
    return { state, labels, translations, path, apic: this.apic.save(), now: this.now, steps: this.steps, faults: this.faults, perCpuBase: this.perCpuBase };
  }

  restore(snapshot: CpuSnapshot): void {
    this.state.copyFrom(snapshot.state);
    this.labels.copyFrom(snapshot.labels);
    this.mmu.tlb.copyFrom(snapshot.translations);
    this.path = new ResiduePath();
    this.path.copyFrom(snapshot.path);
    this.apic.restore(snapshot.apic);
    this.now = snapshot.now;
    this.steps = snapshot.steps;
    this.faults = snapshot.faults;
    this.perCpuBase = snapshot.perCpuBase;
    this.wantsSuspension = false;
    this.completed = undefined;
    this.running.length = 0;
    this.attend();
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
    const saved = new CoreState();
    saved.copyFrom(state);
    setAmbientCpu(this);
    this.path = new ResiduePath();
    this.path.restart(root);
    state.rsp = (state.rsp - PAGE_SIZE / 4) as VirtAddr;
    root();
    this.path = path;
    state.setRegister(RSP, saved.rsp);
    state.rip = saved.rip;
  }

  /** Starts the CPU in kernel code at the stub `symbol`, as firmware does. */
  start(address: VirtAddr): void {
    const stub = this.host.stubAt(address);
    if (stub === undefined) fail(`no stub with an effect at ${hex(address)}`);
    this.enterKernel(stub);
  }

  // ---------------------------------------------------------------- turns

  private kernelTurn(): void {
    const { path } = this;
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
    this.now += 1;
    if (event === "syscall") {
      const stub = this.host.stub("entry_SYSCALL_64");
      if (stub === undefined) fail("a system call, but the kernel has no entry_SYSCALL_64");
      state.cpl = 0;
      const mask = this.rawReadMsr(0xc0000084);
      state.rflags = (state.rflags & ~mask) | 2;
      this.enterKernel(stub);
    } else if (event === "fault") {
      this.faults++;
      this.deliverEvent(this.mmu.faultVector, this.mmu.faultError);
    }
  }

  /** Delivery from user mode: a new event. */
  private deliverEvent(vector: number, error: number | undefined): void {
    pushFrame(this.state, this.linear, vector, error);
    this.enterKernel(this.host.stubAt(this.state.rip) ?? fail(`the gate of vector ${vector} leads to no stub: ${hex(this.state.rip)}`));
  }

  private enterKernel(stub: Stub): void {
    const { state } = this;
    state.activity = "kernel";
    const address = this.host.symbol(stub.symbol);
    if (address !== undefined) state.rip = this.host.trapOf(address);
    const entered = state.rip;
    this.path.begin(stub, () => {
      this.running.push(entered);
      const instruction = stub.effect(state.register(RDI), state.register(RSI), state.register(RDX), state.register(RCX));
      this.running.pop();
      this.leave(instruction);
    });
  }

  /** The end of an event: IRETQ or SYSRETQ to user mode. */
  private leave(instruction: number): void {
    this.returnBy(instruction);
    assert(this.state.cpl === 3, () => `an event ended in kernel mode at ${hex(this.state.rip)}`);
    this.state.activity = "user";
  }

  private returnBy(instruction: number): void {
    if (instruction === LEAVE_SYSRETQ) systemReturn(this.state);
    else interruptReturn(this.state, this.linear);
    this.attend();
  }

  // ---------------------------------------------------------------- delivery

  private get isDeliverable(): boolean {
    const { state } = this;
    if (state.isNmiPending && !state.isNmiBlocked) return true;
    return (state.rflags & RFLAGS_IF) !== 0 && this.apic.pending(0) >= 0;
  }

  /** The vector to deliver now. */
  private acknowledge(): number {
    const { state } = this;
    if (state.isNmiPending && !state.isNmiBlocked) {
      state.isNmiPending = false;
      return VECTOR_NMI;
    }
    const vector = this.apic.pending(0);
    this.apic.acknowledge(vector);
    return vector;
  }

  private attend(): void {
    this.attention = this.hook !== undefined || this.wantsSuspension || this.isDeliverable;
    this.horizon = this.apic.nextArrival;
  }

  protected due(): void {
    if (this.completed !== undefined || this.state.isInGuest) return;
    this.steps++;
    this.collect();
    this.hook?.beforeStep(this);
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
    this.attend();
  }

  protected finishNested(root: PathRoot): void {
    root();
    this.path.endNested();
  }

  private nest(root: PathRoot): void {
    this.path.beginNested(root);
    root();
    this.path.endNested();
  }

  private deliverNested(vector: number, error: number | undefined): void {
    assert(vector >= 0 && vector < INTERRUPT_VECTOR_LIMIT, () => `not a vector: ${vector}`);
    pushFrame(this.state, this.linear, vector, error);
    const stub = this.host.stubAt(this.state.rip) ?? fail(`the gate of vector ${vector} leads to no stub: ${hex(this.state.rip)}`);
    const trap = this.host.trapOf(this.state.rip);
    this.state.rip = trap;
    this.attend();
    this.nest(() => {
      this.running.push(trap);
      const instruction = stub.effect(0, 0, 0, 0);
      this.running.pop();
      this.returnBy(instruction);
    });
  }

  // ---------------------------------------------------------------- memory

  /** Physical address of a supervisor access; faults are delivered and the access tried again. */
  private at(va: number, access: Access): PhysAddr {
    const { mmu } = this;
    for (let tries = 0; ; tries++) {
      const pa = mmu.translate(va, access, false);
      if (pa !== FAULT) {
        if (!this.memory.has(pa, 1)) fail(`access beyond RAM: ${hex(va)} -> physical ${hex(pa)}`);
        return pa as PhysAddr;
      }
      if (tries >= FAULT_LIMIT) fail(`S6: the access to ${hex(va)} faulted ${tries} times without progress on cpu ${this.id}`);
      this.fault(va);
    }
  }

  private fault(va: number): void {
    this.faults++;
    const { faultVector, faultError } = this.mmu;
    if (faultVector === VECTOR_PF) this.state.cr2 = va as VirtAddr;
    this.deliverNested(faultVector, faultError);
  }

  /** Runs `act` on each piece of `[va, va + bytes)` that lies in one page. */
  private byPage(va: number, bytes: number, act: (va: number, done: number, count: number) => void): void {
    for (let done = 0; done < bytes; ) {
      const here = va + done;
      const count = Math.min(bytes - done, PAGE_SIZE - (here - Math.floor(here / PAGE_SIZE) * PAGE_SIZE));
      act(here, done, count);
      done += count;
    }
  }

  protected rawLoad(va: VirtAddr, width: Width): number {
    const pa = this.at(va, READ);
    return width === 4 ? this.memory.read32(pa) : width === 1 ? this.memory.read8(pa) : this.memory.read16(pa);
  }

  protected rawLoadWord(va: VirtAddr): number {
    return this.memory.readWord(this.at(va, READ));
  }

  protected rawLoad64(va: VirtAddr): number {
    const pa = this.at(va, READ);
    this.high = this.memory.read32((pa + 4) as PhysAddr);
    return this.memory.read32(pa);
  }

  protected rawStore(va: VirtAddr, width: Width, value: number): void {
    this.put(this.at(va, WRITE), width, value);
  }

  private put(pa: PhysAddr, width: Width, value: number): void {
    if (width === 4) this.memory.write32(pa, value >>> 0);
    else if (width === 1) this.memory.write8(pa, value & 0xff);
    else this.memory.write16(pa, value & 0xffff);
  }

  protected rawStoreWord(va: VirtAddr, value: number): void {
    this.memory.writeWord(this.at(va, WRITE), value);
  }

  protected rawStore64(va: VirtAddr, low: number, high: number): void {
    const pa = this.at(va, WRITE);
    this.memory.write32(pa, low >>> 0);
    this.memory.write32((pa + 4) as PhysAddr, high >>> 0);
  }

  protected rawRmw(op: RmwOp, va: VirtAddr, width: Width, operand: number): number {
    const pa = this.at(va, WRITE);
    const old = width === 4 ? this.memory.read32(pa) : width === 1 ? this.memory.read8(pa) : this.memory.read16(pa);
    let next = operand;
    if (op === "or") next = old | operand;
    else if (op === "and") next = old & operand;
    else if (op === "add") next = old + operand;
    this.put(pa, width, next);
    return old;
  }

  protected rawExchangeWord(va: VirtAddr, value: number): number {
    const pa = this.at(va, WRITE);
    const old = this.memory.readWord(pa);
    this.memory.writeWord(pa, value);
    return old;
  }

  protected rawCompareExchange(va: VirtAddr, width: Width, expected: number, next: number): boolean {
    const pa = this.at(va, WRITE);
    const old = width === 4 ? this.memory.read32(pa) : width === 1 ? this.memory.read8(pa) : this.memory.read16(pa);
    const wanted = width === 4 ? expected >>> 0 : expected & (width === 1 ? 0xff : 0xffff);
    if (old !== wanted) return false;
    this.put(pa, width, next);
    return true;
  }

  protected rawCompareExchange64(va: VirtAddr, expectedLow: number, expectedHigh: number, low: number, high: number): boolean {
    const pa = this.at(va, WRITE);
    const upper = (pa + 4) as PhysAddr;
    if (this.memory.read32(pa) !== expectedLow >>> 0 || this.memory.read32(upper) !== expectedHigh >>> 0) return false;
    this.memory.write32(pa, low >>> 0);
    this.memory.write32(upper, high >>> 0);
    return true;
  }

  protected rawFill(va: VirtAddr, value: number, bytes: number): void {
    this.byPage(va, bytes, (here, _done, count) => this.memory.fill(this.at(here, WRITE), value, count));
  }

  protected rawCopy(to: VirtAddr, from: VirtAddr, bytes: number): void {
    this.byPage(to, bytes, (target, done, count) => {
      this.byPage(from + done, count, (source, part, length) => {
        const read = this.at(source, READ);
        this.memory.copyWithin(this.at(target + part, WRITE), read, length);
      });
    });
  }

  protected override rawCopyFixable(to: VirtAddr, from: VirtAddr, bytes: number): number {
    const { state } = this;
    const stub = this.running.at(-1) ?? fail("copyFixable() outside a stub's effect");
    let left = bytes;
    // A fixup that was taken while the path was brought back: RIP is no longer the stub's.
    while (state.rip === stub && left > 0) {
      const source = from + (bytes - left);
      const target = to + (bytes - left);
      state.setRegister(RCX, left);
      const read = this.translateOnce(source, READ, stub);
      if (read === FAULT) continue;
      const write = this.translateOnce(target, WRITE, stub);
      if (write === FAULT) continue;
      const count = Math.min(left, PAGE_SIZE - (read % PAGE_SIZE), PAGE_SIZE - (write % PAGE_SIZE));
      this.memory.copyWithin(write as PhysAddr, read as PhysAddr, count);
      left -= count;
    }
    if (state.rip !== stub) left = state.register(RCX);
    state.rip = stub;
    return left;
  }

  /** One try of an access whose fault may be fixed up: FAULT after the handler ran. */
  private translateOnce(va: number, access: Access, stub: VirtAddr): number {
    const pa = this.mmu.translate(va, access, false);
    if (pa === FAULT && this.state.rip === stub) this.fault(va);
    return pa;
  }

  protected rawTouch(va: VirtAddr, bytes: number): void {
    this.byPage(va, bytes, (here) => {
      const pa = this.mmu.translate(here, READ, false);
      assert(pa !== FAULT, () => `touch() of memory that is not mapped: ${hex(here)}`);
    });
  }

  // ---------------------------------------------------------------- registers, tables, TLB

  protected rawReadControl(register: 0 | 2 | 3 | 4): number {
    const { state } = this;
    return register === 0 ? state.cr0 : register === 2 ? state.cr2 : register === 3 ? state.cr3 : state.cr4;
  }

  protected rawWriteControl(register: 0 | 2 | 4, value: number): void {
    const { state } = this;
    if (register === 2) {
      state.cr2 = value as VirtAddr;
      return;
    }
    if (register === 0) state.cr0 = value >>> 0;
    else state.cr4 = value >>> 0;
    this.mmu.tlb.invalidateAll(true);
  }

  protected rawWriteCr3(value: Cr3, noflush: boolean): void {
    this.state.cr3 = value;
    this.mmu.loadRoot(noflush);
  }

  protected rawReadMsr(msr: number): number {
    const [low, high] = readMsr(this.registers, msr);
    this.high = high;
    return low;
  }

  protected rawWriteMsr(msr: number, low: number, high: number): void {
    writeMsr(this.registers, msr, low, high);
    this.attend();
  }

  private get registers(): Parameters<typeof readMsr>[0] {
    return {
      id: this.id,
      now: this.now,
      model: this.model,
      state: this.state,
      labels: this.labels,
      apic: this.apic,
      sendInterrupt: (destination, vector, isNmi) => this.host.sendInterrupt(destination, vector, isNmi),
    };
  }

  protected rawInvlpg(va: VirtAddr): void {
    this.mmu.invlpg(va);
  }

  protected rawInvpcid(type: number, id: number, va: VirtAddr): void {
    const { tlb } = this.mmu;
    if (type === INVPCID_ADDRESS) tlb.invalidate(va, id, false);
    else if (type === INVPCID_SINGLE) tlb.invalidatePcid(id);
    else if (type === INVPCID_ALL_GLOBAL) tlb.invalidateAll(true);
    else if (type === INVPCID_ALL) tlb.invalidateAll(false);
    else fail(`INVPCID type ${type}`);
  }

  protected rawSetInterrupts(enabled: boolean): void {
    if (enabled) this.state.rflags |= RFLAGS_IF;
    else this.state.rflags &= ~RFLAGS_IF;
    this.attend();
  }

  protected rawReadFlags(): number {
    return this.state.rflags;
  }

  protected rawHalt(): void {
    const { state } = this;
    if (state.isWoken) {
      state.isWoken = false;
      state.isHalted = false;
      return;
    }
    state.rflags |= RFLAGS_IF;
    state.isHalted = true;
    this.attend();
    throw SUSPEND;
  }

  protected rawPause(): void {
    if (this.host.cpuCount > 1) throw SUSPEND;
  }

  protected rawReadTsc(): number {
    return Math.floor(this.now);
  }

  protected rawCpuid(leaf: number, subleaf: number, register: 0 | 1 | 2 | 3): number {
    return cpuidOf(this.model, leaf, subleaf, this.id, this.host.cpuCount)[register];
  }

  protected rawLoadTable(which: "gdt" | "idt" | "tr", base: number, limit: number): void {
    const { state } = this;
    if (which === "gdt") state.gdtBase = base as VirtAddr;
    else if (which === "tr") state.taskSelector = base;
    else {
      state.idtBase = base as VirtAddr;
      state.idtLimit = limit;
    }
  }

  protected rawPortIn(port: number, width: Width): number {
    return this.host.ports.read(port, width);
  }

  protected rawPortOut(port: number, _width: Width, value: number): void {
    this.host.ports.write(port, value);
  }

  // ---------------------------------------------------------------- VMX

  protected rawVmx(instruction: "vmxon" | "vmxoff" | "vmclear" | "vmptrld", region: PhysAddr): number {
    return this.virtualization.instruction(instruction, region);
  }

  protected rawVmread(field: number): number {
    const low = this.virtualization.read(field);
    this.high = this.virtualization.high;
    return low;
  }

  protected rawVmwrite(field: number, low: number, high: number): number {
    return this.virtualization.write(field, low, high);
  }

  protected rawInvalidateGuest(_kind: "ept" | "vpid", _id: number): void {
    // Nothing is cached for guests: their translations are never walked here.
  }

  protected override rawEnterGuest(isResume: boolean): number {
    const { virtualization: vmx, state } = this;
    const status = vmx.check(isResume);
    if (status !== VMX_SUCCEED) return status;
    if (vmx.guestFault() !== undefined) {
      vmx.leave(vmx.failedEntry());
      return VMX_SUCCEED;
    }
    this.hook?.beforeEntry(this, "guest");
    this.labels.executed(this.host.contextLabel(this.id, true));
    this.collect();
    if (state.isNmiPending && !state.isNmiBlocked) {
      state.isNmiPending = false;
      state.isNmiBlocked = true;
      this.exitGuest(nmiExit());
      return VMX_SUCCEED;
    }
    const vector = this.apic.pending(0);
    if (vector >= 0) {
      this.apic.acknowledge(vector);
      this.exitGuest(externalInterruptExit(vector));
      return VMX_SUCCEED;
    }
    const exit = this.host.guest(this.id);
    if (exit === undefined) {
      // Nothing but an interrupt ends this guest: the entry is made again when one is there.
      state.isInGuest = true;
      throw SUSPEND;
    }
    this.exitGuest(exit);
    return VMX_SUCCEED;
  }

  private exitGuest(exit: ReturnType<GuestModel> & object): void {
    this.state.isInGuest = false;
    this.virtualization.leave(exit);
    // Without VPIDs every VMX transition invalidates what VPID 0 holds: all that is the host's. SDM vol. 3, 30.4.3.1.
    const secondary = this.virtualization.field(VMCS.SECONDARY_VM_EXEC_CONTROL);
    if ((secondary & SECONDARY_EXEC_ENABLE_VPID) === 0) this.mmu.tlb.invalidateAll(true);
    this.attend();
  }

  // ---------------------------------------------------------------- stubs and stacks

  protected rawCallStub(symbol: string, a0: number, a1: number, a2: number, a3: number): number {
    if (this.completed === undefined) this.runStub(symbol, a0, a1, a2, a3);
    return this.takeCompleted();
  }

  private takeCompleted(): number {
    const value = this.completed ?? fail("a stub ended without a result");
    this.completed = undefined;
    return value;
  }

  private runStub(symbol: string, a0: number, a1: number, a2: number, a3: number): void {
    const stub = this.host.stub(symbol) ?? fail(`no stub ${symbol}`);
    const address = this.host.symbol(symbol) ?? this.state.rip;
    this.pushReturn();
    const { state } = this;
    state.setRegister(RDI, a0);
    state.setRegister(RSI, a1);
    state.setRegister(RDX, a2);
    state.setRegister(RCX, a3);
    state.rip = address;
    this.nest(() => {
      this.running.push(address);
      const value = stub.effect(a0, a1, a2, a3);
      this.running.pop();
      this.structuresEffect(symbol);
      this.popReturn();
      this.completed = value;
    });
  }

  /** The host's part of a call: RIP, then the address of the trap that ends the stub. */
  private pushReturn(): void {
    const { state } = this;
    this.linear.writeWord(state.rsp - 8, state.rip);
    this.linear.writeWord(state.rsp - PUSHED_BY_CALL, this.host.symbol("stub_return") ?? 0);
    state.rsp = (state.rsp - PUSHED_BY_CALL) as VirtAddr;
  }

  private popReturn(): void {
    const { state } = this;
    const expected = this.host.symbol("stub_return") ?? 0;
    const found = this.linear.readWord(state.rsp);
    assert(found === expected, () => `a stub returned to ${hex(found)} instead of stub_return: RSP ${hex(state.rsp)} is not what it was`);
    state.rip = this.linear.readWord(state.rsp + 8) as VirtAddr;
    state.rsp = (state.rsp + PUSHED_BY_CALL) as VirtAddr;
  }

  private structuresEffect(symbol: string): void {
    if (symbol === STUB_FILL_RETURN_BUFFER) this.labels.fillReturnStack();
    else if (symbol === STUB_L1D_FLUSH_SOFTWARE) this.labels.flushL1d(false);
    else if (symbol === STUB_CLEAR_CPU_BUFFERS) this.labels.clearBuffers();
  }

  protected rawInvokeVector(vector: number): void {
    if (this.completed === undefined) {
      pushFrame(this.state, this.linear, vector, undefined);
      const stub = this.host.stubAt(this.state.rip) ?? fail(`the gate of vector ${vector} leads to no stub: ${hex(this.state.rip)}`);
      const trap = this.host.trapOf(this.state.rip);
      this.state.rip = trap;
      this.attend();
      this.nest(() => {
        this.running.push(trap);
        const instruction = stub.effect(0, 0, 0, 0);
        this.running.pop();
        this.returnBy(instruction);
        this.completed = 0;
      });
    }
    this.takeCompleted();
  }

  protected rawStackPointer(): number {
    return this.state.rsp;
  }

  protected rawSwitchTo(symbol: string, prev: VirtAddr, next: VirtAddr): void {
    if (prev === next) return;
    const stub = this.host.stub(symbol) ?? fail(`no stub ${symbol}`);
    this.path.sleepStack = this.state.rsp;
    this.pushReturn();
    this.nest(() => {
      stub.effect(prev, next, 0, 0);
      this.popReturn();
      this.path.endNested();
      this.changePath(prev, next);
      throw SUSPEND;
    });
  }

  /**
   * The stacks are switched. `next` goes on with its sleeping path if that slept on just this stack; a path of another stack is of a
   * dead task whose address was used again, and `next` is new.
   */
  private changePath(prev: VirtAddr, next: VirtAddr): void {
    const { sleeping } = this.host;
    const { state } = this;
    this.path.isPastStep = true;
    sleeping.set(prev, this.path);
    const found = sleeping.get(next);
    sleeping.delete(next);
    if (found !== undefined && found.sleepStack === state.rsp) {
      this.path = found;
      return;
    }
    const first = this.host.stubAt(state.rip);
    if (first === undefined) fail(`task ${hex(next)} has neither a sleeping path nor a first stub at ${hex(state.rip)}`);
    this.path = new ResiduePath();
    this.enterKernel(first);
  }

  protected override rawReadRegister(register: number): number {
    this.high = this.state.high[register] ?? 0;
    return this.state.low[register] ?? 0;
  }

  protected override rawWriteRegister(register: number, low: number, high: number): void {
    this.state.low[register] = low;
    this.state.high[register] = high;
  }

  registerPuppet(name: string, trap: PhysAddr): void {
    if (this.isLive) this.host.registerPuppet(name, trap);
  }

  /** Label of the user context, for observers. */
  get userLabel(): Owner {
    return this.host.contextLabel(this.id, false) ?? OWNER_NONE;
  }
}
