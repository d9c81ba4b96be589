// How a directed case is written: code through the assembler, the classes of its registers, the flags it defines.
import { type Assembler, assemble, assembler } from "../../src/assembler/index.ts";
import { type Case, CODE_BASE, CODE_OFFSET, COMPARED_FLAGS, HOT_MIDDLE } from "./case.ts";
import type { Random } from "./random.ts";
import { randomClasses } from "./random-operands.ts";

/** One kind of directed case; each call draws another. */
export interface Directed {
  readonly name: string;
  make(random: Random, seed: number): Case;
}

export interface Draft {
  readonly a: Assembler;
  readonly classes: Uint8Array;
  readonly random: Random;
  flagMask: number;
}

/** A kind whose cases `write` writes. */
export function directed(name: string, write: (draft: Draft) => void): Directed {
  return {
    name,
    make: (random, seed) => {
      const draft: Draft = { a: assembler(), classes: randomClasses(random), random, flagMask: COMPARED_FLAGS };
      write(draft);
      const { bytes } = assemble(draft.a.program(), { origin: CODE_BASE + CODE_OFFSET, symbols: new Map([["hot", HOT_MIDDLE]]) });
      return { name, seed, code: bytes, codeOffset: CODE_OFFSET, classes: draft.classes, flagMask: draft.flagMask };
    },
  };
}
