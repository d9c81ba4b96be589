// Translation of compatibility mode where it differs from 64-bit mode: control transfer, the stack, address sizes, and the instructions
// that exist only there; far transfers and far pointers of both modes. Handlers of 64-bit mode are wrapped: which one acts follows from the block.
import { Code, Mnemonic } from "iced-x86";
import { CODE_SEGMENTED, SEG_DS, SEG_ES, SEG_FS, SEG_GS, SEG_SS } from "../core/layout.gen.ts";
import { BRANCH, type Decoded, FAR, IMM, MEM, REG } from "./decode.ts";
import { type MicroOpWriter, TAKEN } from "./emit.ts";
import { define, FLOW_CONDITIONAL, FLOW_END, FLOW_LEAVES, type Handler, handlers } from "./handlers.ts";
import { CONDITIONS, RAX, RBX, RSP, TEMP0, TEMP1, TEMP2, ZERO } from "./ir.ts";
import { findOp, opNumber } from "./op-table.ts";
import { registerSize, SIZE_16, segmentNumber } from "./registers.ts";
import { JCC } from "./translate-control.ts";
import { reg } from "./translate-integer.ts";

const LEAVES = { flow: FLOW_LEAVES } as const;
const INLINE = { canLeave: true } as const;
const WORD = 2;
const DWORD = 4;
const LEVEL_MASK = 31;

/** Operand size in bytes by encoding, where no operand shows it: read off the decoder's name. */
const codeBytes = new Uint8Array(8192);
for (const [name, code] of Object.entries(Code)) if (typeof code === "number") codeBytes[code] = sizeOfCode(name);

function sizeOfCode(name: string): number {
  const letter = /^(?:Retn|Retf|Iret|Enter|Leave|Pusha|Popa|Pushf|Popf|Push|Pop|Sysexit)([wdq])/.exec(name)?.[1];
  if (letter !== undefined) return letter === "w" ? WORD : letter === "d" ? DWORD : 8;
  const bits = /(16|32|64)(?:_(?:CX|ECX|RCX))?$/.exec(name)?.[1];
  return bits === undefined ? 0 : Number(bits) / 8;
}

function bytesOf(i: Decoded): number {
  return codeBytes[i.code] ?? 0;
}

/** True when the frequent ops apply: flat segments, a 32-bit stack, and an operand size of 32 bits. */
function isPlain(i: Decoded): boolean {
  return (i.mode & CODE_SEGMENTED) === 0 && bytesOf(i) === DWORD;
}

/** Outside 64-bit mode `handler` acts instead of the one defined before. */
function refine(mnemonic: Mnemonic, handler: Handler): void {
  const entry = handlers[mnemonic];
  if (entry === undefined) throw new Error(`no handler to refine: ${mnemonic}`);
  const long = entry.handler;
  handlers[mnemonic] = { ...entry, handler: (w, i) => (i.mode === 0 ? long(w, i) : handler(w, i)) };
}

/** In every mode `handler` acts if it knows the form, else the one defined before. */
function extend(mnemonic: Mnemonic, handler: Handler): void {
  const entry = handlers[mnemonic];
  if (entry === undefined) throw new Error(`no handler to extend: ${mnemonic}`);
  const before = entry.handler;
  handlers[mnemonic] = { ...entry, handler: (w, i) => handler(w, i) || before(w, i) };
}

const op = {
  jmp: opNumber("jmp"),
  jmp32R: opNumber("jmp32_r"),
  call32: opNumber("call32"),
  call32R: opNumber("call32_r"),
  ret32: opNumber("ret32"),
  ret32Imm: opNumber("ret32_imm"),
  nearJump: opNumber("near_jump"),
  nearJumpRelative: opNumber("near_jump_relative"),
  nearCall: opNumber("near_call"),
  nearCallRelative: opNumber("near_call_relative"),
  nearReturn: opNumber("near_return"),
  nearBranch: opNumber("near_branch"),
  nearLoop: opNumber("near_loop"),
  push32R: opNumber("push32_r"),
  push32I: opNumber("push32_i"),
  pop32R: opNumber("pop32_r"),
  leave32: opNumber("leave32"),
  push16: opNumber("push16"),
  stackPush: opNumber("stack_push"),
  stackPushI: opNumber("stack_push_i"),
  stackPop: opNumber("stack_pop"),
  stackPeek: opNumber("stack_peek"),
  stackDrop: opNumber("stack_drop"),
  pushSegment: opNumber("push_segment"),
  popSegment: opNumber("pop_segment"),
  enterFrame: opNumber("enter_frame"),
  leaveFrame: opNumber("leave_frame"),
  jumpFar: opNumber("jump_far"),
  callFar: opNumber("call_far"),
  farReturn: opNumber("far_return"),
  loadFarPointer: opNumber("load_far_pointer"),
  movRi: opNumber("mov32_ri"),
  movRr: opNumber("mov32_rr"),
  mov8Rm: opNumber("mov8_rm"),
  mov16Rm: opNumber("mov16_rm"),
  mov16Mr: opNumber("mov16_mr"),
  mov32Rm: opNumber("mov32_rm"),
  mov32Mr: opNumber("mov32_mr"),
  mov64Rm: opNumber("mov64_rm"),
  movzx16Rm: opNumber("movzx32_16_rm"),
  movzx8Rr: opNumber("movzx32_8_rr"),
  movsx16Rr: opNumber("movsx32_16_rr"),
  movsx16Rm: opNumber("movsx32_16_rm"),
  mov16Rr: opNumber("mov16_rr"),
  sar32: opNumber("sar32_ri_nf"),
  shl32: opNumber("shl32_ri_nf"),
  and32: opNumber("and32_ri_nf"),
  lar: opNumber("lar"),
  lsl: opNumber("lsl"),
  arplR: opNumber("arpl_r"),
  arplM: opNumber("arpl_m"),
  bound: opNumber("bound"),
} as const;

// ---------------------------------------------------------------- near transfers

/** The operand of an indirect near transfer in a register: its own, or TEMP1 loaded from memory. */
function nearTarget(w: MicroOpWriter, i: Decoded): number {
  if (i.kinds[0] === REG) return reg(i, 0);
  w.emitMemory(bytesOf(i) === WORD ? op.movzx16Rm : op.mov32Rm, TEMP1, ZERO, i);
  return TEMP1;
}

function compatJump(w: MicroOpWriter, i: Decoded): boolean {
  const bytes = bytesOf(i);
  if (i.kinds[0] === BRANCH) {
    if (i.isSlowBranch) w.emitSized(op.nearJumpRelative, bytes, ZERO, ZERO, i.target);
    else w.link(w.emitBranch(op.jmp, i), TAKEN, i.target);
    return true;
  }
  const target = nearTarget(w, i);
  if (isPlain(i)) w.emitBranch(op.jmp32R, i, target);
  else w.emitSized(op.nearJump, bytes, ZERO, target);
  return true;
}

function compatCall(w: MicroOpWriter, i: Decoded): boolean {
  const bytes = bytesOf(i);
  if (i.kinds[0] === BRANCH) {
    if (i.isSlowBranch) w.emitSized(op.nearCallRelative, bytes, ZERO, ZERO, i.target);
    else w.link(w.emitBranch(op.call32, i, ZERO, ZERO, 0, i.end), TAKEN, i.target);
    return true;
  }
  const target = nearTarget(w, i);
  if (isPlain(i)) w.emitBranch(op.call32R, i, target, ZERO, 0, i.end);
  else w.emitSized(op.nearCall, bytes, ZERO, target);
  return true;
}

function compatReturn(w: MicroOpWriter, i: Decoded): boolean {
  const drop = i.kinds[0] === IMM ? i.imm & 0xffff : 0;
  if (!isPlain(i)) w.emitSized(op.nearReturn, bytesOf(i), ZERO, ZERO, drop);
  else if (drop === 0) w.emitBranch(op.ret32, i);
  else w.emitBranch(op.ret32Imm, i, ZERO, ZERO, drop);
  return true;
}

/** A conditional branch that the core performs: the condition goes to TEMP1. */
function slowConditional(code: string): Handler {
  const set = opNumber(`set${code}_r`);
  return (w, i) => {
    w.emit(set, TEMP1);
    w.emitSized(op.nearBranch, bytesOf(i), ZERO, TEMP1, i.target);
    return true;
  };
}

const COUNTER_32 = 16;

function slowLoop(kind: number): Handler {
  return (w, i) => {
    const name = Code[i.code] ?? "";
    const counter = name.endsWith("_ECX") || name.startsWith("Jecxz") ? COUNTER_32 : 0;
    w.emitSized(op.nearLoop, bytesOf(i), ZERO, ZERO, i.target, kind | counter);
    return true;
  };
}

/** `slow` acts for branches that the core performs. */
function refineBranch(mnemonic: Mnemonic, slow: Handler): void {
  const entry = handlers[mnemonic];
  if (entry === undefined) throw new Error(`no handler to refine: ${mnemonic}`);
  const direct = entry.handler;
  handlers[mnemonic] = { ...entry, handler: (w, i) => (i.isSlowBranch ? slow(w, i) : direct(w, i)) };
}

// ---------------------------------------------------------------- the stack

function pushValue(w: MicroOpWriter, i: Decoded, from: number): void {
  if (isPlain(i)) w.emit(op.push32R, ZERO, from);
  else w.emitSized(op.stackPush, bytesOf(i), ZERO, from);
}

function compatPush(w: MicroOpWriter, i: Decoded): boolean {
  const bytes = bytesOf(i);
  if (i.kinds[0] === IMM) {
    if (isPlain(i)) w.emit(op.push32I, ZERO, ZERO, i.imm);
    else w.emitSized(op.stackPushI, bytes, ZERO, ZERO, i.imm);
    return true;
  }
  if (i.kinds[0] === MEM) {
    w.emitMemory(bytes === WORD ? op.mov16Rm : op.mov32Rm, TEMP1, ZERO, i);
    pushValue(w, i, TEMP1);
    return true;
  }
  const segment = segmentNumber(i.registers[0]);
  if (segment >= 0) w.emitSized(op.pushSegment, bytes, ZERO, ZERO, segment);
  else pushValue(w, i, reg(i, 0));
  return true;
}

function compatPop(w: MicroOpWriter, i: Decoded): boolean {
  const bytes = bytesOf(i);
  if (i.kinds[0] === MEM) {
    // The address is computed after the increment of the stack pointer (SDM vol. 2, POP).
    const address = i.base === RSP ? { ...i, disp: i.disp + bytes } : i;
    w.emitSized(op.stackPeek, bytes);
    w.emitMemory(bytes === WORD ? op.mov16Mr : op.mov32Mr, ZERO, TEMP1, address);
    w.emitSized(op.stackDrop, bytes);
    return true;
  }
  const segment = segmentNumber(i.registers[0]);
  if (segment >= 0) w.emitSized(op.popSegment, bytes, ZERO, ZERO, segment);
  else if (isPlain(i)) w.emit(op.pop32R, reg(i, 0));
  else w.emitSized(op.stackPop, bytes, reg(i, 0));
  return true;
}

/** PUSH of an immediate of 16 bits in 64-bit mode. */
function pushWordImmediate(w: MicroOpWriter, i: Decoded): boolean {
  if (i.mode !== 0 || i.kinds[0] !== IMM || bytesOf(i) !== WORD) return false;
  w.emit(op.movRi, TEMP1, ZERO, i.imm);
  w.emit(op.push16, ZERO, TEMP1);
  return true;
}

function sizedHandler(name: string): Handler {
  const number = opNumber(name);
  return (w, i) => emitted(w.emitSized(number, bytesOf(i)));
}

function emitted(_pc: number): boolean {
  return true;
}

function compatEnter(w: MicroOpWriter, i: Decoded): boolean {
  return emitted(w.emitSized(op.enterFrame, bytesOf(i), ZERO, ZERO, i.imm & 0xffff, i.imm2 & LEVEL_MASK));
}

function compatLeave(w: MicroOpWriter, i: Decoded): boolean {
  return emitted(isPlain(i) ? w.emit(op.leave32) : w.emitSized(op.leaveFrame, bytesOf(i)));
}

// ---------------------------------------------------------------- far transfers and pointers

const FAR_MEMORY: ReadonlySet<number> = new Set([
  Code.Jmp_m1616,
  Code.Jmp_m1632,
  Code.Jmp_m1664,
  Code.Call_m1616,
  Code.Call_m1632,
  Code.Call_m1664,
]);

/** Offset to TEMP1 and selector to TEMP2. */
function emitFarPointer(w: MicroOpWriter, i: Decoded): void {
  const bytes = bytesOf(i);
  const load = bytes === WORD ? op.movzx16Rm : bytes === DWORD ? op.mov32Rm : op.mov64Rm;
  w.emitMemory(load, TEMP1, ZERO, { ...i, memoryBytes: bytes });
  w.emitMemory(op.movzx16Rm, TEMP2, ZERO, { ...i, memoryBytes: WORD, disp: i.disp + bytes });
}

function farHandler(transfer: number): Handler {
  return (w, i) => {
    if (i.kinds[0] === FAR) {
      w.emit(op.movRi, TEMP1, ZERO, i.imm);
      w.emit(op.movRi, TEMP2, ZERO, i.imm2);
    } else if (FAR_MEMORY.has(i.code)) emitFarPointer(w, i);
    else return false;
    return emitted(w.emitSized(transfer, bytesOf(i), TEMP2, TEMP1));
  };
}

function farReturnHandler(w: MicroOpWriter, i: Decoded): boolean {
  return emitted(w.emitSized(op.farReturn, bytesOf(i), ZERO, ZERO, i.kinds[0] === IMM ? i.imm & 0xffff : 0));
}

function farPointerHandler(segment: number): Handler {
  return (w, i) => {
    emitFarPointer(w, i);
    return emitted(w.emitSized(op.loadFarPointer, bytesOf(i), reg(i, 0), TEMP2, segment));
  };
}

/** LAR, LSL: selector in a register or 16 bits of memory. */
function descriptorHandler(number: number): Handler {
  return (w, i) => {
    const bytes = 1 << registerSize(i.registers[0]);
    if (i.kinds[1] === REG) return emitted(w.emitSized(number, bytes, reg(i, 0), reg(i, 1)));
    w.emitMemory(op.movzx16Rm, TEMP1, ZERO, { ...i, memoryBytes: WORD });
    return emitted(w.emitSized(number, bytes, reg(i, 0), TEMP1));
  };
}

// ---------------------------------------------------------------- operands

/** LEA: the sum is cut to the address size first, then to the operand size. */
function compatLea(w: MicroOpWriter, i: Decoded): boolean {
  w.emitEffective(i);
  return emitted(w.emit(registerSize(i.registers[0]) === SIZE_16 ? op.mov16Rr : op.movRr, reg(i, 0), TEMP0));
}

/** XLATB: the sum of base and AL is cut to the address size. */
function narrowXlat(w: MicroOpWriter, i: Decoded): boolean {
  if (i.addressBits === 64) return false;
  w.emit(op.movzx8Rr, TEMP1, RAX);
  const sum = { ...i, base: RBX, index: TEMP1, scale: 0, disp: 0, dispWide: false, memoryBytes: 1 };
  return emitted(w.emitMemory(op.mov8Rm, RAX, ZERO, sum));
}

/** BT, BTS, BTR, BTC of memory with the bit number in a register: the number moves the address, and the sum is cut to its size. */
function compatBitTest(mnemonic: Mnemonic, name: string): Handler {
  const mr = [16, 32].map((bits) => findOp(`${name}${bits}_mr`) ?? -1);
  const others = handlers[mnemonic]?.handler;
  return (w, i) => {
    if (i.kinds[0] !== MEM || i.kinds[1] !== REG) return others?.(w, i) ?? false;
    const isWord = registerSize(i.registers[1]) === SIZE_16;
    const bits = isWord ? 16 : 32;
    const shift = Math.log2(bits);
    w.emit(isWord ? op.movsx16Rr : op.movRr, TEMP1, reg(i, 1));
    w.emit(op.sar32, TEMP1, ZERO, shift);
    w.emit(op.shl32, TEMP1, ZERO, shift - 3);
    w.emitEffective(i);
    w.emitMoveEffective(i, TEMP1, 0);
    w.emit(op.movRr, TEMP2, reg(i, 1));
    w.emit(op.and32, TEMP2, ZERO, bits - 1);
    return emitted(w.emitInSegment(mr[isWord ? 0 : 1] ?? -1, ZERO, TEMP2, { ...i, memoryBytes: bits / 8 }));
  };
}

// ---------------------------------------------------------------- instructions that exist only there

function arplHandler(w: MicroOpWriter, i: Decoded): boolean {
  if (i.kinds[0] === REG) return emitted(w.emit(op.arplR, reg(i, 0), reg(i, 1)));
  return emitted(w.emitMemory(op.arplM, ZERO, reg(i, 1), { ...i, memoryBytes: WORD }));
}

/** BOUND: the limits in TEMP1 and TEMP2. */
function boundHandler(w: MicroOpWriter, i: Decoded): boolean {
  const bytes = 1 << registerSize(i.registers[0]);
  const load = bytes === WORD ? op.movsx16Rm : op.mov32Rm;
  w.emitMemory(load, TEMP1, ZERO, { ...i, memoryBytes: bytes });
  w.emitMemory(load, TEMP2, ZERO, { ...i, memoryBytes: bytes, disp: i.disp + bytes });
  return emitted(w.emitSized(op.bound, bytes, ZERO, reg(i, 0)));
}

const LKGS = opNumber("lkgs");
const LKGS_M = opNumber("lkgs_m");

function lkgsHandler(w: MicroOpWriter, i: Decoded): boolean {
  return emitted(i.kinds[0] === REG ? w.emit(LKGS, ZERO, reg(i, 0)) : w.emitMemory(LKGS_M, ZERO, ZERO, i));
}

function fixedHandler(name: string): Handler {
  const number = opNumber(name);
  return (w) => emitted(w.emit(number));
}

function immediateHandler(name: string): Handler {
  const number = opNumber(name);
  return (w, i) => emitted(w.emit(number, ZERO, ZERO, i.imm & 0xff));
}

export function defineCompat(): void {
  refineTransfers();
  refineStack();
  defineFar();
  refine(Mnemonic.Lea, compatLea);
  extend(Mnemonic.Xlatb, narrowXlat);
  for (const [mnemonic, name] of [
    [Mnemonic.Bt, "bt"],
    [Mnemonic.Bts, "bts"],
    [Mnemonic.Btr, "btr"],
    [Mnemonic.Btc, "btc"],
  ] as const)
    refine(mnemonic, compatBitTest(mnemonic, name));
  defineLegacy();
}

function refineTransfers(): void {
  refine(Mnemonic.Jmp, compatJump);
  refine(Mnemonic.Call, compatCall);
  refine(Mnemonic.Ret, compatReturn);
  for (const [n, code] of CONDITIONS.entries()) {
    const mnemonic = JCC[n];
    if (mnemonic !== undefined) refineBranch(mnemonic, slowConditional(code));
  }
  refineBranch(Mnemonic.Loop, slowLoop(0));
  refineBranch(Mnemonic.Loope, slowLoop(1));
  refineBranch(Mnemonic.Loopne, slowLoop(2));
  refineBranch(Mnemonic.Jecxz, slowLoop(3));
  define(Mnemonic.Jcxz, slowLoop(3), { flow: FLOW_CONDITIONAL });
}

function refineStack(): void {
  extend(Mnemonic.Push, pushWordImmediate);
  refine(Mnemonic.Push, compatPush);
  refine(Mnemonic.Pop, compatPop);
  refine(Mnemonic.Enter, compatEnter);
  refine(Mnemonic.Leave, compatLeave);
  for (const mnemonic of [Mnemonic.Pusha, Mnemonic.Pushad]) define(mnemonic, sizedHandler("push_all"), INLINE);
  for (const mnemonic of [Mnemonic.Popa, Mnemonic.Popad]) define(mnemonic, sizedHandler("pop_all"), INLINE);
}

function defineFar(): void {
  extend(Mnemonic.Jmp, farHandler(op.jumpFar));
  extend(Mnemonic.Call, farHandler(op.callFar));
  define(Mnemonic.Retf, farReturnHandler, { flow: FLOW_END });
  for (const [mnemonic, segment] of [
    [Mnemonic.Les, SEG_ES],
    [Mnemonic.Lds, SEG_DS],
    [Mnemonic.Lss, SEG_SS],
    [Mnemonic.Lfs, SEG_FS],
    [Mnemonic.Lgs, SEG_GS],
  ] as const)
    define(mnemonic, farPointerHandler(segment), LEAVES);
  define(Mnemonic.Lar, descriptorHandler(op.lar), INLINE);
  define(Mnemonic.Lsl, descriptorHandler(op.lsl), INLINE);
}

function defineLegacy(): void {
  for (const [mnemonic, name] of [
    [Mnemonic.Aaa, "aaa"],
    [Mnemonic.Aas, "aas"],
    [Mnemonic.Daa, "daa"],
    [Mnemonic.Das, "das"],
    [Mnemonic.Salc, "salc"],
  ] as const)
    define(mnemonic, fixedHandler(name), INLINE);
  define(Mnemonic.Aam, immediateHandler("aam"), INLINE);
  define(Mnemonic.Aad, immediateHandler("aad"), INLINE);
  define(Mnemonic.Into, fixedHandler("into"), LEAVES);
  define(Mnemonic.Bound, boundHandler, INLINE);
  define(Mnemonic.Arpl, arplHandler, INLINE);
  define(Mnemonic.Sysenter, fixedHandler("sysenter"), LEAVES);
  define(Mnemonic.Sysexit, sizedHandler("sysexit"), LEAVES);
  define(Mnemonic.Sysexitq, sizedHandler("sysexit"), LEAVES);
  define(Mnemonic.Sysret, fixedHandler("sysretd"), LEAVES);
  define(Mnemonic.Eretu, fixedHandler("eretu"), LEAVES);
  define(Mnemonic.Erets, fixedHandler("erets"), LEAVES);
  define(Mnemonic.Lkgs, lkgsHandler, INLINE);
}
