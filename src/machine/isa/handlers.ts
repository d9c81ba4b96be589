// The table from mnemonics to translators. A handler emits the micro-ops of one instruction; what kind of instruction it is (does it
// end the block, does it set all flags, can it leave in its middle) stands beside it.
import { Mnemonic } from "iced-x86";
import type { Decoded } from "./decode.ts";
import type { MicroOpWriter } from "./emit.ts";

/** Emits `i`. False: this form is not implemented. */
export type Handler = (w: MicroOpWriter, i: Decoded) => boolean;

/** Goes on in line. */
export const FLOW_NEXT = 0;
/** A conditional branch: goes on in line when not taken. */
export const FLOW_CONDITIONAL = 1;
/** Transfers control by itself. */
export const FLOW_END = 2;
/** Always or often leaves to the dispatcher: nothing behind it is worth translating. */
export const FLOW_LEAVES = 3;
export type Flow = 0 | 1 | 2 | 3;

export interface HandlerEntry {
  readonly handler: Handler;
  readonly flow: Flow;
  /** Sets all six arithmetic flags whatever its operands, and reads none. */
  readonly setsAllFlags: boolean;
  /** Can fault or leave even without a memory operand, so the flags before it must be exact. */
  readonly canLeave: boolean;
}

/** By mnemonic; undefined: not implemented. */
export const handlers: (HandlerEntry | undefined)[] = [];

export interface HandlerOptions {
  readonly flow?: Flow;
  readonly setsAllFlags?: boolean;
  readonly canLeave?: boolean;
}

export function define(mnemonic: Mnemonic, handler: Handler, options: HandlerOptions = {}): void {
  const flow = options.flow ?? FLOW_NEXT;
  handlers[mnemonic] = {
    handler,
    flow,
    setsAllFlags: options.setsAllFlags ?? false,
    canLeave: options.canLeave ?? flow !== FLOW_NEXT,
  };
}

/** Name of a mnemonic for people, in lower case. */
export function mnemonicName(mnemonic: number): string {
  for (const [name, value] of Object.entries(Mnemonic)) if (value === mnemonic) return name.toLowerCase();
  return `#${mnemonic}`;
}
