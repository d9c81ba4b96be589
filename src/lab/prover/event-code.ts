// Events as numbers, so that a tree of millions of them is a few typed arrays. An event is what begins on which CPU, and before which of its
// steps what is injected; its code is a row of numbers: the start, then each injection in the order of the steps.
import { assert } from "../../hardware/index.ts";

/** The start, then the injections. */
export type EventCode = readonly number[];

const OPERATION_LIMIT = 1 << 12;
const KIND_LIMIT = 1 << 5;
const STEP_LIMIT = 1 << 25;

/** What begins: number `operation` of the configuration's list on CPU `cpu`. */
export function encodeStart(cpu: number, operation: number): number {
  assert(operation >= 0 && operation < OPERATION_LIMIT, () => `operation ${operation} has no code`);
  return cpu * OPERATION_LIMIT + operation;
}

export function decodeStart(code: number): { readonly cpu: number; readonly operation: number } {
  return { cpu: Math.floor(code / OPERATION_LIMIT), operation: code % OPERATION_LIMIT };
}

/** An injection of kind `kind` before step `at` of the event, counted on its CPU. */
export function encodeInjection(at: number, kind: number): number {
  assert(at >= 0 && at < STEP_LIMIT && kind >= 0 && kind < KIND_LIMIT, () => `an injection of kind ${kind} before step ${at} has no code`);
  return at * KIND_LIMIT + kind;
}

export function decodeInjection(code: number): { readonly at: number; readonly kind: number } {
  return { at: Math.floor(code / KIND_LIMIT), kind: code % KIND_LIMIT };
}
