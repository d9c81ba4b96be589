// What lies between the core and its host on one CPU: instructions that the host performs, VM exits, MSR effects, host accesses to
// memory and their timing. Above it (simulated-cpu.ts) are the steps of the kernel, below (code-cpu.ts) the run loop.
import { type CpuId, type CpuModel, type Observer, type PhysicalMemory, VECTOR_PF, type VirtAddr } from "../hardware/index.ts";
import { type CpuidResult, cpuidOf, type IoBus } from "../platform/index.ts";
import { type AssistHost, performAssist, raiseRecordedFault } from "./assists.ts";
import type { Board } from "./board.ts";
import { CodeCpu } from "./code-cpu.ts";
import {
  ACCESS_READ,
  ACCESS_WRITE,
  CPU_ACCESS_STATUS,
  CPU_CR3,
  CPU_CYCLES,
  CPU_EXCEPTION_BITMAP,
  CPU_EXIT_ADDRESS,
  CPU_EXIT_ERROR,
  CPU_EXIT_HAS_ERROR,
  CPU_EXIT_KIND,
  CPU_EXIT_LENGTH,
  CPU_EXIT_QUALIFICATION,
  CPU_EXIT_VECTOR,
  CPU_FLAG_A,
  CPU_FLAG_KIND,
  CPU_GUEST_MODE,
  CPU_NOW,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  EVENT_EXCEPTION,
  EXIT_INTERCEPT,
  FLAGS_RAW,
  INTERCEPT_EXCEPTION,
  MODE_SUPERVISOR,
} from "./core/layout.gen.ts";
import { type GuestExitHost, leaveGuest } from "./guest-exits.ts";
import { type MsrHost, Msrs } from "./msrs.ts";
import type { PuppetRegisters } from "./puppets.ts";
import { Vmx, type VmxHost } from "./vmx.ts";

const PAGE_BYTES = 4096;
const LINE_BYTES = 64;
/** Bits of RFLAGS that exist. */
const RFLAGS_BITS = 0x3fffff;
const RFLAGS_FIXED_BIT = 2;
/** INVVPID type: all of one VPID. */
const INVVPID_SINGLE = 1;
/** CPU_NOW is in quarter cycles. */
const QUARTERS = 4;

export abstract class InstructionCpu extends CodeCpu implements VmxHost, MsrHost, AssistHost, GuestExitHost, PuppetRegisters {
  readonly msrs: Msrs;
  readonly vmxUnit: Vmx;
  readonly io: IoBus;
  readonly physicalBits: number;
  /** Why the last VM entry failed, in words. */
  lastEntryFailure: string | undefined;

  protected constructor(board: Board, id: CpuId, model: CpuModel, memory: PhysicalMemory, observer: Observer) {
    super(board, id, model, memory, observer);
    this.io = board.io;
    this.physicalBits = model.physicalBits;
    this.msrs = new Msrs(model, id, this.fields, this.apic, this);
    this.vmxUnit = new Vmx(this);
  }

  // ---------------------------------------------------------------- registers

  getRegister(register: number): number {
    return this.fields.word(CPU_REGS + 8 * register);
  }

  setRegister(register: number, value: number): void {
    this.fields.setWord(CPU_REGS + 8 * register, value);
  }

  /** For puppets: RIP stands at the trap, which is the first block of the text page. */
  goTo(offset: number): void {
    this.fields.setWord(CPU_RIP, this.fields.word(CPU_RIP) + offset);
  }

  get root(): number {
    const value = this.fields.word(CPU_CR3);
    return value - (value % PAGE_BYTES);
  }

  /** RFLAGS; the core keeps all bits current between runs. */
  getFlags(): number {
    return this.fields.low(CPU_RFLAGS);
  }

  setFlags(value: number): void {
    const { fields } = this;
    fields.set(CPU_RFLAGS, ((value & RFLAGS_BITS) | RFLAGS_FIXED_BIT) >>> 0, 0);
    fields.set(CPU_FLAG_A, value >>> 0, 0);
    fields.setLow(CPU_FLAG_KIND, FLAGS_RAW);
  }

  advance(): void {
    this.fields.setWord(CPU_RIP, this.fields.word(CPU_RIP) + this.fields.low(CPU_EXIT_LENGTH));
  }

  cpuid4(leaf: number, subleaf: number): CpuidResult {
    return cpuidOf(this.model, leaf, subleaf, this.id, this.board.cpuCount, this.board.threadsPerCore);
  }

  // ---------------------------------------------------------------- instructions and exits

  protected override assist(): void {
    performAssist(this);
    this.rearm();
  }

  protected override guestExit(exit: number): void {
    leaveGuest(this, exit);
  }

  protected override runPuppet(trap: number): void {
    this.board.runPuppet(trap, this);
  }

  abstract writeControlRegister(register: 0 | 4, low: number): void;

  raise(vector: number, error: number): void {
    const { fields } = this;
    const leaves = fields.low(CPU_GUEST_MODE) !== 0 && ((fields.low(CPU_EXCEPTION_BITMAP) >>> vector) & 1) !== 0;
    if (!leaves) {
      this.afterDelivery(this.core.deliver(vector, EVENT_EXCEPTION, Math.max(0, error), 0));
      return;
    }
    fields.setLow(CPU_EXIT_KIND, INTERCEPT_EXCEPTION);
    fields.setLow(CPU_EXIT_VECTOR, vector);
    fields.setLow(CPU_EXIT_HAS_ERROR, error >= 0 ? 1 : 0);
    fields.setLow(CPU_EXIT_ERROR, Math.max(0, error));
    const isPageFault = vector === VECTOR_PF;
    fields.set(CPU_EXIT_QUALIFICATION, isPageFault ? fields.low(CPU_EXIT_ADDRESS) : 0, isPageFault ? fields.high(CPU_EXIT_ADDRESS) : 0);
    leaveGuest(this, EXIT_INTERCEPT);
  }

  accessFailed(): boolean {
    if (this.fields.low(CPU_ACCESS_STATUS) === 0) return false;
    this.fields.setLow(CPU_ACCESS_STATUS, 0);
    raiseRecordedFault(this);
    return true;
  }

  inject(vector: number, type: number, errorCode: number, instructionLength: number): void {
    this.afterDelivery(this.core.deliver(vector, type, Math.max(0, errorCode), instructionLength));
  }

  beforeGuestEntry(): void {
    this.board.entryHook?.(this, "guest");
  }

  entryFailed(reason: string): void {
    this.lastEntryFailure = reason;
  }

  // ---------------------------------------------------------------- world switch and MSRs

  contextChanged(): void {
    this.core.contextChanged();
  }

  flushUntagged(): void {
    this.core.hostInvvpid(INVVPID_SINGLE, 0, 0);
  }

  readKeptMsr(msr: number): number {
    return this.msrs.read(msr);
  }

  get keptHigh(): number {
    return this.msrs.high;
  }

  writeKeptMsr(msr: number, low: number, high: number): void {
    this.msrs.write(msr, low, high);
  }

  readListedMsr(msr: number): number {
    return this.msrs.read(msr);
  }

  get listedHigh(): number {
    return this.msrs.high;
  }

  writeListedMsr(msr: number, low: number, high: number): boolean {
    return this.msrs.write(msr, low, high);
  }

  timestamp(): number {
    return this.now;
  }

  modeChanged(): void {
    this.core.contextChanged();
  }

  predictorBarrier(): void {
    this.now += this.model.cost.ibpb.value;
    this.board.predictorBarrier();
  }

  flushL1d(): void {
    this.now += this.model.cost.l1dFlush.value;
    this.board.flushL1d();
  }

  speculationControl(value: number): void {
    this.board.speculationControl(this.id, value);
  }

  writeBackCaches(): void {
    this.board.writeBackCaches();
  }

  apicChanged(): void {
    this.rearm();
  }

  sendInterrupt(destination: number, vector: number, isNmi: boolean): void {
    this.board.sendInterrupt(this, destination, vector, isNmi);
    this.rearm();
  }

  // ---------------------------------------------------------------- host accesses

  /** Before an access of the kernel: in the detailed gear the core's clock catches up with what the kernel was charged. */
  protected beforeAccess(): void {
    if (!this.board.isDetailed) return;
    const now = this.now * QUARTERS;
    if (this.fields.word(CPU_NOW) < now) this.fields.setWord(CPU_NOW, now);
  }

  /** After it: time has passed, and a fault is handled. @returns false: the access is to be tried again. */
  protected isAccessDone(): boolean {
    const { fields } = this;
    if (this.board.isDetailed) this.now = Math.max(this.now, fields.word(CPU_CYCLES));
    if (fields.low(CPU_ACCESS_STATUS) === 0) return true;
    fields.setLow(CPU_ACCESS_STATUS, 0);
    this.faultOfStep();
    return false;
  }

  /** Physical address of `bytes` bytes within a page that the kernel may read; a fault is handled first. */
  protected translateForRead(va: VirtAddr, bytes: number): number {
    return this.translateFor(va, bytes, ACCESS_READ);
  }

  protected translateForWrite(va: VirtAddr, bytes: number): number {
    return this.translateFor(va, bytes, ACCESS_WRITE);
  }

  private translateFor(va: VirtAddr, bytes: number, access: number): number {
    for (;;) {
      this.beforeAccess();
      const pa = this.core.hostTranslate(va, access, MODE_SUPERVISOR);
      if (pa >= 0) {
        if (this.board.isDetailed) this.touchRange(pa, bytes, access === ACCESS_WRITE);
        return pa;
      }
      this.faultOfStep();
    }
  }

  /** The cache footprint of `bytes` at `va`, as far as it is mapped. */
  protected touchLines(va: VirtAddr, bytes: number): void {
    if (!this.board.isDetailed) {
      this.now += Math.ceil(bytes / LINE_BYTES);
      return;
    }
    for (let done = 0; done < bytes; ) {
      const at = va + done;
      const part = Math.min(bytes - done, PAGE_BYTES - (((at % PAGE_BYTES) + PAGE_BYTES) % PAGE_BYTES));
      const pa = this.core.hostTranslate(at, ACCESS_READ, MODE_SUPERVISOR);
      if (pa >= 0) this.touchRange(pa, part, false);
      done += part;
    }
  }

  private touchRange(pa: number, bytes: number, isWrite: boolean): void {
    this.beforeAccess();
    this.board.touchPhysical(pa, bytes, isWrite);
    this.now = Math.max(this.now, this.fields.word(CPU_CYCLES));
  }
}
