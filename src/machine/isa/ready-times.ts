// The scoreboard's figures: how long each class of micro-op takes, and where the time is kept at which an operand is known.
import type { Latency, Operand } from "./ir.ts";
import { operandOffset } from "./print.ts";

/** Core cycles from operands ready to result ready. A load's time comes from the cache model. Sources: uops.info for Skylake. */
export const LATENCY_CYCLES: Readonly<Record<Latency, number>> = {
  move: 1,
  alu: 1,
  shift: 1,
  multiply: 3,
  divide: 26,
  branch: 1,
  bits: 3,
  slow: 4,
  serialize: 1,
  system: 1,
};

/** Times are quarter cycles. */
export const PER_CYCLE = 4;

/** Place of the ready time of an operand. AH and its like belong to the register they are part of. */
export function readyPlace(at: Operand): string {
  const offset = operandOffset(at);
  return at === "base" || at === "index" ? `${offset}, CPU_READY` : `${offset} & 0xf8, CPU_READY`;
}
