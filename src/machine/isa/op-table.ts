// The op table: every micro-operation once. Its index is the op's number in a micro-op. Hot ops come first, so that the hot
// switch of an executor is dense and everything from HOT_OPS on goes to the cold one.
import type { Op } from "./ir.ts";
import { aluOps } from "./ops/alu.ts";
import { arithmeticOps } from "./ops/arithmetic.ts";
import { compatOps } from "./ops/compat.ts";
import { controlOps } from "./ops/control.ts";
import { moveOps } from "./ops/move.ts";
import { shiftOps } from "./ops/shift.ts";
import { stringOps } from "./ops/string.ts";
import { systemOps } from "./ops/system.ts";

const all: readonly Op[] = [...aluOps, ...moveOps, ...shiftOps, ...arithmeticOps, ...controlOps, ...stringOps, ...systemOps, ...compatOps];

export const OPS: readonly Op[] = [...all.filter((op) => !op.cold), ...all.filter((op) => op.cold)];

/** Ops below this number are hot. */
export const HOT_OPS = all.filter((op) => !op.cold).length;

const numbers: ReadonlyMap<string, number> = numberOps();

/** Number of an op by name, or undefined. For building tables at start-up; translation itself never looks up names. */
export function findOp(name: string): number | undefined {
  return numbers.get(name);
}

export function opNumber(name: string): number {
  const number = numbers.get(name);
  if (number === undefined) throw new Error(`no such micro-operation: ${name}`);
  return number;
}

function numberOps(): ReadonlyMap<string, number> {
  const map = new Map<string, number>();
  for (const [index, op] of OPS.entries()) {
    if (map.has(op.name)) throw new Error(`micro-operation defined twice: ${op.name}`);
    map.set(op.name, index);
  }
  return map;
}
