// The architectural state of one logical CPU of the abstract machine: plain values, so that a snapshot is a copy.
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  type Cr3,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  RFLAGS_FIXED,
  type VirtAddr,
} from "../hardware/index.ts";

/** What the CPU is doing: kernel code (its path), user code, or nothing until another CPU wakes it by the mailbox. */
export type Activity = "kernel" | "user" | "parked";

/** General registers by encoding. */
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RSP = 4;
export const RSI = 6;
export const RDI = 7;
export const R10 = 10;
export const R8 = 8;
export const R9 = 9;
export const R11 = 11;

export class CoreState {
  readonly low = new Uint32Array(16);
  readonly high = new Uint32Array(16);
  rip = 0 as VirtAddr;
  rflags = RFLAGS_FIXED;
  cpl: 0 | 3 = 0;
  cr0 = CR0_PE | CR0_PG | CR0_WP;
  cr2 = 0 as VirtAddr;
  cr3 = 0 as Cr3;
  cr4 = CR4_PAE;
  efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
  gdtBase = 0 as VirtAddr;
  idtBase = 0 as VirtAddr;
  idtLimit = 0;
  taskSelector = 0;
  isNmiBlocked = false;
  isNmiPending = false;
  /** #MC is delivered at the next step: nothing masks it. */
  isMachineCheckPending = false;
  /** In HLT until an interrupt or NMI is delivered. */
  isHalted = false;
  /** The HLT under way was ended by a delivery. */
  isWoken = false;
  /** In a guest that runs until an interrupt comes; the entry is a step that is made again. */
  isInGuest = false;
  activity: Activity = "parked";
  /** VMX: in VMX operation; the current VMCS, -1 when none. */
  isVmxOn = false;
  vmcs = -1;
  /** Other MSRs, by number; halves. */
  msrs = new Map<number, readonly [number, number]>();

  register(index: number): number {
    return ((this.high[index] ?? 0) | 0) * 2 ** 32 + (this.low[index] ?? 0);
  }

  setRegister(index: number, value: number): void {
    this.low[index] = value >>> 0;
    this.high[index] = Math.floor(value / 2 ** 32) >>> 0;
  }

  get rsp(): VirtAddr {
    return this.register(RSP) as VirtAddr;
  }

  set rsp(value: VirtAddr) {
    this.setRegister(RSP, value);
  }

  copyFrom(other: CoreState): void {
    const { low, high, msrs, ...plain } = other;
    this.low.set(low);
    this.high.set(high);
    this.msrs = new Map(msrs);
    Object.assign(this, plain);
  }

  /** Everything as text: for state hashes. Registers belong to handlers and frames, which are in memory, and are left out. */
  canonical(): string {
    const { low: _low, high: _high, msrs, ...plain } = this;
    return JSON.stringify([plain, [...msrs].sort((a, b) => a[0] - b[0])]);
  }
}
