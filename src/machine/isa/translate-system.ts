// Translation of system instructions, moves of segment, control, debug and XMM registers, I/O, and what the host performs.
import { Mnemonic, Register } from "iced-x86";
import {
  ASSIST_CPUID,
  ASSIST_INVD,
  ASSIST_INVEPT,
  ASSIST_INVVPID,
  ASSIST_MONITOR,
  ASSIST_MWAIT,
  ASSIST_RDMSR,
  ASSIST_RDPMC,
  ASSIST_VMCALL,
  ASSIST_VMCLEAR,
  ASSIST_VMLAUNCH,
  ASSIST_VMMCALL,
  ASSIST_VMPTRLD,
  ASSIST_VMPTRST,
  ASSIST_VMREAD,
  ASSIST_VMRESUME,
  ASSIST_VMWRITE,
  ASSIST_VMXOFF,
  ASSIST_VMXON,
  ASSIST_WBINVD,
  ASSIST_WRMSR,
  ASSIST_XGETBV,
  ASSIST_XSETBV,
  SEG_FS,
  SEG_GS,
  SEG_LDTR,
  SEG_TR,
} from "../core/layout.gen.ts";
import { type Decoded, IMM, MEM, REG } from "./decode.ts";
import type { MicroOpWriter } from "./emit.ts";
import { define, FLOW_LEAVES, type Handler } from "./handlers.ts";
import { ZERO } from "./ir.ts";
import { opNumber } from "./op-table.ts";
import { isControl, isDebug, isXmm, registerOffset, registerSize, SIZE_16, SIZE_32, segmentNumber, xmmOffset } from "./registers.ts";
import { moveGeneral, reg } from "./translate-integer.ts";

const LEAVES = { flow: FLOW_LEAVES } as const;
const INLINE = { canLeave: true } as const;
/** Bit of `store_selector` for a 16-bit destination; of `read_base` and `write_base` for the 32-bit form. */
const NARROW_SELECTOR = 16;
const NARROW_BASE = 8;
const IO_REPEAT_BIT = 0x100;

/** An op without operands; `imm` fixed. */
function fixedHandler(name: string, imm = 0): Handler {
  const op = opNumber(name);
  return (w) => {
    w.emit(op, ZERO, ZERO, imm);
    return true;
  };
}

function memoryHandler(name: string, imm = 0): Handler {
  const op = opNumber(name);
  return (w, i) => {
    w.emitMemory(op, ZERO, ZERO, i, imm);
    return true;
  };
}

/** `name` for a register source, `name_m` for a memory one. */
function sourceHandler(name: string, imm = 0): Handler {
  const register = opNumber(name);
  const memory = opNumber(`${name}_m`);
  return (w, i) => {
    if (i.kinds[0] === REG) w.emit(register, ZERO, reg(i, 0), imm);
    else w.emitMemory(memory, ZERO, ZERO, i, imm);
    return true;
  };
}

const FROM_CR = opNumber("mov_from_cr");
const TO_CR = opNumber("mov_to_cr");
const FROM_DR = opNumber("mov_from_dr");
const TO_DR = opNumber("mov_to_dr");
const STORE_SELECTOR = opNumber("store_selector");
const STORE_SELECTOR_M = opNumber("store_selector_m");
const LOAD_SEGMENT = opNumber("load_segment");
const LOAD_SEGMENT_M = opNumber("load_segment_m");

/** MOV in all its kinds. */
function moveHandler(w: MicroOpWriter, i: Decoded): boolean {
  const [to, from] = i.registers;
  if (i.kinds[1] === REG) {
    if (isControl(from)) return emitted(w.emit(FROM_CR, reg(i, 0), ZERO, from - Register.CR0));
    if (isDebug(from)) return emitted(w.emit(FROM_DR, reg(i, 0), ZERO, from - Register.DR0));
    const segment = segmentNumber(from);
    if (segment >= 0) return storeSelector(w, i, segment);
  }
  if (i.kinds[0] === REG) {
    if (isControl(to)) return emitted(w.emit(TO_CR, ZERO, reg(i, 1), to - Register.CR0));
    if (isDebug(to)) return emitted(w.emit(TO_DR, ZERO, reg(i, 1), to - Register.DR0));
    const segment = segmentNumber(to);
    if (segment >= 0) {
      if (i.kinds[1] === REG) return emitted(w.emit(LOAD_SEGMENT, ZERO, reg(i, 1), segment));
      return emitted(w.emitMemory(LOAD_SEGMENT_M, ZERO, ZERO, i, segment));
    }
  }
  return moveGeneral(w, i);
}

function emitted(_pc: number): boolean {
  return true;
}

function storeSelector(w: MicroOpWriter, i: Decoded, segment: number): boolean {
  if (i.kinds[0] === MEM) return emitted(w.emitMemory(STORE_SELECTOR_M, ZERO, ZERO, i, segment));
  const narrow = registerSize(i.registers[0]) === SIZE_16 ? NARROW_SELECTOR : 0;
  return emitted(w.emit(STORE_SELECTOR, reg(i, 0), ZERO, segment | narrow));
}

/** SLDT, STR. */
function systemSelectorHandler(segment: number): Handler {
  return (w, i) => storeSelector(w, i, segment);
}

const SMSW = opNumber("smsw");
const SMSW_M = opNumber("smsw_m");

function smswHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[0] === MEM) return emitted(w.emitMemory(SMSW_M, ZERO, ZERO, i));
  return emitted(w.emit(SMSW, reg(i, 0), ZERO, 1 << registerSize(i.registers[0])));
}

function baseHandler(name: "read_base" | "write_base", segment: number): Handler {
  const op = opNumber(name);
  return (w, i) => {
    const imm = segment | (registerSize(i.registers[0]) === SIZE_32 ? NARROW_BASE : 0);
    if (name === "read_base") w.emit(op, reg(i, 0), ZERO, imm);
    else w.emit(op, ZERO, reg(i, 0), imm);
    return true;
  };
}

const IN = opNumber("in");
const IN_DX = opNumber("in_dx");
const OUT = opNumber("out");
const OUT_DX = opNumber("out_dx");
const INS = opNumber("ins");
const OUTS = opNumber("outs");

function inHandler(w: MicroOpWriter, i: Decoded): boolean {
  const bytes = 1 << registerSize(i.registers[0]);
  if (i.kinds[1] === IMM) w.emit(IN, ZERO, ZERO, bytes | ((i.imm & 0xff) << 8));
  else w.emit(IN_DX, ZERO, ZERO, bytes);
  return true;
}

function outHandler(w: MicroOpWriter, i: Decoded): boolean {
  const bytes = 1 << registerSize(i.registers[1]);
  if (i.kinds[0] === IMM) w.emit(OUT, ZERO, ZERO, bytes | ((i.imm & 0xff) << 8));
  else w.emit(OUT_DX, ZERO, ZERO, bytes);
  return true;
}

function stringPortHandler(op: number, bytes: number): Handler {
  return (w, i) => {
    w.emit(op, ZERO, i.segment, bytes | (i.repeats || i.repeatsNe ? IO_REPEAT_BIT : 0));
    return true;
  };
}

const TRAP = opNumber("trap");
const UNDEFINED = opNumber("undefined");

/** UD0 EAX, EAX is the trap instruction; every other UD0 is undefined. */
function ud0Handler(w: MicroOpWriter, i: Decoded): boolean {
  const isTrap = i.length === 3 && i.registers[0] === Register.EAX && i.kinds[1] === REG && i.registers[1] === Register.EAX;
  w.emit(isTrap ? TRAP : UNDEFINED);
  return true;
}

const ASSIST = opNumber("assist");
const ASSIST_M = opNumber("assist_m");

/** VMREAD and VMWRITE: register or memory, and a register with the field's encoding. */
function vmAccessHandler(kind: number): Handler {
  return (w, i) => {
    const field = kind === ASSIST_VMREAD ? 1 : 0;
    const value = kind === ASSIST_VMREAD ? 0 : 1;
    if (i.kinds[value] === REG) w.emit(ASSIST, reg(i, value), reg(i, field), kind);
    else w.emitMemory(ASSIST_M, ZERO, reg(i, field), i, kind);
    return true;
  };
}

/** INVEPT, INVVPID: type in a register, descriptor in memory. */
function invalidateHandler(kind: number): Handler {
  return (w, i) => emitted(w.emitMemory(ASSIST_M, reg(i, 0), ZERO, i, kind));
}

const INVPCID = opNumber("invpcid");
const VECTOR_MOVE = opNumber("vector_move");
const VECTOR_XOR = opNumber("vector_xor");
const VECTOR_LOAD = opNumber("vector_load");
const VECTOR_STORE = opNumber("vector_store");
const VECTOR_LOAD_ALIGNED = opNumber("vector_load_aligned");
const VECTOR_STORE_ALIGNED = opNumber("vector_store_aligned");
const VECTOR_FROM = opNumber("vector_from_register");
const VECTOR_TO = opNumber("vector_to_register");
const VECTOR_BYTES = 16;

function vectorMoveHandler(aligned: boolean): Handler {
  const load = aligned ? VECTOR_LOAD_ALIGNED : VECTOR_LOAD;
  const store = aligned ? VECTOR_STORE_ALIGNED : VECTOR_STORE;
  return (w, i) => {
    const [to, from] = i.registers;
    if (i.kinds[0] === REG && !isXmm(to)) return false;
    if (i.kinds[1] === REG && !isXmm(from)) return false;
    if (i.kinds[0] === REG && i.kinds[1] === REG) w.emit(VECTOR_MOVE, xmmOffset(to), xmmOffset(from), VECTOR_BYTES);
    else if (i.kinds[0] === REG) w.emitMemory(load, xmmOffset(to), ZERO, i, VECTOR_BYTES);
    else w.emitMemory(store, ZERO, xmmOffset(from), i, VECTOR_BYTES);
    return true;
  };
}

/** MOVD, MOVQ. */
function vectorScalarHandler(w: MicroOpWriter, i: Decoded): boolean {
  const [to, from] = i.registers;
  const bytes = i.mnemonic === Mnemonic.Movd ? 4 : 8;
  if (i.kinds[0] === REG && isXmm(to)) {
    if (i.kinds[1] === MEM) return emitted(w.emitMemory(VECTOR_LOAD, xmmOffset(to), ZERO, i, bytes));
    if (isXmm(from)) return emitted(w.emit(VECTOR_MOVE, xmmOffset(to), xmmOffset(from), bytes));
    return emitted(w.emit(VECTOR_FROM, xmmOffset(to), registerOffset(from), bytes));
  }
  if (i.kinds[1] !== REG || !isXmm(from)) return false;
  if (i.kinds[0] === MEM) return emitted(w.emitMemory(VECTOR_STORE, ZERO, xmmOffset(from), i, bytes));
  return emitted(w.emit(VECTOR_TO, registerOffset(to), xmmOffset(from), bytes));
}

/** PXOR, XORPS, XORPD of registers: how a register is cleared. */
function vectorXorHandler(w: MicroOpWriter, i: Decoded): boolean {
  const [to, from] = i.registers;
  if (i.kinds[1] !== REG || !isXmm(to) || !isXmm(from)) return false;
  return emitted(w.emit(VECTOR_XOR, xmmOffset(to), xmmOffset(from)));
}

function nothing(): boolean {
  return true;
}

export function defineSystem(): void {
  define(Mnemonic.Mov, moveHandler, {});
  defineEventsAndFlags();
  defineTables();
  defineAssists();
  defineHintsAndFences();
  defineVectors();
}

function defineEventsAndFlags(): void {
  define(Mnemonic.Cli, fixedHandler("cli"), INLINE);
  define(Mnemonic.Sti, fixedHandler("sti"), LEAVES);
  define(Mnemonic.Cld, fixedHandler("cld", 0), INLINE);
  define(Mnemonic.Std, fixedHandler("std", 1), INLINE);
  define(Mnemonic.Clac, fixedHandler("clac", 0), INLINE);
  define(Mnemonic.Stac, fixedHandler("stac", 1), INLINE);
  define(Mnemonic.Hlt, fixedHandler("hlt"), LEAVES);
  define(Mnemonic.Pushfq, fixedHandler("pushf", 8), INLINE);
  define(Mnemonic.Pushfd, fixedHandler("pushf", 4), INLINE);
  define(Mnemonic.Pushf, fixedHandler("pushf", 2), INLINE);
  define(Mnemonic.Popfq, fixedHandler("popf", 8), LEAVES);
  define(Mnemonic.Popfd, fixedHandler("popf", 4), LEAVES);
  define(Mnemonic.Popf, fixedHandler("popf", 2), LEAVES);
  define(Mnemonic.Int, (w, i) => emitted(w.emit(opNumber("int_n"), ZERO, ZERO, i.imm & 0xff)), LEAVES);
  define(Mnemonic.Int3, fixedHandler("int3"), LEAVES);
  define(Mnemonic.Int1, fixedHandler("int1"), LEAVES);
  define(Mnemonic.Ud0, ud0Handler, LEAVES);
  define(Mnemonic.Ud1, fixedHandler("undefined"), LEAVES);
  define(Mnemonic.Ud2, fixedHandler("undefined"), LEAVES);
  define(Mnemonic.INVALID, fixedHandler("undefined"), LEAVES);
  define(Mnemonic.Iretq, fixedHandler("iretq", 8), LEAVES);
  define(Mnemonic.Iretd, fixedHandler("iretq", 4), LEAVES);
  define(Mnemonic.Iret, fixedHandler("iretq", 2), LEAVES);
  define(Mnemonic.Syscall, fixedHandler("syscall"), LEAVES);
  define(Mnemonic.Sysretq, fixedHandler("sysretq"), LEAVES);
  define(Mnemonic.Swapgs, fixedHandler("swapgs"), INLINE);
}

function defineTables(): void {
  define(Mnemonic.Clts, fixedHandler("clts"), INLINE);
  define(Mnemonic.Lmsw, sourceHandler("lmsw"), INLINE);
  define(Mnemonic.Smsw, smswHandler, INLINE);
  define(Mnemonic.Lgdt, memoryHandler("lgdt", 0), INLINE);
  define(Mnemonic.Lidt, memoryHandler("lidt", 1), INLINE);
  define(Mnemonic.Sgdt, memoryHandler("sgdt", 0), INLINE);
  define(Mnemonic.Sidt, memoryHandler("sidt", 1), INLINE);
  define(Mnemonic.Ltr, sourceHandler("ltr", SEG_TR), INLINE);
  define(Mnemonic.Lldt, sourceHandler("lldt", SEG_LDTR), INLINE);
  define(Mnemonic.Str, systemSelectorHandler(SEG_TR), INLINE);
  define(Mnemonic.Sldt, systemSelectorHandler(SEG_LDTR), INLINE);
  define(Mnemonic.Verw, sourceHandler("verw"), INLINE);
  define(Mnemonic.Verr, sourceHandler("verr"), INLINE);
  define(Mnemonic.Rdfsbase, baseHandler("read_base", SEG_FS), INLINE);
  define(Mnemonic.Rdgsbase, baseHandler("read_base", SEG_GS), INLINE);
  define(Mnemonic.Wrfsbase, baseHandler("write_base", SEG_FS), INLINE);
  define(Mnemonic.Wrgsbase, baseHandler("write_base", SEG_GS), INLINE);
  define(Mnemonic.Invlpg, memoryHandler("invlpg"), LEAVES);
  define(Mnemonic.Invpcid, (w, i) => emitted(w.emitMemory(INVPCID, reg(i, 0), ZERO, i)), LEAVES);
}

function defineAssists(): void {
  for (const [mnemonic, kind] of [
    [Mnemonic.Cpuid, ASSIST_CPUID],
    [Mnemonic.Rdmsr, ASSIST_RDMSR],
    [Mnemonic.Wrmsr, ASSIST_WRMSR],
    [Mnemonic.Vmcall, ASSIST_VMCALL],
    [Mnemonic.Vmlaunch, ASSIST_VMLAUNCH],
    [Mnemonic.Vmresume, ASSIST_VMRESUME],
    [Mnemonic.Vmxoff, ASSIST_VMXOFF],
    [Mnemonic.Vmmcall, ASSIST_VMMCALL],
    [Mnemonic.Wbinvd, ASSIST_WBINVD],
    [Mnemonic.Invd, ASSIST_INVD],
    [Mnemonic.Monitor, ASSIST_MONITOR],
    [Mnemonic.Mwait, ASSIST_MWAIT],
    [Mnemonic.Xsetbv, ASSIST_XSETBV],
    [Mnemonic.Xgetbv, ASSIST_XGETBV],
    [Mnemonic.Rdpmc, ASSIST_RDPMC],
  ] as const)
    define(mnemonic, fixedHandler("assist", kind), LEAVES);
  for (const [mnemonic, kind] of [
    [Mnemonic.Vmxon, ASSIST_VMXON],
    [Mnemonic.Vmclear, ASSIST_VMCLEAR],
    [Mnemonic.Vmptrld, ASSIST_VMPTRLD],
    [Mnemonic.Vmptrst, ASSIST_VMPTRST],
  ] as const)
    define(mnemonic, memoryHandler("assist_m", kind), LEAVES);
  define(Mnemonic.Vmread, vmAccessHandler(ASSIST_VMREAD), LEAVES);
  define(Mnemonic.Vmwrite, vmAccessHandler(ASSIST_VMWRITE), LEAVES);
  define(Mnemonic.Invept, invalidateHandler(ASSIST_INVEPT), LEAVES);
  define(Mnemonic.Invvpid, invalidateHandler(ASSIST_INVVPID), LEAVES);
  define(Mnemonic.In, inHandler, LEAVES);
  define(Mnemonic.Out, outHandler, LEAVES);
  define(Mnemonic.Insb, stringPortHandler(INS, 1), LEAVES);
  define(Mnemonic.Insw, stringPortHandler(INS, 2), LEAVES);
  define(Mnemonic.Insd, stringPortHandler(INS, 4), LEAVES);
  define(Mnemonic.Outsb, stringPortHandler(OUTS, 1), LEAVES);
  define(Mnemonic.Outsw, stringPortHandler(OUTS, 2), LEAVES);
  define(Mnemonic.Outsd, stringPortHandler(OUTS, 4), LEAVES);
}

function defineHintsAndFences(): void {
  define(Mnemonic.Rdtsc, fixedHandler("rdtsc"), INLINE);
  define(Mnemonic.Rdtscp, fixedHandler("rdtscp"), INLINE);
  define(Mnemonic.Rdpid, (w, i) => emitted(w.emit(opNumber("rdpid"), reg(i, 0))), INLINE);
  define(Mnemonic.Lfence, fixedHandler("lfence"), INLINE);
  define(Mnemonic.Mfence, fixedHandler("mfence"), INLINE);
  define(Mnemonic.Sfence, fixedHandler("sfence"), INLINE);
  define(Mnemonic.Pause, fixedHandler("pause"), INLINE);
  define(Mnemonic.Clflush, memoryHandler("clflush"), INLINE);
  define(Mnemonic.Clflushopt, memoryHandler("clflush"), INLINE);
  for (const mnemonic of [
    Mnemonic.Prefetchnta,
    Mnemonic.Prefetcht0,
    Mnemonic.Prefetcht1,
    Mnemonic.Prefetcht2,
    Mnemonic.Prefetchw,
    Mnemonic.Prefetch,
  ])
    define(mnemonic, memoryHandler("prefetch"), INLINE);
  define(Mnemonic.Cmpxchg8b, memoryHandler("cmpxchg8b", 8), INLINE);
  define(Mnemonic.Cmpxchg16b, memoryHandler("cmpxchg16b", 16), INLINE);
  for (const mnemonic of [Mnemonic.Nop, Mnemonic.Reservednop, Mnemonic.Endbr64, Mnemonic.Endbr32, Mnemonic.Rdsspq, Mnemonic.Rdsspd]) {
    define(mnemonic, nothing);
  }
}

function defineVectors(): void {
  for (const mnemonic of [Mnemonic.Movups, Mnemonic.Movupd, Mnemonic.Movdqu, Mnemonic.Lddqu])
    define(mnemonic, vectorMoveHandler(false), INLINE);
  for (const mnemonic of [Mnemonic.Movaps, Mnemonic.Movapd, Mnemonic.Movdqa, Mnemonic.Movntdq, Mnemonic.Movntps]) {
    define(mnemonic, vectorMoveHandler(true), INLINE);
  }
  define(Mnemonic.Movd, vectorScalarHandler, INLINE);
  define(Mnemonic.Movq, vectorScalarHandler, INLINE);
  for (const mnemonic of [Mnemonic.Pxor, Mnemonic.Xorps, Mnemonic.Xorpd]) define(mnemonic, vectorXorHandler, INLINE);
}
