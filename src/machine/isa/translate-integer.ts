// Translation of arithmetic, logic, moves, shifts, bit and string instructions.
import { Mnemonic } from "iced-x86";
import { type Decoded, IMM, MEM, NONE, operandSize, REG, STRING } from "./decode.ts";
import type { MicroOpWriter } from "./emit.ts";
import { define, type Handler } from "./handlers.ts";
import { CONDITIONS, TEMP1, ZERO } from "./ir.ts";
import { findOp, opNumber } from "./op-table.ts";
import type { AluName } from "./ops/alu.ts";
import { STRING_ADDRESS16, STRING_ADDRESS32, STRING_REPEAT, STRING_REPEAT_NE, STRING_SEGMENT_SHIFT } from "./ops/string.ts";
import { registerOffset, registerSize, SIZE_32, SIZE_64 } from "./registers.ts";

const BITS = [8, 16, 32, 64] as const;
const ABSENT = -1;

/** Numbers of an op family over the four sizes; -1 where there is none. */
export function family(name: (bits: number) => string): readonly number[] {
  return BITS.map((bits) => findOp(name(bits)) ?? ABSENT);
}

function pick(table: readonly number[], size: number): number {
  return table[size] ?? ABSENT;
}

/** With flags, or the cheaper form when they are dead and that form exists. */
function pickLive(i: Decoded, table: readonly number[], without: readonly number[], size: number): number {
  const cheap = i.flagsDead ? pick(without, size) : ABSENT;
  return cheap === ABSENT ? pick(table, size) : cheap;
}

export function reg(i: Decoded, n: 0 | 1 | 2): number {
  return registerOffset(i.registers[n]);
}

function aluHandler(name: AluName): Handler {
  const rr = family((bits) => `${name}${bits}_rr`);
  const rrDead = family((bits) => `${name}${bits}_rr_nf`);
  const ri = family((bits) => `${name}${bits}_ri`);
  const riDead = family((bits) => `${name}${bits}_ri_nf`);
  const rm = family((bits) => `${name}${bits}_rm`);
  const mr = family((bits) => `${name}${bits}_mr`);
  const mi = family((bits) => `${name}${bits}_mi`);
  return (w, i) => {
    const size = operandSize(i);
    const [first, second] = i.kinds;
    if (first === REG && second === REG) w.emit(pickLive(i, rr, rrDead, size), reg(i, 0), reg(i, 1));
    else if (first === REG && second === IMM) w.emit(pickLive(i, ri, riDead, size), reg(i, 0), ZERO, i.imm);
    else if (first === REG) w.emitMemory(pick(rm, size), reg(i, 0), ZERO, i);
    else if (second === IMM) w.emitMemory(pick(mi, size), ZERO, ZERO, i, i.imm);
    // CMP and TEST with the memory operand first only read.
    else w.emitMemory(pick(mr, size), ZERO, reg(i, 1), i);
    return true;
  };
}

function unaryHandler(name: string): Handler {
  const r = family((bits) => `${name}${bits}_r`);
  const dead = family((bits) => `${name}${bits}_r_nf`);
  const m = family((bits) => `${name}${bits}_m`);
  return (w, i) => {
    if (i.kinds[0] === REG) {
      const size = registerSize(i.registers[0]);
      w.emit(pickLive(i, r, dead, size), reg(i, 0));
    } else w.emitMemory(pick(m, i.memorySize), ZERO, ZERO, i);
    return true;
  };
}

const movRr = family((bits) => `mov${bits}_rr`);
const movRi = family((bits) => `mov${bits}_ri`);
const xchgMr = family((bits) => `xchg${bits}_mr`);
const movRm = family((bits) => `mov${bits}_rm`);
const movMr = family((bits) => `mov${bits}_mr`);
const movMi = family((bits) => `mov${bits}_mi`);
const MOV64_IMM64 = opNumber("mov64_imm64");

/** MOV between general registers, memory and immediates. Segment, control and debug registers: see translate-system.ts. */
export function moveGeneral(w: MicroOpWriter, i: Decoded): boolean {
  const size = operandSize(i);
  const [first, second] = i.kinds;
  if (first === REG && second === REG) w.emit(pick(movRr, size), reg(i, 0), reg(i, 1));
  else if (first === REG && second === IMM) {
    if (i.immWide) emitWide(w, i);
    else w.emit(pick(movRi, size), reg(i, 0), ZERO, i.imm);
  } else if (first === REG) w.emitMemory(pick(movRm, size), reg(i, 0), ZERO, i);
  else if (second === IMM) w.emitMemory(pick(movMi, size), ZERO, ZERO, i, i.imm);
  else w.emitMemory(pick(movMr, size), ZERO, reg(i, 1), i);
  return true;
}

function emitWide(w: MicroOpWriter, i: Decoded): void {
  w.emitImmediate64(MOV64_IMM64, reg(i, 0), i.immLow, i.immHigh);
}

/** MOVZX, MOVSX, MOVSXD: op names carry both sizes. */
function extendHandler(name: "movzx" | "movsx"): Handler {
  const table = (form: string): readonly (readonly number[])[] =>
    BITS.map((to) => BITS.map((from) => findOp(`${name}${to}_${from}_${form}`) ?? ABSENT));
  const rr = table("rr");
  const rm = table("rm");
  return (w, i) => {
    const to = registerSize(i.registers[0]);
    const fromRegister = i.kinds[1] === REG;
    const from = fromRegister ? registerSize(i.registers[1]) : i.memorySize;
    // MOVSXD r32, r/m32 is a plain move.
    if (to === from) return moveGeneral(w, i);
    const op = (fromRegister ? rr : rm)[to]?.[from] ?? ABSENT;
    if (op === ABSENT) return false;
    if (fromRegister) w.emit(op, reg(i, 0), reg(i, 1));
    else w.emitMemory(op, reg(i, 0), ZERO, i);
    return true;
  };
}

const lea = family((bits) => `lea${bits}`);
const LEA32 = opNumber("lea32");

function leaHandler(w: MicroOpWriter, i: Decoded): boolean {
  const size = registerSize(i.registers[0]);
  w.emitAddress(i.address32 && size === SIZE_64 ? LEA32 : pick(lea, size), reg(i, 0), i);
  return true;
}

/** Instructions `name reg, reg/mem` with ops `name<bits>_rr` and `name<bits>_rm`. */
function loadLikeHandler(name: string): Handler {
  const rr = family((bits) => `${name}${bits}_rr`);
  const rm = family((bits) => `${name}${bits}_rm`);
  return (w, i) => {
    const size = registerSize(i.registers[0]);
    if (i.kinds[1] === REG) w.emit(pick(rr, size), reg(i, 0), reg(i, 1));
    else w.emitMemory(pick(rm, size), reg(i, 0), ZERO, i);
    return true;
  };
}

/** Instructions `name reg/mem, reg` with ops `name<bits>_rr` and `name<bits>_mr`. */
function storeLikeHandler(name: string): Handler {
  const rr = family((bits) => `${name}${bits}_rr`);
  const mr = family((bits) => `${name}${bits}_mr`);
  return (w, i) => {
    const fromRegister = i.kinds[1] === REG;
    const size = fromRegister ? registerSize(i.registers[1]) : registerSize(i.registers[0]);
    if (i.kinds[0] === REG && fromRegister) w.emit(pick(rr, size), reg(i, 0), reg(i, 1));
    else w.emitMemory(pick(mr, size), ZERO, reg(i, fromRegister ? 1 : 0), i);
    return true;
  };
}

function shiftHandler(name: string): Handler {
  const ri = family((bits) => `${name}${bits}_ri`);
  const riDead = family((bits) => `${name}${bits}_ri_nf`);
  const rc = family((bits) => `${name}${bits}_rc`);
  const rcDead = family((bits) => `${name}${bits}_rc_nf`);
  const mi = family((bits) => `${name}${bits}_mi`);
  const mc = family((bits) => `${name}${bits}_mc`);
  return (w, i) => {
    const toRegister = i.kinds[0] === REG;
    const size = toRegister ? registerSize(i.registers[0]) : i.memorySize;
    const byCl = i.kinds[1] === REG;
    const count = i.imm & (size === SIZE_64 ? 63 : 31);
    if (toRegister) {
      if (byCl) w.emit(pickLive(i, rc, rcDead, size), reg(i, 0));
      else if (count !== 0) w.emit(pickLive(i, ri, riDead, size), reg(i, 0), ZERO, count);
      // A count of zero changes no flag, but a 32-bit destination is written: its upper half is cleared.
      else if (size === SIZE_32) w.emit(pick(movRr, SIZE_32), reg(i, 0), reg(i, 0));
    } else if (byCl) w.emitMemory(pick(mc, size), ZERO, ZERO, i);
    else if (count !== 0) w.emitMemory(pick(mi, size), ZERO, ZERO, i, count);
    else {
      // With a count of zero nothing changes, but the access is that of a write, with its faults: the value is taken out and put back.
      w.emitMemory(pick(xchgMr, size), ZERO, TEMP1, i);
      w.emitMemory(pick(xchgMr, size), ZERO, TEMP1, i);
    }
    return true;
  };
}

function doubleShiftHandler(name: "shld" | "shrd"): Handler {
  const tables = ["ri", "rc", "mi", "mc"].map((form) => family((bits) => `${name}${bits}_${form}`));
  return (w, i) => {
    const size = registerSize(i.registers[1]);
    const byCl = i.kinds[2] === REG;
    const toMemory = i.kinds[0] === MEM;
    const op = pick(tables[(toMemory ? 2 : 0) + (byCl ? 1 : 0)] ?? [], size);
    const count = byCl ? 0 : i.imm & (size === SIZE_64 ? 63 : 31);
    if (toMemory) w.emitMemory(op, ZERO, reg(i, 1), i, count);
    else w.emit(op, reg(i, 0), reg(i, 1), count);
    return true;
  };
}

/** One-operand MUL IMUL DIV IDIV: the operand in `src`. */
function accumulatorHandler(name: string): Handler {
  const r = family((bits) => `${name}${bits}_r`);
  const m = family((bits) => `${name}${bits}_m`);
  return (w, i) => {
    if (i.kinds[0] === REG) w.emit(pick(r, registerSize(i.registers[0])), ZERO, reg(i, 0));
    else w.emitMemory(pick(m, i.memorySize), ZERO, ZERO, i);
    return true;
  };
}

const imulOne = accumulatorHandler("imul");
const imulRr = family((bits) => `imul${bits}_rr`);
const imulRrDead = family((bits) => `imul${bits}_rr_nf`);
const imulRm = family((bits) => `imul${bits}_rm`);
const imulRri = family((bits) => `imul${bits}_rri`);
const imulRriDead = family((bits) => `imul${bits}_rri_nf`);
const imulRmi = family((bits) => `imul${bits}_rmi`);

function imulHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[1] === NONE) return imulOne(w, i);
  const size = registerSize(i.registers[0]);
  const fromMemory = i.kinds[1] === MEM;
  if (i.kinds[2] === IMM) {
    if (fromMemory) w.emitMemory(pick(imulRmi, size), reg(i, 0), ZERO, i, i.imm);
    else w.emit(pickLive(i, imulRri, imulRriDead, size), reg(i, 0), reg(i, 1), i.imm);
  } else if (fromMemory) w.emitMemory(pick(imulRm, size), reg(i, 0), ZERO, i);
  else w.emit(pickLive(i, imulRr, imulRrDead, size), reg(i, 0), reg(i, 1));
  return true;
}

function bitTestHandler(name: string): Handler {
  const rr = family((bits) => `${name}${bits}_rr`);
  const ri = family((bits) => `${name}${bits}_ri`);
  const mr = family((bits) => `${name}${bits}_mr`);
  const mi = family((bits) => `${name}${bits}_mi`);
  return (w, i) => {
    const size = operandSize(i);
    if (i.kinds[0] === REG) {
      if (i.kinds[1] === REG) w.emit(pick(rr, size), reg(i, 0), reg(i, 1));
      else w.emit(pick(ri, size), reg(i, 0), ZERO, i.imm);
    } else if (i.kinds[1] === REG) w.emitMemory(pick(mr, size), ZERO, reg(i, 1), i);
    else w.emitMemory(pick(mi, size), ZERO, ZERO, i, i.imm);
    return true;
  };
}

const bswap = family((bits) => `bswap${bits}`);

function bswapHandler(w: MicroOpWriter, i: Decoded): boolean {
  const size = registerSize(i.registers[0]);
  // The 16-bit form is undefined (SDM); processors clear the register.
  if (size < SIZE_32) w.emit(pick(movRi, size), reg(i, 0), ZERO, 0);
  else w.emit(pick(bswap, size), reg(i, 0));
  return true;
}

const movbeRm = family((bits) => `movbe${bits}_rm`);
const movbeMr = family((bits) => `movbe${bits}_mr`);

function movbeHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[0] === REG) w.emitMemory(pick(movbeRm, registerSize(i.registers[0])), reg(i, 0), ZERO, i);
  else w.emitMemory(pick(movbeMr, registerSize(i.registers[1])), ZERO, reg(i, 1), i);
  return true;
}

function plainHandler(name: string): Handler {
  const op = opNumber(name);
  return (w) => {
    w.emit(op);
    return true;
  };
}

function stringHandler(name: string, size: number): Handler {
  const op = opNumber(name);
  return (w, i) => {
    // MOVSD and CMPSD are also names of SSE2 instructions.
    if (i.kinds[0] !== STRING && i.kinds[1] !== STRING) return false;
    let how = size;
    if (i.repeats) how |= STRING_REPEAT;
    if (i.repeatsNe) how |= STRING_REPEAT_NE;
    if (i.address32) how |= STRING_ADDRESS32;
    if (i.addressBits === 16) how |= STRING_ADDRESS16;
    how |= i.segmentRegister << STRING_SEGMENT_SHIFT;
    w.emit(op, ZERO, i.segment, how);
    return true;
  };
}

/** XLATB: the address is base RBX (EBX) plus AL; the op adds AL. */
const XLAT = opNumber("xlat");
const RBX_OFFSET = 24;

function xlatHandler(w: MicroOpWriter, i: Decoded): boolean {
  const address: Decoded = { ...i, base: RBX_OFFSET, index: ZERO, scale: 0, disp: 0, dispWide: false };
  if (i.address32) return false;
  w.emitMemory(XLAT, ZERO, ZERO, address);
  return true;
}

const SETS_ALL = { setsAllFlags: true } as const;

export function defineInteger(): void {
  define(Mnemonic.Add, aluHandler("add"), SETS_ALL);
  define(Mnemonic.Sub, aluHandler("sub"), SETS_ALL);
  define(Mnemonic.And, aluHandler("and"), SETS_ALL);
  define(Mnemonic.Or, aluHandler("or"), SETS_ALL);
  define(Mnemonic.Xor, aluHandler("xor"), SETS_ALL);
  define(Mnemonic.Cmp, aluHandler("cmp"), SETS_ALL);
  define(Mnemonic.Test, aluHandler("test"), SETS_ALL);
  define(Mnemonic.Adc, aluHandler("adc"));
  define(Mnemonic.Sbb, aluHandler("sbb"));
  for (const [mnemonic, name] of [
    [Mnemonic.Inc, "inc"],
    [Mnemonic.Dec, "dec"],
    [Mnemonic.Not, "not"],
  ] as const)
    define(mnemonic, unaryHandler(name));
  define(Mnemonic.Neg, unaryHandler("neg"), SETS_ALL);
  define(Mnemonic.Movzx, extendHandler("movzx"));
  define(Mnemonic.Movsx, extendHandler("movsx"));
  define(Mnemonic.Movsxd, extendHandler("movsx"));
  define(Mnemonic.Movnti, moveGeneral);
  define(Mnemonic.Lea, leaHandler);
  define(Mnemonic.Xchg, storeLikeHandler("xchg"));
  define(Mnemonic.Xadd, storeLikeHandler("xadd"));
  define(Mnemonic.Cmpxchg, storeLikeHandler("cmpxchg"));
  define(Mnemonic.Bswap, bswapHandler);
  define(Mnemonic.Movbe, movbeHandler);
  define(Mnemonic.Xlatb, xlatHandler, { canLeave: true });
  defineShiftsAndBits();
  defineConditionals();
  defineStrings();
  for (const [mnemonic, name] of [
    [Mnemonic.Cbw, "cbw"],
    [Mnemonic.Cwde, "cwde"],
    [Mnemonic.Cdqe, "cdqe"],
    [Mnemonic.Cwd, "cwd"],
    [Mnemonic.Cdq, "cdq"],
    [Mnemonic.Cqo, "cqo"],
    [Mnemonic.Sahf, "sahf"],
    [Mnemonic.Lahf, "lahf"],
    [Mnemonic.Clc, "clc"],
    [Mnemonic.Stc, "stc"],
    [Mnemonic.Cmc, "cmc"],
  ] as const)
    define(mnemonic, plainHandler(name));
}

function defineShiftsAndBits(): void {
  for (const [mnemonic, name] of [
    [Mnemonic.Shl, "shl"],
    [Mnemonic.Sal, "shl"],
    [Mnemonic.Shr, "shr"],
    [Mnemonic.Sar, "sar"],
    [Mnemonic.Rol, "rol"],
    [Mnemonic.Ror, "ror"],
    [Mnemonic.Rcl, "rcl"],
    [Mnemonic.Rcr, "rcr"],
  ] as const)
    define(mnemonic, shiftHandler(name));
  define(Mnemonic.Shld, doubleShiftHandler("shld"));
  define(Mnemonic.Shrd, doubleShiftHandler("shrd"));
  define(Mnemonic.Mul, accumulatorHandler("mul"), SETS_ALL);
  define(Mnemonic.Imul, imulHandler, SETS_ALL);
  define(Mnemonic.Div, accumulatorHandler("div"), { canLeave: true });
  define(Mnemonic.Idiv, accumulatorHandler("idiv"), { canLeave: true });
  for (const [mnemonic, name] of [
    [Mnemonic.Bt, "bt"],
    [Mnemonic.Bts, "bts"],
    [Mnemonic.Btr, "btr"],
    [Mnemonic.Btc, "btc"],
  ] as const)
    define(mnemonic, bitTestHandler(name));
  for (const [mnemonic, name] of [
    [Mnemonic.Bsf, "bsf"],
    [Mnemonic.Bsr, "bsr"],
    [Mnemonic.Tzcnt, "tzcnt"],
    [Mnemonic.Lzcnt, "lzcnt"],
    [Mnemonic.Popcnt, "popcnt"],
  ] as const)
    define(mnemonic, loadLikeHandler(name));
}

function defineConditionals(): void {
  const cmov = [
    Mnemonic.Cmovo,
    Mnemonic.Cmovno,
    Mnemonic.Cmovb,
    Mnemonic.Cmovae,
    Mnemonic.Cmove,
    Mnemonic.Cmovne,
    Mnemonic.Cmovbe,
    Mnemonic.Cmova,
    Mnemonic.Cmovs,
    Mnemonic.Cmovns,
    Mnemonic.Cmovp,
    Mnemonic.Cmovnp,
    Mnemonic.Cmovl,
    Mnemonic.Cmovge,
    Mnemonic.Cmovle,
    Mnemonic.Cmovg,
  ];
  const set = [
    Mnemonic.Seto,
    Mnemonic.Setno,
    Mnemonic.Setb,
    Mnemonic.Setae,
    Mnemonic.Sete,
    Mnemonic.Setne,
    Mnemonic.Setbe,
    Mnemonic.Seta,
    Mnemonic.Sets,
    Mnemonic.Setns,
    Mnemonic.Setp,
    Mnemonic.Setnp,
    Mnemonic.Setl,
    Mnemonic.Setge,
    Mnemonic.Setle,
    Mnemonic.Setg,
  ];
  for (const [n, code] of CONDITIONS.entries()) {
    const cmovMnemonic = cmov[n];
    const setMnemonic = set[n];
    if (cmovMnemonic !== undefined) define(cmovMnemonic, loadLikeHandler(`cmov${code}`));
    if (setMnemonic !== undefined) define(setMnemonic, setHandler(code));
  }
}

function setHandler(code: string): Handler {
  const r = opNumber(`set${code}_r`);
  const m = opNumber(`set${code}_m`);
  return (w, i) => {
    if (i.kinds[0] === REG) w.emit(r, reg(i, 0));
    else w.emitMemory(m, ZERO, ZERO, i);
    return true;
  };
}

function defineStrings(): void {
  const strings = [
    ["movs", [Mnemonic.Movsb, Mnemonic.Movsw, Mnemonic.Movsd, Mnemonic.Movsq]],
    ["stos", [Mnemonic.Stosb, Mnemonic.Stosw, Mnemonic.Stosd, Mnemonic.Stosq]],
    ["lods", [Mnemonic.Lodsb, Mnemonic.Lodsw, Mnemonic.Lodsd, Mnemonic.Lodsq]],
    ["scas", [Mnemonic.Scasb, Mnemonic.Scasw, Mnemonic.Scasd, Mnemonic.Scasq]],
    ["cmps", [Mnemonic.Cmpsb, Mnemonic.Cmpsw, Mnemonic.Cmpsd, Mnemonic.Cmpsq]],
  ] as const;
  for (const [name, mnemonics] of strings) {
    for (const [size, mnemonic] of mnemonics.entries()) define(mnemonic, stringHandler(name, size), { canLeave: true });
  }
}
