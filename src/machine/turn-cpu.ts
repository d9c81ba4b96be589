// A logical CPU among others: its turn, its clock, what is due, and its sleep in HLT. It decides when; what happens then is in
// code-cpu.ts.
import { type CpuId, type CpuModel, fail, LogicalCpu, type Observer, type PhysicalMemory, RFLAGS_IF } from "../hardware/index.ts";
import { LocalApic } from "../platform/index.ts";
import type { Board } from "./board.ts";
import { CPU_CR8, CPU_GUEST_MODE, CPU_HALTED, CPU_NMI_BLOCKED, CPU_RFLAGS } from "./core/layout.gen.ts";
import type { CoreFields } from "./core-fields.ts";
import type { CoreFunctions } from "./core-functions.ts";
import { MachinePath } from "./machine-path.ts";

function neverBegun(): void {
  fail("a kernel path that was never begun is run");
}

/** What this half keeps between two runs. */
export interface RunnerSnapshot {
  readonly now: number;
  readonly path: MachinePath;
  readonly hasPath: boolean;
  readonly isAsleep: boolean;
  readonly isOnline: boolean;
  readonly sleepPriority: number;
  readonly takesInterruptsAsleep: boolean;
  readonly takesNmiAsleep: boolean;
  readonly isMachineCheckPending: boolean;
}

export abstract class TurnCpu extends LogicalCpu {
  readonly core: CoreFunctions;
  readonly fields: CoreFields;
  readonly apic = new LocalApic();
  override path = new MachinePath(neverBegun);
  /** True while a kernel path of this CPU is suspended or runs; false: machine code runs at the root. */
  hasPath = false;
  /** #MC is delivered at the next boundary: nothing masks it. */
  protected isMachineCheckPending = false;
  /** In HLT. */
  isAsleep = false;
  /** False until the mailbox starts this CPU. */
  isOnline = false;
  protected readonly board: Board;
  /** The turn is over at this time. */
  protected turnEnd = 0;
  /** A stack switch is under way: the path cannot be suspended. */
  protected mustNotYield = false;
  protected isSuspensionAsked = false;
  /** What wakes it from HLT, noted when it fell asleep: the registers are not at hand later. */
  private sleepPriority = 0;
  private takesInterruptsAsleep = false;
  private takesNmiAsleep = false;

  protected constructor(board: Board, id: CpuId, model: CpuModel, memory: PhysicalMemory, observer: Observer) {
    super(id, model, memory, observer);
    this.board = board;
    this.core = board.core;
    this.fields = board.fields;
  }

  protected runnerSnapshot(): RunnerSnapshot {
    const { now, hasPath, isAsleep, isOnline, sleepPriority, takesInterruptsAsleep, takesNmiAsleep, isMachineCheckPending } = this;
    const path = new MachinePath(this.path.root);
    path.copyFrom(this.path);
    return { now, path, hasPath, isAsleep, isOnline, sleepPriority, takesInterruptsAsleep, takesNmiAsleep, isMachineCheckPending };
  }

  protected restoreRunner(state: RunnerSnapshot): void {
    this.now = state.now;
    this.path = new MachinePath(state.path.root);
    this.path.copyFrom(state.path);
    this.hasPath = state.hasPath;
    this.isAsleep = state.isAsleep;
    this.isOnline = state.isOnline;
    this.sleepPriority = state.sleepPriority;
    this.takesInterruptsAsleep = state.takesInterruptsAsleep;
    this.takesNmiAsleep = state.takesNmiAsleep;
    this.isMachineCheckPending = state.isMachineCheckPending;
  }

  // ---------------------------------------------------------------- turns

  /** When this CPU next has something to do. */
  get wakeTime(): number {
    if (!this.isOnline) return Number.POSITIVE_INFINITY;
    if (!this.isAsleep || this.canWake()) return this.now;
    return Math.max(this.now, this.apic.nextArrival);
  }

  /** From the step hook: the running path is suspended before its step and goes on from its log at once (law 3). */
  suspendOnce(): void {
    this.isSuspensionAsked = true;
  }

  /** A message reached another CPU that may now be due before this turn ends. */
  shortenTurn(end: number): void {
    if (end >= this.turnEnd) return;
    this.turnEnd = end;
    this.rearm();
  }

  /** True when the turn is over, after asking the machine whether it still is. */
  protected isTurnOver(): boolean {
    if (this.board.isStopping) return true;
    if (this.now < this.turnEnd) return false;
    this.turnEnd = this.board.turnEnd(this);
    return this.now >= this.turnEnd;
  }

  // ---------------------------------------------------------------- what is due

  /** The interrupt that the APIC offers and RFLAGS.IF lets through, or -1. */
  protected deliverableVector(): number {
    if ((this.fields.low(CPU_RFLAGS) & RFLAGS_IF) === 0) return -1;
    return this.apic.pending(this.fields.low(CPU_CR8));
  }

  /** Recomputes when the step hook must run. Called after anything that changes what is due. */
  protected rearm(): void {
    this.horizon = Math.min(this.turnEnd, this.apic.nextArrival);
    this.attention =
      this.board.isStopping ||
      this.board.stepHook !== undefined ||
      this.isMachineCheckPending ||
      (this.apic.isNmiPending && this.fields.low(CPU_NMI_BLOCKED) === 0) ||
      this.deliverableVector() >= 0;
  }

  // ---------------------------------------------------------------- sleep

  /** HLT: notes what may wake this CPU. In a guest the host's interrupts do, whatever the guest's flags say. */
  protected fallAsleep(): void {
    const isGuest = this.fields.low(CPU_GUEST_MODE) !== 0;
    this.isAsleep = true;
    this.sleepPriority = this.fields.low(CPU_CR8);
    this.takesInterruptsAsleep = isGuest || (this.fields.low(CPU_RFLAGS) & RFLAGS_IF) !== 0;
    this.takesNmiAsleep = isGuest || this.fields.low(CPU_NMI_BLOCKED) === 0;
  }

  private canWake(): boolean {
    if (this.isMachineCheckPending || (this.apic.isNmiPending && this.takesNmiAsleep)) return true;
    return this.takesInterruptsAsleep && this.apic.pending(this.sleepPriority) >= 0;
  }

  /** Lets time pass until something wakes this CPU. @returns false: not within this turn. */
  protected sleep(): boolean {
    for (;;) {
      this.apic.collect(this.now);
      if (this.canWake()) {
        this.isAsleep = false;
        this.fields.setLow(CPU_HALTED, 0);
        return true;
      }
      const next = this.apic.nextArrival;
      if (next === Number.POSITIVE_INFINITY || next > this.turnEnd) return false;
      this.now = Math.max(this.now, next);
    }
  }
}
