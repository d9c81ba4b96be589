// What the explorer can let a CPU do: an operation of the process that runs there, of the kernel on its behalf, or something that comes to the
// CPU from outside. Each is data: when it is possible, its actions, and what the process knows afterwards.
import type { PuppetAction } from "../../hardware/index.ts";
import type { GuestExit, ResidueCpu } from "../../residue/index.ts";
import type { ProcessMemory } from "./process-memory.ts";

/** What a part of an operation has at hand. */
export interface Turn {
  readonly memory: ProcessMemory;
  /** Result of the part before. */
  readonly result: number;
  readonly place: Place;
}

/** One action. */
export type Part = (turn: Turn) => PuppetAction;

/** What a process must have set up before its operations begin. */
export type Need = "region" | "shared page" | "file" | "pipe" | "handler" | "vm" | "vdso";

/** What an operation's first guest exits are; then it halts. "runs on": until an interrupt; the others come while it runs. */
export type GuestLeaves = GuestExit | "runs on" | "interrupt" | "nmi";

/** Where an operation would begin, besides what the process remembers. */
export interface Place {
  readonly cpu: number;
  /** CPUs that are online. */
  readonly online: readonly number[];
  readonly parked: readonly number[];
  /** A word of the process's memory; 0 where nothing is. */
  word(address: number): number;
}

export interface ProcessOperation {
  readonly kind: "process";
  readonly needs: readonly Need[];
  readonly isPossible?: (memory: ProcessMemory, place: Place) => boolean;
  readonly parts: readonly Part[];
  /** Hears the result of the last part. */
  readonly finish?: (turn: Turn) => void;
  readonly exits?: readonly GuestLeaves[];
  /** The VM and vCPU that it is about. */
  readonly vm?: number;
  readonly vcpu?: number;
}

/** Something that comes to a CPU that runs user code, or a guest, or is halted. */
export interface DeliveryOperation {
  readonly kind: "delivery";
  /** The handler reads memory that restricted address spaces lack. */
  readonly isSensitive: boolean;
  readonly isPossible?: (cpu: ResidueCpu) => boolean;
  readonly deliver: (cpu: ResidueCpu) => void;
}

export type Operation = ProcessOperation | DeliveryOperation;

export function call(number: number, ...args: number[]): PuppetAction {
  return { kind: "syscall", number, args };
}
