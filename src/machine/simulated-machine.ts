// The simulated multiprocessor: memory with a kernel image in it, logical CPUs that take turns by simulated time, firmware that
// starts them, devices, and the puppets of the kernel's processes.
import {
  assert,
  BOOT_COMMAND_LINE,
  BOOT_COMMAND_LINE_LENGTH,
  BOOT_CPUS,
  BOOT_FACS,
  BOOT_INITRD,
  BOOT_INITRD_BYTES,
  BOOT_MEMORY_BYTES,
  BOOT_WAKEUP_MAILBOX,
  type CpuId,
  type CpuModel,
  type Cr3,
  cpuId,
  EARLY_PAGE_TABLE_SYMBOL,
  FACS_WAKING_VECTOR,
  type KernelImage,
  memoryEvents,
  type Observer,
  type Owner,
  type OwnerKind,
  type Pfn,
  type PhysAddr,
  PhysicalMemory,
  type Puppet,
  pageDown,
  physAddr,
  STUB_RETURN,
  type VirtAddr,
} from "../hardware/index.ts";
import { IoBus, type MachineCheck } from "../platform/index.ts";
import type { Board, EntryHook, StepHook } from "./board.ts";
import { coreFeatures, startCpu } from "./boot-state.ts";
import { CPU_CPU_ID } from "./core/layout.gen.ts";
import { CoreFields } from "./core-fields.ts";
import type { CoreFunctions } from "./core-functions.ts";
import { type Gear, GearedCore } from "./geared-core.ts";
import { Inspection } from "./inspection.ts";
import type { MachinePath } from "./machine-path.ts";
import { SEND_ALL, SEND_ALL_BUT_SELF, SEND_SELF } from "./msrs.ts";
import { type PuppetRegisters, runPuppet } from "./puppets.ts";
import { SimulatedCpu } from "./simulated-cpu.ts";
import { type MachineSnapshot, restoreSnapshot, takeSnapshot } from "./snapshot.ts";

export interface MachineOptions {
  readonly model: CpuModel;
  readonly memoryBytes: number;
  readonly cpus: number;
  /** Logical CPUs of a core, which share its caches and predictors and take short turns. 1 unless given. */
  readonly threadsPerCore?: number;
  readonly gear: Gear;
  readonly image: KernelImage;
  readonly commandLine: string;
  readonly observer: Observer;
  /** The initial RAM disk, which firmware puts at the end of memory. */
  readonly initrd?: Uint8Array;
  /** Bytes written to the debug console and the serial port. */
  readonly console?: (byte: number, port: number) => void;
}

/** How a run ended. */
export type RunResult =
  | { readonly kind: "exit"; readonly status: number }
  | { readonly kind: "limit" }
  /** Every CPU is halted and nothing is on its way. */
  | { readonly kind: "idle" }
  | { readonly kind: "triple-fault"; readonly cpu: CpuId };

/** How far a CPU runs ahead of the others, in cycles. */
const QUANTUM = 20_000;
/** The same for siblings of one core, which really run at the same time. */
const SIBLING_QUANTUM = 200;
/** While CPUs wait for the mailbox, the others look at it this often. */
const MAILBOX_QUANTUM = 20_000;
/** Cycles that an interrupt message travels. */
const MESSAGE_CYCLES = 200;
/** Cycles from falling asleep in S3 to the waking vector. */
const SLEEP_CYCLES = 1_000_000;
const MAILBOX_WAKE_UP = 1;
const MAX_COMMAND_LINE = 2048;

export class SimulatedMachine implements Board {
  readonly model: CpuModel;
  readonly memory: PhysicalMemory;
  readonly cpus: readonly SimulatedCpu[];
  readonly image: KernelImage;
  readonly gearedCore: GearedCore;
  readonly core: CoreFunctions;
  readonly fields: CoreFields;
  readonly io: IoBus;
  readonly handlers: ReadonlyMap<number, () => void>;
  readonly stubReturn: number;
  readonly stubReturnAddress: VirtAddr;
  readonly inspection: Inspection;
  readonly sleeping = new Map<number, MachinePath>();
  private readonly puppets = new Map<number, { readonly name: string; readonly puppet: Puppet }>();
  stepHook: StepHook | undefined;
  /** Sees entries to guests, and puppets as they run: the state is what they would find. */
  entryHook: EntryHook | undefined;
  readonly threadsPerCore: number;
  private result: RunResult | undefined;
  private limit = Number.POSITIVE_INFINITY;

  constructor(options: MachineOptions) {
    const { image, observer } = options;
    this.model = options.model;
    this.image = image;
    this.gearedCore = new GearedCore(options.model, options.memoryBytes, options.cpus, options.gear, options.threadsPerCore ?? 1);
    this.threadsPerCore = options.threadsPerCore ?? 1;
    this.inspection = new Inspection(this.gearedCore);
    this.core = this.gearedCore.functions;
    this.fields = new CoreFields(this.gearedCore.view);
    this.memory = new PhysicalMemory(this.gearedCore.physical);
    this.io = new IoBus({
      console: options.console ?? (() => undefined),
      exit: (status) => this.stop({ kind: "exit", status }),
      suspendToRam: () => this.suspendToRam(),
    });
    this.stubReturnAddress = this.symbolOf(STUB_RETURN);
    this.stubReturn = this.physicalOfText(this.stubReturnAddress);
    this.handlers = this.registerTraps();
    this.load(options);
    const tee = this.labelling(observer);
    const cpus: SimulatedCpu[] = [];
    for (let id = 0; id < options.cpus; id++) cpus.push(new SimulatedCpu(this, cpuId(id), options.model, this.memory, tee));
    this.cpus = cpus;
    const boot = this.cpus[0];
    assert(boot !== undefined, () => "a machine needs a CPU");
    this.start(boot, this.symbolOf(image.entrySymbol), 0);
  }

  // ---------------------------------------------------------------- running

  /** Runs until the simulation ends, or every CPU has reached `limit` cycles. Can be called again to go on. */
  run(limit = Number.POSITIVE_INFINITY): RunResult {
    this.result = undefined;
    this.limit = limit;
    for (;;) {
      if (this.result !== undefined) return this.result;
      this.pollMailbox();
      const next = this.earliest();
      if (next === undefined || next.wakeTime === Number.POSITIVE_INFINITY) return { kind: "idle" };
      if (next.wakeTime >= limit) return { kind: "limit" };
      this.select(next);
      next.takeTurn(this.turnEnd(next));
    }
  }

  /**
   * Lets one CPU run for at most `cycles`, wherever the clocks of the others stand; messages that were sent to it have arrived. For those
   * who choose the order themselves.
   * @returns how the run was ended; undefined: it has nothing more to do, waits for another CPU, or its cycles are over
   */
  turn(id: CpuId, cycles: number): RunResult | undefined {
    const cpu = this.cpus[id];
    assert(cpu !== undefined, () => `no cpu ${id}`);
    this.result = undefined;
    this.pollMailbox();
    cpu.now = Math.max(cpu.now, this.now + MESSAGE_CYCLES);
    this.limit = cpu.now + cycles;
    this.select(cpu);
    cpu.takeTurn(this.limit);
    return this.result;
  }

  get isStopping(): boolean {
    return this.result !== undefined;
  }

  /** Ends the run with `result` at the next step of the running CPU. */
  stop(result: RunResult): void {
    this.result ??= result;
  }

  stopWithTripleFault(cpu: { readonly id: number }): void {
    this.stop({ kind: "triple-fault", cpu: cpuId(cpu.id) });
  }

  /**
   * Sees every live step of every CPU from now on, before it acts and before anything is delivered; it may inject what is due at it.
   * Not called while a step is under way (a guest runs, HLT waits).
   */
  setStepHook(hook: StepHook | undefined): void {
    this.stepHook = hook;
  }

  /** The whole state, to come back to. Between two calls of run(). */
  snapshot(): MachineSnapshot {
    return takeSnapshot(this.gearedCore, this.cpus, this.sleeping);
  }

  restore(snapshot: MachineSnapshot): void {
    restoreSnapshot(this.gearedCore, this.cpus, this.sleeping, snapshot);
  }

  /** Simulated time: of the CPU that is furthest. */
  get now(): number {
    let latest = 0;
    for (const cpu of this.cpus) if (cpu.isOnline && cpu.now > latest) latest = cpu.now;
    return latest;
  }

  private earliest(): SimulatedCpu | undefined {
    let best: SimulatedCpu | undefined;
    for (const cpu of this.cpus) if (best === undefined || cpu.wakeTime < best.wakeTime) best = cpu;
    return best;
  }

  turnEnd(of: { readonly id: number; readonly now: number }): number {
    this.pollMailbox();
    let end = this.limit;
    for (const cpu of this.cpus) {
      if (cpu.id === of.id) continue;
      if (cpu.isOnline) end = Math.min(end, cpu.wakeTime + this.quantum(cpu.id, of.id));
      else end = Math.min(end, this.nextActivity(of) + MAILBOX_QUANTUM);
    }
    return end;
  }

  /** When `of` next does something: a turn that ended before would be for nothing, again and again. */
  private nextActivity(of: { readonly id: number; readonly now: number }): number {
    const wakeTime = this.cpus[of.id]?.wakeTime ?? of.now;
    return wakeTime < Number.POSITIVE_INFINITY ? Math.max(of.now, wakeTime) : of.now;
  }

  private quantum(one: number, other: number): number {
    return Math.floor(one / this.threadsPerCore) === Math.floor(other / this.threadsPerCore) ? SIBLING_QUANTUM : QUANTUM;
  }

  isSomeoneBehind(id: number, now: number): boolean {
    this.pollMailbox();
    for (const cpu of this.cpus) if (cpu.id !== id && cpu.wakeTime < now) return true;
    return false;
  }

  private select(cpu: SimulatedCpu): void {
    if (this.fields.low(CPU_CPU_ID) !== cpu.id) this.gearedCore.selectCpu(cpu.id);
  }

  // ---------------------------------------------------------------- interrupts between CPUs

  sendInterrupt(from: { readonly id: number; readonly now: number }, destination: number, vector: number, isNmi: boolean): void {
    for (const cpu of this.cpus) if (cpu.isOnline && isDestination(cpu.id, from.id, destination)) this.post(from, cpu, vector, isNmi);
  }

  private post(from: { readonly id: number; readonly now: number }, to: SimulatedCpu, vector: number, isNmi: boolean): void {
    to.apic.send(from.now + MESSAGE_CYCLES, vector, isNmi);
    const sender = this.cpus[from.id];
    if (to.id !== from.id && sender !== undefined) sender.shortenTurn(to.wakeTime + this.quantum(to.id, from.id));
  }

  /** An NMI from outside (a watchdog, a button), at `time`. */
  injectNmi(cpu: CpuId, time: number): void {
    this.cpus[cpu]?.apic.send(time, 2, true);
  }

  /** An uncorrected error at a CPU; in a step hook, before the step. */
  injectMachineCheck(cpu: CpuId, event: MachineCheck): void {
    this.cpus[cpu]?.injectMachineCheck(event);
  }

  // ---------------------------------------------------------------- firmware

  private load(options: MachineOptions): void {
    const { memory, image } = this;
    assert(
      options.commandLine.length <= MAX_COMMAND_LINE,
      () => `command line of ${options.commandLine.length} bytes, at most ${MAX_COMMAND_LINE}`,
    );
    assert(memory.has(image.physicalBase, image.bytes.length), () => `the kernel does not fit ${memory.size} bytes of memory`);
    memory.bytes.set(image.bytes, image.physicalBase);
    memory.writeWord(physAddr(BOOT_MEMORY_BYTES), memory.size);
    memory.write32(physAddr(BOOT_CPUS), options.cpus);
    memory.write32(physAddr(BOOT_COMMAND_LINE_LENGTH), options.commandLine.length);
    for (let i = 0; i < options.commandLine.length; i++)
      memory.write8(physAddr(BOOT_COMMAND_LINE + i), options.commandLine.charCodeAt(i) & 0x7f);
    const { initrd } = options;
    if (initrd === undefined) return;
    const at = pageDown(physAddr(memory.size - initrd.length));
    memory.bytes.set(initrd, at);
    memory.writeWord(physAddr(BOOT_INITRD), at);
    memory.writeWord(physAddr(BOOT_INITRD_BYTES), initrd.length);
  }

  /** The wakeup mailbox (ACPI 6.4, 5.2.12.19): starts the CPU that it names. */
  private pollMailbox(): void {
    const { memory } = this;
    if (memory.read16(physAddr(BOOT_WAKEUP_MAILBOX)) !== MAILBOX_WAKE_UP) return;
    const cpu = this.cpus[memory.read32(physAddr(BOOT_WAKEUP_MAILBOX + 4))];
    memory.write16(physAddr(BOOT_WAKEUP_MAILBOX), 0);
    if (cpu === undefined || cpu.isOnline) return;
    this.start(cpu, memory.readWord(physAddr(BOOT_WAKEUP_MAILBOX + 8)), this.now);
  }

  /**
   * Sleep state S3, entered by the running CPU when all others are parked: it forgets all but memory. Something wakes the machine at once,
   * and the CPU stands at the waking vector.
   */
  private suspendToRam(): void {
    const cpu = this.cpus[this.fields.low(CPU_CPU_ID)];
    assert(cpu !== undefined, () => "S3 without a running CPU");
    for (const other of this.cpus) assert(other === cpu || !other.isOnline, () => `S3 while cpu ${other.id} runs`);
    this.core.resetCaches();
    this.start(cpu, this.memory.readWord(physAddr(BOOT_FACS + FACS_WAKING_VECTOR)), cpu.now + SLEEP_CYCLES);
  }

  private start(cpu: SimulatedCpu, entry: number, time: number): void {
    const active = this.fields.low(CPU_CPU_ID);
    this.select(cpu);
    const pageTable = this.physicalOfText(this.symbolOf(EARLY_PAGE_TABLE_SYMBOL));
    startCpu(this.fields, { id: cpu.id, entry, pageTable, features: coreFeatures(this.model) });
    this.core.contextChanged();
    cpu.reset();
    cpu.now = time;
    cpu.isOnline = true;
    if (active !== cpu.id) this.gearedCore.selectCpu(active);
  }

  // ---------------------------------------------------------------- symbols, traps, puppets

  physicalOfText(va: number): number {
    return va - this.image.base + this.image.physicalBase;
  }

  symbol(name: string): VirtAddr {
    return this.symbolOf(name);
  }

  private symbolOf(name: string): VirtAddr {
    const address = this.image.symbols.get(name);
    assert(address !== undefined, () => `the kernel image has no symbol ${name}`);
    return address;
  }

  private registerTraps(): Map<number, () => void> {
    const handlers = new Map<number, () => void>();
    this.core.registerTrap(this.stubReturn);
    for (const [address, name] of this.image.traps) {
      const pa = this.physicalOfText(address);
      this.core.registerTrap(pa);
      if (pa === this.stubReturn) continue;
      const handler = this.image.handlers.get(name);
      assert(handler !== undefined, () => `the trap ${name} has no handler`);
      handlers.set(pa, handler);
    }
    return handlers;
  }

  addPuppet(name: string, trap: number): void {
    const puppet = this.image.puppets.get(name);
    assert(puppet !== undefined, () => `no puppet is called ${name}`);
    this.puppets.set(trap, { name, puppet });
    this.core.registerTrap(trap);
    this.core.physicalWritten(trap, 1);
  }

  runPuppet(trap: number, cpu: PuppetRegisters): void {
    const found = this.puppets.get(trap);
    assert(found !== undefined, () => `a user-mode trap at physical ${trap} that belongs to no puppet`);
    runPuppet(found.puppet, found.name, cpu);
  }

  physicalWritten(pa: number, bytes: number): void {
    this.core.physicalWritten(pa, bytes);
  }

  get cpuCount(): number {
    return this.cpus.length;
  }

  // ---------------------------------------------------------------- caches, predictors, ground truth

  /** Instructions that all CPUs have retired. */
  get instructions(): number {
    return this.cpus.reduce((sum, cpu) => sum + this.inspection.retired(cpu.id), 0);
  }

  /** Instructions that were met and are not implemented, by name, with how often each raised #UD. */
  get unimplemented(): readonly (readonly [string, number])[] {
    return [...this.gearedCore.core.unimplemented].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  /** CR3 of a CPU, for observers. */
  peekCr3(id: CpuId): Cr3 {
    return this.inspection.cr3(id);
  }

  /** True when the line of physical address `pa` is in the L1D of this CPU's core. */
  isInL1d(id: CpuId, pa: PhysAddr): boolean {
    return this.inspection.isCached("l1d", id, pa);
  }

  get isDetailed(): boolean {
    return this.gearedCore.gear === "detailed";
  }

  touchPhysical(pa: number, bytes: number, isWrite: boolean): void {
    this.gearedCore.touchPhysical(pa, bytes, isWrite);
  }

  predictorBarrier(): void {
    this.gearedCore.predictorBarrier();
  }

  flushL1d(): void {
    this.gearedCore.flushL1d();
  }

  writeBackCaches(): void {
    this.gearedCore.writeBackCaches();
  }

  speculationControl(cpu: number, value: number): void {
    this.gearedCore.speculationControl(cpu, value);
  }

  /** The given observer, and beside it the labels of frames and contexts that the core keeps. */
  private labelling(observer: Observer): Observer {
    const { gearedCore } = this;
    return {
      trace: (event, a, b, c) => observer.trace(event, a, b, c),
      print: (text) => observer.print(text),
      frameOwner: (pfn: Pfn, label: Owner) => {
        gearedCore.setFrameOwner(pfn, label);
        observer.frameOwner(pfn, label);
      },
      context: (cpu: number, kind: OwnerKind, label: Owner) => {
        gearedCore.setContext(cpu, kind, label);
        observer.context(cpu, kind, label);
      },
      ...memoryEvents(observer),
    };
  }
}

function isDestination(id: number, from: number, destination: number): boolean {
  if (destination === SEND_ALL) return true;
  if (destination === SEND_SELF) return id === from;
  if (destination === SEND_ALL_BUT_SELF) return id !== from;
  return id === destination;
}
