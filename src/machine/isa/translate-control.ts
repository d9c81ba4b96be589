// Translation of branches, calls, returns, and stack instructions.
import { Mnemonic } from "iced-x86";
import { BRANCH, type Decoded, IMM, MEM, REG } from "./decode.ts";
import { type MicroOpWriter, NOT_TAKEN, TAKEN } from "./emit.ts";
import { define, FLOW_CONDITIONAL, FLOW_END, type Handler } from "./handlers.ts";
import { CONDITIONS, RBP, RSP, TEMP0, TEMP1, ZERO } from "./ir.ts";
import { findOp, opNumber } from "./op-table.ts";
import { FUSED_ALU } from "./ops/control.ts";
import { registerSize, SIZE_16, SIZE_64 } from "./registers.ts";
import { reg } from "./translate-integer.ts";

const MOV64_RM = opNumber("mov64_rm");
const CALL = opNumber("call");
const CALL_R = opNumber("call_r");
const RET = opNumber("ret");
const RET_IMM = opNumber("ret_imm");
const JMP = opNumber("jmp");
const JMP_R = opNumber("jmp_r");
const JMP_M = opNumber("jmp_m");
const PUSH_R = opNumber("push64_r");
const PUSH_I = opNumber("push64_i");
const PUSH_M = opNumber("push64_m");
const PUSH_16 = opNumber("push16");
const POP_R = opNumber("pop64_r");
const POP_M = opNumber("pop64_m");
const POP_16 = opNumber("pop16_r");
const MOV16_RM = opNumber("mov16_rm");
const MOV16_MR = opNumber("mov16_mr");
const MOV64_MR = opNumber("mov64_mr");
const LEA64 = opNumber("lea64");
const LEAVE = opNumber("leave");
const ENTER = opNumber("enter");
const PUSH_SEGMENT = opNumber("push_segment");
const POP_SEGMENT = opNumber("pop_segment");

/** Conditional jumps in the order of CONDITIONS. */
export const JCC = [
  Mnemonic.Jo,
  Mnemonic.Jno,
  Mnemonic.Jb,
  Mnemonic.Jae,
  Mnemonic.Je,
  Mnemonic.Jne,
  Mnemonic.Jbe,
  Mnemonic.Ja,
  Mnemonic.Js,
  Mnemonic.Jns,
  Mnemonic.Jp,
  Mnemonic.Jnp,
  Mnemonic.Jl,
  Mnemonic.Jge,
  Mnemonic.Jle,
  Mnemonic.Jg,
];

/** Condition number of a Jcc mnemonic, or -1. */
const conditionOf = new Int8Array(2048).fill(-1);
for (const [n, mnemonic] of JCC.entries()) conditionOf[mnemonic] = n;

/** Index of an ALU mnemonic among the fusible ones, or -1. */
const fusible = new Int8Array(2048).fill(-1);
for (const [n, mnemonic] of [Mnemonic.Cmp, Mnemonic.Test, Mnemonic.Sub, Mnemonic.Add, Mnemonic.And].entries()) fusible[mnemonic] = n;

/** Op number by [alu][size][form][condition], -1 where there is none. */
const fused: readonly number[] = FUSED_ALU.flatMap((alu) =>
  [8, 16, 32, 64].flatMap((bits) =>
    ["rr", "ri"].flatMap((form) => CONDITIONS.map((code) => findOp(`${alu}${bits}_${form}_j${code}`) ?? -1)),
  ),
);

/** The op that does `alu` and the conditional branch `jcc` after it at once, or -1. */
export function fusedOp(alu: Decoded, jcc: Decoded): number {
  const condition = conditionOf[jcc.mnemonic] ?? -1;
  const which = fusible[alu.mnemonic] ?? -1;
  if (condition < 0 || which < 0 || alu.kinds[0] !== REG || jcc.isSlowBranch) return -1;
  const second = alu.kinds[1];
  if (second !== REG && second !== IMM) return -1;
  const size = registerSize(alu.registers[0]);
  return fused[((which * 4 + size) * 2 + (second === REG ? 0 : 1)) * CONDITIONS.length + condition] ?? -1;
}

/** Emits a fused pair; the pair stands at the address of the first instruction. */
export function emitFused(w: MicroOpWriter, op: number, alu: Decoded, jcc: Decoded): number {
  const src = alu.kinds[1] === REG ? reg(alu, 1) : ZERO;
  w.count++;
  const pc = w.emitBranch(op, jcc, reg(alu, 0), src, alu.kinds[1] === IMM ? alu.imm : 0);
  w.link(pc, TAKEN, jcc.target);
  return pc;
}

function conditionalHandler(op: number): Handler {
  return (w, i) => {
    w.link(w.emitBranch(op, i), TAKEN, i.target);
    return true;
  };
}

/** LOOP counts in RCX, with a 32-bit address size in ECX. */
function loopHandler(op: number, op32: number): Handler {
  return (w, i) => {
    w.link(w.emitBranch(i.address32 ? op32 : op, i), TAKEN, i.target);
    return true;
  };
}

/** NOT_TAKEN of the conditional branch written last; set by the translator, which knows what follows. */
export { NOT_TAKEN };

function jumpHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[0] === BRANCH) w.link(w.emitBranch(JMP, i), TAKEN, i.target);
  else if (i.kinds[0] === REG && registerSize(i.registers[0]) === SIZE_64) w.emitBranch(JMP_R, i, reg(i, 0));
  else if (i.kinds[0] === MEM && i.memoryBytes === 8) w.emitBranchMemory(JMP_M, i);
  else return false;
  return true;
}

function callHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[0] === BRANCH) w.link(w.emitBranch(CALL, i, ZERO, ZERO, 0, i.end), TAKEN, i.target);
  else if (i.kinds[0] === REG && registerSize(i.registers[0]) === SIZE_64) w.emitBranch(CALL_R, i, reg(i, 0), ZERO, 0, i.end);
  else if (i.kinds[0] === MEM && i.memoryBytes === 8) {
    w.emitMemory(MOV64_RM, TEMP0, ZERO, i);
    w.emitBranch(CALL_R, i, TEMP0, ZERO, 0, i.end);
  } else return false;
  return true;
}

function returnHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[0] === IMM) w.emitBranch(RET_IMM, i, ZERO, ZERO, i.imm & 0xffff);
  else w.emitBranch(RET, i);
  return true;
}

function pushHandler(w: MicroOpWriter, i: Decoded): boolean {
  switch (i.kinds[0]) {
    case IMM:
      w.emit(PUSH_I, ZERO, ZERO, i.imm);
      return true;
    case MEM:
      if (i.memorySize === SIZE_64) w.emitMemory(PUSH_M, ZERO, ZERO, i);
      else {
        w.emitMemory(MOV16_RM, TEMP0, ZERO, i);
        w.emit(PUSH_16, ZERO, TEMP0);
      }
      return true;
    default: {
      const segment = segmentOf(i);
      if (segment >= 0) w.emit(PUSH_SEGMENT, ZERO, ZERO, segment);
      else w.emit(registerSize(i.registers[0]) === SIZE_16 ? PUSH_16 : PUSH_R, ZERO, reg(i, 0));
      return true;
    }
  }
}

const FIRST_SEGMENT = 71; // Register.ES
function segmentOf(i: Decoded): number {
  const number = i.registers[0] - FIRST_SEGMENT;
  return number >= 0 && number < 6 ? number : -1;
}

function popHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[0] === MEM) {
    if (i.memorySize !== SIZE_64) return popWord(w, i);
    const address = i.base === RSP ? { ...i, disp: i.disp + 8 } : i;
    w.emitMemory(POP_M, ZERO, ZERO, address);
    return true;
  }
  const segment = segmentOf(i);
  if (segment >= 0) w.emit(POP_SEGMENT, ZERO, ZERO, segment);
  else w.emit(registerSize(i.registers[0]) === SIZE_16 ? POP_16 : POP_R, reg(i, 0));
  return true;
}

/** POP of 16 bits to memory; its address too is computed after the increment of RSP. */
function popWord(w: MicroOpWriter, i: Decoded): boolean {
  const address = i.base === RSP ? { ...i, disp: i.disp + 2 } : i;
  w.emitAt(MOV16_RM, TEMP1, ZERO, RSP, 0);
  w.emitMemory(MOV16_MR, ZERO, TEMP1, address);
  w.emitAt(LEA64, RSP, ZERO, RSP, 2);
  return true;
}

/** ENTER with nesting: the outer frame pointers are copied, then our own; RSP and RBP change last, so that a fault leaves them. */
function emitNestedEnter(w: MicroOpWriter, frameBytes: number, level: number): void {
  w.emitAt(MOV64_MR, ZERO, RBP, RSP, -8);
  for (let n = 1; n < level; n++) {
    w.emitAt(MOV64_RM, TEMP0, ZERO, RBP, -8 * n);
    w.emitAt(MOV64_MR, ZERO, TEMP0, RSP, -8 * (n + 1));
  }
  w.emitAt(LEA64, TEMP0, ZERO, RSP, -8);
  w.emitAt(MOV64_MR, ZERO, TEMP0, RSP, -8 * (level + 1));
  w.emitAt(LEA64, RBP, ZERO, RSP, -8);
  w.emitAt(LEA64, RSP, ZERO, RSP, -8 * (level + 1) - frameBytes);
}

const LEVEL_MASK = 31;

export function defineControl(): void {
  for (const [n, code] of CONDITIONS.entries()) {
    const mnemonic = JCC[n];
    if (mnemonic !== undefined) define(mnemonic, conditionalHandler(opNumber(`j${code}`)), { flow: FLOW_CONDITIONAL });
  }
  for (const [mnemonic, name] of [
    [Mnemonic.Jrcxz, "jrcxz"],
    [Mnemonic.Jecxz, "jecxz"],
  ] as const)
    define(mnemonic, conditionalHandler(opNumber(name)), { flow: FLOW_CONDITIONAL });
  for (const [mnemonic, name] of [
    [Mnemonic.Loop, "loop"],
    [Mnemonic.Loope, "loope"],
    [Mnemonic.Loopne, "loopne"],
  ] as const)
    define(mnemonic, loopHandler(opNumber(name), opNumber(`${name}32`)), { flow: FLOW_CONDITIONAL });
  define(Mnemonic.Jmp, jumpHandler, { flow: FLOW_END });
  define(Mnemonic.Call, callHandler, { flow: FLOW_END });
  define(Mnemonic.Ret, returnHandler, { flow: FLOW_END });
  define(Mnemonic.Push, pushHandler, { canLeave: true });
  define(Mnemonic.Pop, popHandler, { canLeave: true });
  define(
    Mnemonic.Leave,
    (w) => {
      w.emit(LEAVE);
      return true;
    },
    { canLeave: true },
  );
  define(
    Mnemonic.Enter,
    (w, i) => {
      const level = i.imm2 & LEVEL_MASK;
      if (level === 0) w.emit(ENTER, ZERO, ZERO, i.imm & 0xffff);
      else emitNestedEnter(w, i.imm & 0xffff, level);
      return true;
    },
    { canLeave: true },
  );
}
