// The vector registers of user code. The kernel itself uses none, so they hold the running task's until another task runs: the stack switch
// saves and loads them (kernel: switch_fpu(), which leaves the loading to the return to user mode). What FXSAVE also keeps, the x87 stack
// and MXCSR, no code here has.
import type { Assembler } from "../../assembler/index.ts";
import { bytes, CR4_OSFXSR, CR4_OSXMMEXCPT, cpu, struct } from "../../hardware/index.ts";
import type { StubProgram } from "../stub-program.ts";

export const XMM_COUNT = 16;
export const XMM_BYTES = 16;
/** Bytes of all of them. */
export const FPREGS_BYTES = XMM_COUNT * XMM_BYTES;

/** Kernel: struct fpu, as far as it is used. */
export const Fpu = struct("fpu", { xmm: bytes(FPREGS_BYTES, 16) });

// The assembler names four vector registers: MOVUPS with a 32-bit displacement from RDI or RSI is written out. SDM vol. 2, MOVUPS.
const REX_R = 0x44;
const MOVUPS_LOAD = 0x10;
const MOVUPS_STORE = 0x11;
const MODRM_RDI_DISP32 = 0x87;
const MODRM_RSI_DISP32 = 0x86;

function movups(a: Assembler, opcode: number, modrm: number, register: number, displacement: number): void {
  if (register >= 8) a.db(REX_R);
  a.db(0x0f, opcode, modrm | ((register & 7) << 3)).dd(displacement);
}

/** Stores all to `displacement` behind RDI. */
export function emitSaveFpregs(a: Assembler, displacement: number): void {
  for (let i = 0; i < XMM_COUNT; i++) movups(a, MOVUPS_STORE, MODRM_RDI_DISP32, i, displacement + XMM_BYTES * i);
}

/** Loads all from `displacement` behind RSI. */
export function emitLoadFpregs(a: Assembler, displacement: number): void {
  for (let i = 0; i < XMM_COUNT; i++) movups(a, MOVUPS_LOAD, MODRM_RSI_DISP32, i, displacement + XMM_BYTES * i);
}

/** Saves the running task's vector registers at the first argument. A machine without instructions has none: what is there stays. */
export const STUB_SAVE_FPREGS = "save_fpregs";
/** Loads them from the second argument. */
export const STUB_LOAD_FPREGS = "load_fpregs";

export const fpuStubs: readonly StubProgram[] = [
  {
    symbol: STUB_SAVE_FPREGS,
    program: (a) => {
      emitSaveFpregs(a, 0);
      a.ret();
    },
    effect: () => 0,
  },
  {
    symbol: STUB_LOAD_FPREGS,
    program: (a) => {
      emitLoadFpregs(a, 0);
      a.ret();
    },
    effect: () => 0,
  },
];

/** Lets this CPU use its vector registers (kernel: `fpu__init_cpu_generic()`). */
export function fpuInitCpu(): void {
  cpu.writeCr4(cpu.readCr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
}
