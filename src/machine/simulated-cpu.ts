// The steps of the seam on the simulated machine, but for memory (memory-cpu.ts): each raw* method is what one step does to the core.
import {
  type CpuId,
  type CpuModel,
  CR0_ET,
  CR4_PCIDE,
  CR4_PGE,
  CR4_SMAP,
  CR4_SMEP,
  type Cr3,
  cpuId,
  fail,
  INVPCID_ADDRESS,
  type Observer,
  type PhysAddr,
  type PhysicalMemory,
  RFLAGS_IF,
  SUSPEND,
  VECTOR_NMI,
  type VirtAddr,
  VMX_FAIL_INVALID,
  VMX_SUCCEED,
  type Width,
} from "../hardware/index.ts";
import type { LocalApicState, MachineCheck } from "../platform/index.ts";
import type { Board } from "./board.ts";
import {
  CPU_CR0,
  CPU_CR2,
  CPU_CR3,
  CPU_CR4,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SEG_ACCESS,
  CPU_SEG_BASE,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  CPU_SHADOW,
  EVENT_EXCEPTION,
  EVENT_INTERRUPT,
  EVENT_NMI,
  SEG_TR,
} from "./core/layout.gen.ts";
import { MachinePath, PHASE_DELIVERED, PHASE_IN_STUB, PHASE_NONE, PHASE_WAITING } from "./machine-path.ts";
import { MemoryCpu } from "./memory-cpu.ts";
import type { RunnerSnapshot } from "./turn-cpu.ts";
import type { VmxState } from "./vmx.ts";

// Registers by their place in the register file.
const RAX = CPU_REGS;
const RCX = CPU_REGS + 8;
const RDX = CPU_REGS + 16;
const RSP = CPU_REGS + 32;
const RSI = CPU_REGS + 48;
const RDI = CPU_REGS + 56;
/** Simulated cycles of one PAUSE. */
const PAUSE_CYCLES = 40;
const WORD_BYTES = 8;
/** Available and busy 64-bit TSS: bit 1 of the type. */
const TSS_BUSY = 2;
/** Changes of these CR4 bits flush the TLB. SDM vol. 3, 5.10.4.1. */
const CR4_FLUSHING = CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP;
const LAST_EXCEPTION = 31;

function newTask(): void {
  fail("a path without a root is run");
}

/** What the host half keeps of a CPU. */
export interface CpuSnapshot extends RunnerSnapshot {
  readonly apic: LocalApicState;
  readonly msrs: ReadonlyMap<number, readonly [number, number]>;
  readonly vmx: VmxState;
  readonly perCpuBase: VirtAddr;
}

export class SimulatedCpu extends MemoryCpu {
  constructor(board: Board, id: CpuId, model: CpuModel, memory: PhysicalMemory, observer: Observer) {
    super(board, cpuId(id), model, memory, observer);
  }

  registerPuppet(name: string, trap: PhysAddr): void {
    this.board.addPuppet(name, trap);
  }

  snapshot(): CpuSnapshot {
    return {
      ...this.runnerSnapshot(),
      apic: this.apic.save(),
      msrs: this.msrs.save(),
      vmx: this.vmxUnit.save(),
      perCpuBase: this.perCpuBase,
    };
  }

  restoreFrom(state: CpuSnapshot): void {
    this.restoreRunner(state);
    this.apic.restore(state.apic);
    this.msrs.restore(state.msrs);
    this.vmxUnit.restore(state.vmx);
    this.perCpuBase = state.perCpuBase;
  }

  /** Forgets everything but memory; where it goes on is its starter's business. This CPU's block is the active one. */
  reset(): void {
    this.apic.reset();
    this.msrs.reset();
    this.vmxUnit.reset();
    this.core.flushAllTlb();
  }

  protected rawPark(): never {
    this.hasPath = false;
    this.isAsleep = false;
    this.isOnline = false;
    throw SUSPEND;
  }

  // ---------------------------------------------------------------- control registers, MSRs, TLB

  protected rawReadControl(register: 0 | 2 | 3 | 4): number {
    const field = register === 0 ? CPU_CR0 : register === 2 ? CPU_CR2 : register === 3 ? CPU_CR3 : CPU_CR4;
    return this.fields.word(field);
  }

  protected rawWriteControl(register: 0 | 2 | 4, value: number): void {
    if (register === 2) this.fields.setWord(CPU_CR2, value);
    else this.writeControlRegister(register, value >>> 0, Math.floor(value / 2 ** 32) >>> 0);
  }

  /** MOV to CR0 or CR4, by the kernel or for a guest. */
  writeControlRegister(register: 0 | 4, low: number, high = 0): void {
    const field = register === 0 ? CPU_CR0 : CPU_CR4;
    const old = this.fields.low(field);
    this.fields.set(field, register === 0 ? (low | CR0_ET) >>> 0 : low, high);
    if (register === 4 && ((old ^ low) & CR4_FLUSHING) !== 0) this.core.flushAllTlb();
    this.core.contextChanged();
  }

  protected rawWriteCr3(value: Cr3, noflush: boolean): void {
    const { cost } = this.model;
    this.now += noflush ? cost.cr3WriteNoflush.value : cost.cr3Write.value;
    if (this.core.hostWriteCr3(value, noflush ? 1 : 0) !== 0) fail(`cpu ${this.id}: CR3 ${value} has reserved bits`);
  }

  protected rawReadMsr(msr: number): number {
    this.now += this.model.cost.rdmsr.value;
    const low = this.msrs.read(msr);
    if (low < 0) fail(`cpu ${this.id}: RDMSR of 0x${msr.toString(16)}, which ${this.model.name} does not have`);
    this.high = this.msrs.high;
    return low;
  }

  protected rawWriteMsr(msr: number, low: number, high: number): void {
    this.now += this.model.cost.wrmsr.value;
    if (!this.msrs.write(msr, low, high))
      fail(`cpu ${this.id}: WRMSR of 0x${msr.toString(16)} with ${high}:${low} faults on ${this.model.name}`);
  }

  protected rawInvlpg(va: VirtAddr): void {
    this.now += this.model.cost.invlpg.value;
    this.core.hostInvlpg(va);
  }

  protected rawInvpcid(type: number, pcid: number, va: VirtAddr): void {
    this.now += this.model.cost.invpcid.value;
    if (this.core.hostInvpcid(type, pcid, type === INVPCID_ADDRESS ? va : 0) === 0)
      fail(`cpu ${this.id}: INVPCID ${type} of PCID ${pcid} faults`);
  }

  // ---------------------------------------------------------------- interrupts, time, tables, ports

  protected rawSetInterrupts(enabled: boolean): void {
    const flags = this.fields.low(CPU_RFLAGS);
    this.setFlags(enabled ? flags | RFLAGS_IF : flags & ~RFLAGS_IF);
    this.rearm();
  }

  protected rawReadFlags(): number {
    return this.getFlags();
  }

  protected rawHalt(): void {
    const { path } = this;
    if (path.phase === PHASE_DELIVERED) {
      path.phase = PHASE_NONE;
      return;
    }
    if (path.phase !== PHASE_WAITING) {
      this.rawSetInterrupts(true);
      this.fallAsleep();
      path.phase = PHASE_WAITING;
    }
    if (!this.sleep()) throw SUSPEND;
    path.phase = PHASE_DELIVERED;
    this.deliverOne();
    path.phase = PHASE_NONE;
    this.rearm();
  }

  protected rawPause(): void {
    this.now += PAUSE_CYCLES;
    if (!this.mustNotYield && this.board.isSomeoneBehind(this.id, this.now)) {
      this.turnEnd = this.now;
      throw SUSPEND;
    }
  }

  protected rawReadTsc(): number {
    return this.now;
  }

  protected rawCpuid(leaf: number, subleaf: number, register: 0 | 1 | 2 | 3): number {
    this.now += this.model.cost.cpuid.value;
    return this.cpuid4(leaf, subleaf)[register];
  }

  protected rawLoadTable(which: "gdt" | "idt" | "tr", base: number, limit: number): void {
    const { fields } = this;
    switch (which) {
      case "gdt":
        fields.setWord(CPU_GDTR_BASE, base);
        fields.setLow(CPU_GDTR_LIMIT, limit);
        return;
      case "idt":
        fields.setWord(CPU_IDTR_BASE, base);
        fields.setLow(CPU_IDTR_LIMIT, limit);
        return;
      case "tr":
        this.loadTaskRegister(base);
    }
  }

  /** LTR: hidden part from the 16-byte descriptor, which becomes busy. */
  private loadTaskRegister(selector: number): void {
    const { fields } = this;
    const at = (fields.word(CPU_GDTR_BASE) + (selector & 0xfff8)) as VirtAddr;
    const low = this.rawLoad(at, 4);
    const second = this.rawLoad((at + 4) as VirtAddr, 4);
    const top = this.rawLoad((at + 8) as VirtAddr, 4);
    fields.setLow(CPU_SEG_SELECTOR + 4 * SEG_TR, selector);
    fields.setLow(CPU_SEG_LIMIT + 4 * SEG_TR, (low & 0xffff) | (second & 0xf0000));
    fields.setLow(CPU_SEG_ACCESS + 4 * SEG_TR, ((second >>> 8) & 0xf0ff) | TSS_BUSY);
    fields.set(CPU_SEG_BASE + 8 * SEG_TR, ((low >>> 16) | ((second & 0xff) << 16) | (second & 0xff000000)) >>> 0, top);
    this.rawStore((at + 4) as VirtAddr, 4, (second | (TSS_BUSY << 8)) >>> 0);
  }

  protected rawPortIn(port: number, width: Width): number {
    return this.io.read(port, width);
  }

  protected rawPortOut(port: number, _width: Width, value: number): void {
    this.io.write(port, value);
    this.rearm();
  }

  // ---------------------------------------------------------------- VMX

  protected rawVmx(instruction: "vmxon" | "vmxoff" | "vmclear" | "vmptrld", region: PhysAddr): number {
    switch (instruction) {
      case "vmxon":
        return this.vmxUnit.vmxon(region);
      case "vmxoff":
        return this.vmxUnit.vmxoff();
      case "vmclear":
        return this.vmxUnit.isInOperation ? this.vmxUnit.vmclear(region) : VMX_FAIL_INVALID;
      case "vmptrld":
        return this.vmxUnit.isInOperation ? this.vmxUnit.vmptrld(region) : VMX_FAIL_INVALID;
    }
  }

  protected rawVmread(field: number): number {
    this.now += this.model.cost.vmread.value;
    const { vmcs } = this.vmxUnit;
    if (vmcs === null || this.vmxUnit.vmreadStatus(field) !== VMX_SUCCEED)
      return fail(`cpu ${this.id}: VMREAD of 0x${field.toString(16)} fails`);
    const low = vmcs.read(field);
    this.high = vmcs.readHigh;
    return low;
  }

  protected rawVmwrite(field: number, low: number, high: number): number {
    this.now += this.model.cost.vmwrite.value;
    return this.vmxUnit.vmwrite(field, low, high);
  }

  protected rawInvalidateGuest(kind: "ept" | "vpid", id: number): void {
    if (kind === "ept") this.core.hostInvept(id === 0 ? 2 : 1, id);
    else this.core.hostInvvpid(id === 0 ? 2 : 1, id, 0);
  }

  protected rawEnterGuest(_resume: boolean): number {
    return fail("enterGuest() is for stub effects: here the stub's program holds the instruction");
  }

  protected rawSetStackPointer(_value: VirtAddr): void {
    fail("setStackPointer() is for stub effects");
  }

  protected rawSaveRegisters(): void {
    fail("saveRegisters() is for stub effects");
  }

  protected rawRestoreRegisters(): void {
    fail("restoreRegisters() is for stub effects");
  }

  // ---------------------------------------------------------------- machine code and paths

  protected rawCallStub(symbol: string, a0: number, a1: number, a2: number, a3: number): number {
    const { path, fields } = this;
    if (path.phase !== PHASE_IN_STUB) {
      this.pushReturn();
      fields.setWord(CPU_RIP, this.board.symbol(symbol));
      fields.setWord(RDI, a0);
      fields.setWord(RSI, a1);
      fields.setWord(RDX, a2);
      fields.setWord(RCX, a3);
      path.phase = PHASE_IN_STUB;
    }
    this.runStub();
    this.popReturn();
    path.phase = PHASE_NONE;
    return fields.word(RAX);
  }

  protected rawInvokeVector(vector: number): void {
    const { path } = this;
    if (path.phase === PHASE_DELIVERED) {
      path.phase = PHASE_NONE;
      return;
    }
    path.phase = PHASE_DELIVERED;
    const type = vector === VECTOR_NMI ? EVENT_NMI : vector <= LAST_EXCEPTION ? EVENT_EXCEPTION : EVENT_INTERRUPT;
    this.deliverBetween(vector, type, 0);
    path.phase = PHASE_NONE;
    this.rearm();
  }

  protected rawStackPointer(): number {
    return this.fields.word(RSP);
  }

  protected rawSwitchTo(symbol: string, prev: VirtAddr, next: VirtAddr): void {
    const { path, fields, board } = this;
    path.sleptAtRip = fields.word(CPU_RIP);
    path.sleptAtRsp = fields.word(RSP);
    this.mustNotYield = true;
    this.pushReturn();
    fields.setWord(CPU_RIP, board.symbol(symbol));
    fields.setWord(RDI, prev);
    fields.setWord(RSI, next);
    this.runStub();
    this.popReturn();
    this.mustNotYield = false;
    if (next === prev) return;
    board.sleeping.set(prev, path);
    const woken = board.sleeping.get(next);
    board.sleeping.delete(next);
    // A task that is new at the address of one that died does not stand where the old one slept.
    if (woken !== undefined && woken.sleptAtRip === fields.word(CPU_RIP) && woken.sleptAtRsp === fields.word(RSP)) this.path = woken;
    else {
      this.path = new MachinePath(newTask);
      this.hasPath = false;
    }
    throw SUSPEND;
  }

  /**
   * An uncorrected memory error hits this CPU: it is in bank 0, and #MC comes at the next step or instruction. Another while one is handled
   * (MCG_STATUS.MCIP) is a shutdown.
   */
  injectMachineCheck(event: MachineCheck): void {
    if (!this.msrs.logMachineCheck(event)) this.board.stopWithTripleFault(this);
    this.isMachineCheckPending = true;
    this.rearm();
  }

  protected rawForgetPath(task: VirtAddr): void {
    this.board.sleeping.delete(task);
  }

  /** What a call does before a stub: the trap's own address, to which the stack's owner goes back, then the address of stub_return. */
  private pushReturn(): void {
    const { fields } = this;
    const rip = fields.word(CPU_RIP);
    const rsp = fields.word(RSP);
    this.rawStoreWord((rsp - WORD_BYTES) as VirtAddr, rip);
    this.rawStoreWord((rsp - 2 * WORD_BYTES) as VirtAddr, this.board.stubReturnAddress);
    fields.setWord(RSP, rsp - 2 * WORD_BYTES);
    fields.setLow(CPU_SHADOW, 0);
  }

  /** After stub_return: back to where the owner of this stack stood. */
  private popReturn(): void {
    const { fields } = this;
    const rsp = fields.word(RSP);
    fields.setWord(CPU_RIP, this.rawLoadWord(rsp as VirtAddr));
    fields.setWord(RSP, rsp + WORD_BYTES);
  }
}
