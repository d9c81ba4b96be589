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
  type Observer,
  type PhysAddr,
  RFLAGS_IF,
  SUSPEND,
  type VirtAddr,
  type Width,
} from "../hardware/index.ts";
import { cpuidOf, LocalApic } from "../platform/index.ts";
import { CoreState } from "./core-state.ts";
import { MemoryCpu } from "./memory-cpu.ts";
import { readMsr, writeMsr } from "./model-registers.ts";
import type { ResidueHost } from "./residue-host.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import { Vmx } from "./vmx.ts";

export abstract class RegisterCpu extends MemoryCpu {
  readonly apic = new LocalApic();
  readonly virtualization: Vmx;
  protected readonly host: ResidueHost;

  protected constructor(id: CpuId, model: CpuModel, memory: TrackedMemory, observer: Observer, host: ResidueHost) {
    super(id, model, memory, observer);
    this.host = host;
    this.virtualization = new Vmx(memory, this.state, model);
  }

  /** Looks again at whether something can be delivered. */
  protected abstract attend(): void;

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

  /** Forgets everything but memory, general registers apart, whose values belong to the code that runs. */
  reset(): void {
    const { state } = this;
    const fresh = new CoreState();
    fresh.low.set(state.low);
    fresh.high.set(state.high);
    fresh.rip = state.rip;
    state.copyFrom(fresh);
    this.apic.reset();
    this.mmu.tlb.invalidateAll(true);
  }

  protected rawPark(): never {
    this.reset();
    this.state.activity = "parked";
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
}
