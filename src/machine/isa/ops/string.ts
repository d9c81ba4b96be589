// String instructions: MOVS STOS LODS SCAS CMPS, alone and repeated. Each is one call of the core, which works page by page: a
// repeated one returns after a portion, so that interrupts arrive between portions as between iterations on silicon.
// IMM holds STRING_* bits; the base register of the source segment (FS, GS, or none) is in `src`.
import type { Op } from "../ir.ts";
import { imm, reg, status } from "../ir.ts";

export const STRING_NAMES = ["movs", "stos", "lods", "scas", "cmps"] as const;
export type StringName = (typeof STRING_NAMES)[number];

/** IMM: log2 of the element bytes. */
export const STRING_SIZE_MASK = 3;
/** IMM: REP, REPE. */
export const STRING_REPEAT = 4;
/** IMM: REPNE. */
export const STRING_REPEAT_NE = 8;
/** IMM: 32-bit addresses (prefix 67). */
export const STRING_ADDRESS32 = 16;
/** IMM: 16-bit addresses (compatibility mode). */
export const STRING_ADDRESS16 = 32;
/** IMM: SEG_* of the source, for compatibility mode. */
export const STRING_SEGMENT_SHIFT = 8;

export const stringOps: readonly Op[] = STRING_NAMES.map((name) => ({
  name,
  cold: true,
  bytes: 16,
  latency: "slow",
  body: [status(`${name}String`, imm, reg("src", 64))],
}));
