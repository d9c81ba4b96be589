// The second layer: control registers and MSRs, TLB and interrupt flag, descriptor tables, ports, and the VMX instructions that stay in
// the host.
import {
  type CpuId,
  type CpuModel,
  type Cr3,
  fail,
  INVPCID_ADDRESS,
  INVPCID_ALL,
  INVPCID_ALL_GLOBAL,
  INVPCID_SINGLE,
  MSR_IA32_SPEC_CTRL,
  type Observer,
  type PhysAddr,
  RFLAGS_IF,
  SPEC_CTRL_STIBP,
  SUSPEND,
  type VirtAddr,
  type Width,
} from "../hardware/index.ts";
import { cpuidOf } from "../platform/index.ts";
import { MemoryCpu } from "./memory-cpu.ts";
import { ModelRegisters, type MsrTarget, readMsr, writeMsr } from "./model-registers.ts";
import { ResidueApic } from "./residue-apic.ts";
import type { ResidueHost } from "./residue-host.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import { Vmx } from "./vmx.ts";

const LVT_VECTOR = 0xff;

export abstract class RegisterCpu extends MemoryCpu implements MsrTarget {
  readonly apic: ResidueApic;
  readonly msrs: ModelRegisters;
  readonly virtualization: Vmx;
  protected readonly host: ResidueHost;

  protected constructor(id: CpuId, model: CpuModel, memory: TrackedMemory, observer: Observer, host: ResidueHost) {
    super(id, model, memory, observer);
    this.host = host;
    this.apic = new ResidueApic(memory);
    this.msrs = new ModelRegisters(memory);
    this.fired = memory.reserveRegisters(2);
    this.virtualization = new Vmx(memory, this.state, model);
  }

  /** STIBP is set: what the core's other thread trained does not steer this one. */
  get hasOwnPredictions(): boolean {
    return ((this.msrs.get(MSR_IA32_SPEC_CTRL)?.[0] ?? 0) & SPEC_CTRL_STIBP) !== 0;
  }

  /** Looks again at whether something can be delivered. */
  protected abstract attend(): void;

  protected rawReadControl(register: 0 | 2 | 3 | 4): number {
    this.watch?.register();
    const { state } = this;
    return register === 0 ? state.cr0 : register === 2 ? state.cr2 : register === 3 ? state.cr3 : state.cr4;
  }

  protected rawWriteControl(register: 0 | 2 | 4, value: number): void {
    this.watch?.register();
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
    this.watch?.register();
    this.state.cr3 = value;
    this.mmu.loadRoot(noflush);
  }

  protected rawReadMsr(msr: number): number {
    this.watch?.register();
    const [low, high] = readMsr(this, msr);
    this.high = high;
    return low;
  }

  protected rawWriteMsr(msr: number, low: number, high: number): void {
    this.watch?.register();
    writeMsr(this, msr, low, high);
    this.attend();
  }

  sendInterrupt(destination: number, vector: number, isNmi: boolean): void {
    this.host.sendInterrupt(destination, vector, isNmi);
  }

  protected rawInvlpg(va: VirtAddr): void {
    this.watch?.register();
    this.mmu.invlpg(va);
  }

  protected rawInvpcid(type: number, id: number, va: VirtAddr): void {
    this.watch?.register();
    const { tlb } = this.mmu;
    if (type === INVPCID_ADDRESS) tlb.invalidate(va, id, false);
    else if (type === INVPCID_SINGLE) tlb.invalidatePcid(id);
    else if (type === INVPCID_ALL_GLOBAL) tlb.invalidateAll(true);
    else if (type === INVPCID_ALL) tlb.invalidateAll(false);
    else fail(`INVPCID type ${type}`);
  }

  protected rawSetInterrupts(enabled: boolean): void {
    this.watch?.register();
    if (enabled) this.state.rflags |= RFLAGS_IF;
    else this.state.rflags &= ~RFLAGS_IF;
    this.attend();
  }

  protected rawReadFlags(): number {
    return this.state.rflags;
  }

  protected rawHalt(): void {
    this.watch?.register();
    const { state } = this;
    if (state.isWoken) {
      state.isWoken = false;
      state.isHalted = false;
      return;
    }
    state.rflags |= RFLAGS_IF;
    state.isHalted = true;
    state.forgetScratch();
    this.attend();
    throw SUSPEND;
  }

  /** Forgets everything but memory, general registers apart, whose values belong to the code that runs. */
  reset(): void {
    this.state.reset();
    this.msrs.reset();
    this.apic.reset();
    this.mmu.tlb.invalidateAll(true);
  }

  protected rawPark(): never {
    this.reset();
    this.state.activity = "parked";
    this.state.forgetScratch();
    this.path.end();
    throw SUSPEND;
  }

  protected rawPause(): void {
    this.watch?.register();
    if (this.host.cpuCount === 1) return;
    this.state.forgetScratch();
    throw SUSPEND;
  }

  protected rawReadTsc(): number {
    return this.readTime();
  }

  /** Time stands still: steps cost nothing, and timers fire only when they are told to. */
  protected isFrozen = false;
  /** First of two words: the time of the timer that fired, which its handler is to read once. */
  private readonly fired: number;

  /** What the time-stamp counter shows. */
  readTime(): number {
    const { words } = this.memory;
    const time = (words[this.fired + 1] ?? 0) * 2 ** 32 + ((words[this.fired] ?? 0) >>> 0);
    if (time === 0 || this.apic.isRequested(this.apic.lvtTimer & LVT_VECTOR)) return Math.floor(this.now);
    this.setFired(0);
    return time;
  }

  private setFired(time: number): void {
    this.memory.setRegister(this.fired, time >>> 0);
    this.memory.setRegister(this.fired + 1, Math.floor(time / 2 ** 32));
  }

  /**
   * An armed timer's interrupt becomes pending, while time stands still: the first read of the time-stamp counter after its delivery shows
   * the time for which it was armed, all others the time at which everything stopped.
   */
  fireTimer(): void {
    const { apic } = this;
    const { deadline } = apic;
    if (!Number.isFinite(deadline)) return;
    if (this.isFrozen) this.setFired(deadline);
    apic.collect(deadline);
    this.attend();
  }

  /** Of work that is not simulated step by step. */
  override charge(cost: number): void {
    if (!this.isFrozen) super.charge(cost);
  }

  protected rawCpuid(leaf: number, subleaf: number, register: 0 | 1 | 2 | 3): number {
    return cpuidOf(this.model, leaf, subleaf, this.id, this.host.cpuCount, this.host.threadsPerCore)[register];
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

  protected rawVmx(instruction: "vmxon" | "vmxoff" | "vmclear" | "vmptrld", region: PhysAddr): number {
    this.watch?.register();
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
}
