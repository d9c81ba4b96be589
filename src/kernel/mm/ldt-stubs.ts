// LDTR and the segment registers that a change of the table leaves stale: machine code, since no step of the seam reaches them.
import { type Assembler, ax, di, ds, eax, es } from "../../assembler/index.ts";
import type { StubProgram } from "../stub-program.ts";

export const LOAD_LDT = "load_ldt";
export const REFRESH_LDT_SEGMENTS = "refresh_ldt_segments";

/** Bit of a selector: of the LDT, not the GDT. */
const TABLE_INDICATOR = 4;

/** LLDT of the selector in RDI; 0: no table (kernel: `load_LDT_desc()`, `clear_LDT()`). */
const loadLdt: StubProgram = {
  symbol: LOAD_LDT,
  program: (a: Assembler) => {
    a.lldt(di).ret();
  },
  // The abstract machine has no segments.
  effect: () => 0,
};

/** Loads DS and ES again where they are of the LDT, whose descriptors may have changed (kernel: `refresh_ldt_segments()`). */
const refreshLdtSegments: StubProgram = {
  symbol: REFRESH_LDT_SEGMENTS,
  program: (a: Assembler) => {
    for (const [name, register] of [
      ["ds", ds],
      ["es", es],
    ] as const) {
      a.mov(eax, register).test(eax, TABLE_INDICATOR).jz(`refresh_ldt.${name}`);
      // A selector that cannot be loaded any more becomes the null one.
      a.verr(ax).jz(`refresh_ldt.${name}.load`).xor(eax, eax);
      a.label(`refresh_ldt.${name}.load`).mov(register, eax).label(`refresh_ldt.${name}`);
    }
    a.ret();
  },
  effect: () => 0,
};

export const ldtStubs: readonly StubProgram[] = [loadLdt, refreshLdtSegments];
