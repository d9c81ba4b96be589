// The architectural state of one logical CPU of the abstract machine, as words that are hashed and go back like memory. General registers
// count too: in kernel mode they are what the entry saved, for kernel code keeps nothing in them (see `forgetScratch`).
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PCIDE,
  type Cr3,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  fromHalves,
  RFLAGS_FIXED,
  type VirtAddr,
} from "../hardware/index.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

/** What the CPU is doing: kernel code (its path), user code, or nothing until another CPU wakes it by the mailbox. */
export type Activity = "kernel" | "user" | "parked";
const ACTIVITIES: readonly Activity[] = ["parked", "kernel", "user"];

/** General registers by encoding. */
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RSP = 4;
export const RBP = 5;
export const RSI = 6;
export const RDI = 7;
export const R10 = 10;
export const R8 = 8;
export const R9 = 9;
export const R11 = 11;
export const GENERAL_REGISTERS = 16;

// Words: the general registers' halves, then the others.
const HIGH = GENERAL_REGISTERS;
const RIP = 32;
const RFLAGS = 34;
const CPL = 35;
const CR0 = 36;
const CR2 = 37;
const CR3 = 39;
const CR4 = 41;
const EFER = 42;
const GDT_BASE = 43;
const IDT_BASE = 45;
const IDT_LIMIT = 47;
const TASK_SELECTOR = 48;
const FLAGS = 49;
const ACTIVITY = 50;
const VMCS_REGION = 51;
const STATE_WORDS = 53;

// Bits of the word of flags.
const NMI_BLOCKED = 1;
const NMI_PENDING = 2;
const MACHINE_CHECK_PENDING = 4;
const HALTED = 8;
const WOKEN = 16;
const IN_GUEST = 32;
const VMX_ON = 64;

const NO_VMCS = -1;
const PCID_MASK = 0xfff;

export class CoreState {
  private readonly memory: TrackedMemory;
  private readonly words: Int32Array;
  private readonly first: number;

  constructor(memory: TrackedMemory) {
    this.memory = memory;
    this.words = memory.words;
    this.first = memory.reserveRegisters(STATE_WORDS);
    this.reset();
  }

  /** Power-up state, general registers and RIP apart: their values belong to the code that runs. */
  reset(): void {
    this.rflags = RFLAGS_FIXED;
    this.cpl = 0;
    this.cr0 = CR0_PE | CR0_PG | CR0_WP;
    this.cr2 = 0 as VirtAddr;
    this.cr3 = 0 as Cr3;
    this.cr4 = CR4_PAE;
    this.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    this.gdtBase = 0 as VirtAddr;
    this.idtBase = 0 as VirtAddr;
    this.idtLimit = 0;
    this.taskSelector = 0;
    this.set(FLAGS, 0);
    this.activity = "parked";
    this.vmcs = NO_VMCS;
  }

  private get(word: number): number {
    return this.words[this.first + word] ?? 0;
  }

  private set(word: number, value: number): void {
    this.memory.setRegister(this.first + word, value);
  }

  private getNumber(word: number): number {
    const at = this.first + word;
    return (this.words[at + 1] ?? 0) * 2 ** 32 + ((this.words[at] ?? 0) >>> 0);
  }

  private setNumber(word: number, value: number): void {
    this.memory.setRegister(this.first + word, value >>> 0);
    this.memory.setRegister(this.first + word + 1, Math.floor(value / 2 ** 32));
  }

  private flag(bit: number): boolean {
    return (this.get(FLAGS) & bit) !== 0;
  }

  private setFlag(bit: number, value: boolean): void {
    const flags = this.get(FLAGS);
    this.set(FLAGS, value ? flags | bit : flags & ~bit);
  }

  register(index: number): number {
    return fromHalves(this.get(index) >>> 0, this.get(HIGH + index));
  }

  setRegister(index: number, value: number): void {
    this.set(index, value >>> 0);
    this.set(HIGH + index, Math.floor(value / 2 ** 32));
  }

  registerLow(index: number): number {
    return this.get(index) >>> 0;
  }

  registerHigh(index: number): number {
    return this.get(HIGH + index) >>> 0;
  }

  setRegisterHalves(index: number, low: number, high: number): void {
    this.set(index, low);
    this.set(HIGH + index, high);
  }

  /**
   * Kernel code is about to be left, or has left machine code, and keeps nothing in general registers but RSP: what they hold is of no
   * consequence, and is made the same for all.
   */
  forgetScratch(): void {
    const { words, first } = this;
    for (let word = 0; word < 2 * GENERAL_REGISTERS; word++)
      if (words[first + word] !== 0 && word % GENERAL_REGISTERS !== RSP) this.set(word, 0);
  }

  /** What the general registers hold, to put back: a stub that is called from a stub keeps what is not its own. */
  generalRegisters(): readonly number[] {
    const { words, first } = this;
    const saved: number[] = []; // a typed array of this size costs more than all the rest of a call
    for (let word = 0; word < 2 * GENERAL_REGISTERS; word++) saved.push(words[first + word] ?? 0);
    return saved;
  }

  putGeneralRegisters(saved: readonly number[]): void {
    const { words, first } = this;
    for (let word = 0; word < 2 * GENERAL_REGISTERS; word++)
      if (words[first + word] !== saved[word] && word % GENERAL_REGISTERS !== RSP) this.set(word, saved[word] ?? 0);
  }

  get rsp(): VirtAddr {
    return this.register(RSP) as VirtAddr; // as the code that runs left it
  }
  set rsp(value: VirtAddr) {
    this.setRegister(RSP, value);
  }
  get rip(): VirtAddr {
    return this.getNumber(RIP) as VirtAddr; // only addresses are stored
  }
  set rip(value: VirtAddr) {
    this.setNumber(RIP, value);
  }
  get rflags(): number {
    return this.get(RFLAGS);
  }
  set rflags(value: number) {
    this.set(RFLAGS, value);
  }
  get cpl(): 0 | 3 {
    return this.get(CPL) === 3 ? 3 : 0;
  }
  set cpl(value: 0 | 3) {
    this.set(CPL, value);
  }
  get cr0(): number {
    return this.get(CR0) >>> 0;
  }
  set cr0(value: number) {
    this.set(CR0, value);
  }
  get cr2(): VirtAddr {
    return this.getNumber(CR2) as VirtAddr; // only addresses are stored
  }
  set cr2(value: VirtAddr) {
    this.setNumber(CR2, value);
  }
  get cr3(): Cr3 {
    return this.getNumber(CR3) as Cr3; // only CR3 values are stored
  }
  set cr3(value: Cr3) {
    this.setNumber(CR3, value);
  }
  /** The PCID that translations are looked up with. */
  get pcid(): number {
    const { words, first } = this;
    return ((words[first + CR4] ?? 0) & CR4_PCIDE) !== 0 ? (words[first + CR3] ?? 0) & PCID_MASK : 0;
  }
  get cr4(): number {
    return this.get(CR4) >>> 0;
  }
  set cr4(value: number) {
    this.set(CR4, value);
  }
  get efer(): number {
    return this.get(EFER) >>> 0;
  }
  set efer(value: number) {
    this.set(EFER, value);
  }
  get gdtBase(): VirtAddr {
    return this.getNumber(GDT_BASE) as VirtAddr; // only addresses are stored
  }
  set gdtBase(value: VirtAddr) {
    this.setNumber(GDT_BASE, value);
  }
  get idtBase(): VirtAddr {
    return this.getNumber(IDT_BASE) as VirtAddr; // only addresses are stored
  }
  set idtBase(value: VirtAddr) {
    this.setNumber(IDT_BASE, value);
  }
  get idtLimit(): number {
    return this.get(IDT_LIMIT);
  }
  set idtLimit(value: number) {
    this.set(IDT_LIMIT, value);
  }
  get taskSelector(): number {
    return this.get(TASK_SELECTOR);
  }
  set taskSelector(value: number) {
    this.set(TASK_SELECTOR, value);
  }
  /** A machine check or an NMI pends that can be delivered. */
  get isEventPending(): boolean {
    const flags = this.get(FLAGS);
    return (flags & (MACHINE_CHECK_PENDING | NMI_PENDING)) !== 0 && ((flags & MACHINE_CHECK_PENDING) !== 0 || (flags & NMI_BLOCKED) === 0);
  }
  get isNmiBlocked(): boolean {
    return this.flag(NMI_BLOCKED);
  }
  set isNmiBlocked(value: boolean) {
    this.setFlag(NMI_BLOCKED, value);
  }
  get isNmiPending(): boolean {
    return this.flag(NMI_PENDING);
  }
  set isNmiPending(value: boolean) {
    this.setFlag(NMI_PENDING, value);
  }
  /** #MC is delivered at the next step: nothing masks it. */
  get isMachineCheckPending(): boolean {
    return this.flag(MACHINE_CHECK_PENDING);
  }
  set isMachineCheckPending(value: boolean) {
    this.setFlag(MACHINE_CHECK_PENDING, value);
  }
  /** In HLT until an interrupt or NMI is delivered. */
  get isHalted(): boolean {
    return this.flag(HALTED);
  }
  set isHalted(value: boolean) {
    this.setFlag(HALTED, value);
  }
  /** The HLT under way was ended by a delivery. */
  get isWoken(): boolean {
    return this.flag(WOKEN);
  }
  set isWoken(value: boolean) {
    this.setFlag(WOKEN, value);
  }
  /** In a guest that runs until an interrupt comes; the entry is a step that is made again. */
  get isInGuest(): boolean {
    return this.flag(IN_GUEST);
  }
  set isInGuest(value: boolean) {
    this.setFlag(IN_GUEST, value);
  }
  /** In VMX operation. */
  get isVmxOn(): boolean {
    return this.flag(VMX_ON);
  }
  set isVmxOn(value: boolean) {
    this.setFlag(VMX_ON, value);
  }
  get activity(): Activity {
    return ACTIVITIES[this.get(ACTIVITY)] ?? "parked";
  }
  set activity(value: Activity) {
    this.set(ACTIVITY, ACTIVITIES.indexOf(value));
  }
  /** The current VMCS, -1 when none. */
  get vmcs(): number {
    return this.getNumber(VMCS_REGION);
  }
  set vmcs(value: number) {
    this.setNumber(VMCS_REGION, value);
  }
}
