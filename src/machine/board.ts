// What a logical CPU sees of the machine around it.
import type { VirtAddr } from "../hardware/index.ts";
import type { IoBus, LocalApic } from "../platform/index.ts";
import type { CoreFields } from "./core-fields.ts";
import type { CoreFunctions } from "./core-functions.ts";
import type { MachinePath } from "./machine-path.ts";
import type { PuppetRegisters } from "./puppets.ts";

/** A CPU as its step hook sees it. */
export interface SteppingCpu {
  readonly id: number;
  readonly now: number;
  readonly path: MachinePath;
  readonly apic: LocalApic;
  /** Suspends the running path before its step; it goes on from its log at once (law 3). */
  suspendOnce(): void;
}

/** Sees a step of a CPU before it acts. */
export type StepHook = (cpu: SteppingCpu) => void;

/** Sees that a guest is about to be entered, or that user code (a puppet) runs. */
export type EntryHook = (cpu: SteppingCpu, kind: "user" | "guest") => void;

export interface Board {
  /** Set: every step is looked at. */
  readonly stepHook: StepHook | undefined;
  readonly entryHook: EntryHook | undefined;
  readonly core: CoreFunctions;
  /** True in the detailed gear: accesses pass through the cache model and take time. */
  readonly isDetailed: boolean;
  readonly fields: CoreFields;
  readonly io: IoBus;
  readonly cpuCount: number;
  readonly threadsPerCore: number;
  /** True when the simulation shall end: every CPU gives up its turn at its next step. */
  readonly isStopping: boolean;
  /** Handlers of the kernel's traps by physical address. */
  readonly handlers: ReadonlyMap<number, () => void>;
  /** The trap `stub_return`: physical and virtual address. */
  readonly stubReturn: number;
  readonly stubReturnAddress: VirtAddr;
  /** Paths that sleep in a stack switch, by task. */
  readonly sleeping: Map<number, MachinePath>;
  /** Physical address of kernel text. */
  physicalOfText(va: number): number;
  symbol(name: string): VirtAddr;
  /** When the turn of CPU `of` ends: some time after the others' next activity. */
  turnEnd(of: { readonly id: number; readonly now: number }): number;
  /** True when another CPU has work at an earlier time than `now`. */
  isSomeoneBehind(id: number, now: number): boolean;
  /** Sends an interrupt message; `destination` as in MsrHost. */
  sendInterrupt(from: { readonly id: number; readonly now: number }, destination: number, vector: number, isNmi: boolean): void;
  stopWithTripleFault(cpu: { readonly id: number }): void;
  /** Adds a puppet's trap. */
  addPuppet(name: string, trap: number): void;
  /** Physical memory was written past the core: translations of that code go. */
  physicalWritten(pa: number, bytes: number): void;
  // Operations on caches and predictors; nothing in the architectural gear.
  touchPhysical(pa: number, bytes: number, isWrite: boolean): void;
  predictorBarrier(): void;
  flushL1d(): void;
  writeBackCaches(): void;
  speculationControl(cpu: number, value: number): void;
  runPuppet(trap: number, cpu: PuppetRegisters): void;
}
