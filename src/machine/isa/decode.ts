// One decoded instruction as plain numbers. Reading a field of an iced-x86 Instruction is a call into its WebAssembly, so each is read
// once, here; everything after works on this record. Records are reused: translation allocates nothing per instruction.
import { Code, type Instruction, MemorySize, MemorySizeExt, OpKind, Register } from "iced-x86";
import { CODE_16, CODE_32, CODE_SEGMENTED, CODE_STEP, SEG_DS } from "../core/layout.gen.ts";
import { FS_BASE, GS_BASE, PAGE_BASE, ZERO } from "./ir.ts";
import { registerOffset, registerSize, SIZE_8, SIZE_16, SIZE_32, SIZE_64, type SizeIndex } from "./registers.ts";

/** Kinds of operands after decoding. */
export const NONE = 0;
export const REG = 1;
export const MEM = 2;
export const IMM = 3;
export const BRANCH = 4;
/** Implicit string operands. */
export const STRING = 5;
/** A far pointer in the instruction: offset in `imm`, selector in `imm2`. */
export const FAR = 6;
export type OperandKind = 0 | 1 | 2 | 3 | 4 | 5 | 6;

/** Where the decoder is told that byte 0 of the page is: any number far from overflow, so that targets are page-relative. */
const DECODE_BASE = 0x4000_0000_0000;
const DECODE_BASE_BIG = BigInt(DECODE_BASE);
const DECODE_BASE_32 = 0x4000_0000;
const DECODE_BASE_16 = 0x4000;

/** The decoder's bitness for a mode (CODE_*). */
export function bitnessOf(mode: number): 16 | 32 | 64 {
  if ((mode & CODE_16) !== 0) return 16;
  return (mode & CODE_32) !== 0 ? 32 : 64;
}

export function decodeBase(mode: number): number {
  const bitness = bitnessOf(mode);
  return bitness === 64 ? DECODE_BASE : bitness === 32 ? DECODE_BASE_32 : DECODE_BASE_16;
}

export interface Decoded {
  mnemonic: number;
  /** The decoder's number of the encoding: operand sizes that no operand shows. */
  code: number;
  /** CODE_* bits of the block. */
  mode: number;
  /** Bits of the address of the memory operand or of string operands: 16, 32, 64. */
  addressBits: number;
  /** SEG_* of the memory operand (or of the source of a string instruction). */
  segmentRegister: number;
  /** Compatibility mode: a branch that a function of the core performs (16-bit targets, 16-bit counters, a code segment that is not flat). */
  isSlowBranch: boolean;
  /** Page offset of the first byte. */
  offset: number;
  length: number;
  /** offset + length: page offset of the next instruction (may exceed the page). */
  end: number;
  opCount: number;
  readonly kinds: [OperandKind, OperandKind, OperandKind, OperandKind];
  /** Decoder's register numbers. */
  readonly registers: [number, number, number, number];
  /** Sign-extended immediate, if it fits 32 bits. */
  imm: number;
  /** Second immediate (ENTER). */
  imm2: number;
  /** A 64-bit immediate or absolute address, as halves; wide says whether it does not fit 32 signed bits. */
  immLow: number;
  immHigh: number;
  immWide: boolean;
  /** Branch target, page-relative. */
  target: number;
  // Memory operand: byte offsets of registers.
  base: number;
  index: number;
  scale: number;
  disp: number;
  /** disp does not fit 32 bits: immLow and immHigh hold it. */
  dispWide: boolean;
  /** FS_BASE or GS_BASE, or ZERO. */
  segment: number;
  /** 67h: the sum is cut to 32 bits. */
  address32: boolean;
  /** Of the memory operand: log2 of the bytes if 1, 2, 4, 8. */
  memorySize: SizeIndex;
  memoryBytes: number;
  repeats: boolean;
  repeatsNe: boolean;
  flagsRead: number;
  flagsModified: number;
  /** Set by the liveness pass: nobody reads the flags that this instruction sets. */
  flagsDead: boolean;
}

/** The six arithmetic flags among the decoder's RflagsBits. */
export const ARITHMETIC_FLAGS = 0x3f;

export function newDecoded(): Decoded {
  return {
    mnemonic: 0,
    code: 0,
    mode: 0,
    addressBits: 64,
    segmentRegister: SEG_DS,
    isSlowBranch: false,
    offset: 0,
    length: 0,
    end: 0,
    opCount: 0,
    kinds: [NONE, NONE, NONE, NONE],
    registers: [0, 0, 0, 0],
    imm: 0,
    imm2: 0,
    immLow: 0,
    immHigh: 0,
    immWide: false,
    target: 0,
    base: ZERO,
    index: ZERO,
    scale: 0,
    disp: 0,
    dispWide: false,
    segment: ZERO,
    address32: false,
    memorySize: SIZE_64,
    memoryBytes: 0,
    repeats: false,
    repeatsNe: false,
    flagsRead: 0,
    flagsModified: 0,
    flagsDead: false,
  };
}

const memoryBytes = new Uint8Array(256);
for (const value of Object.values(MemorySize))
  if (typeof value === "number" && value < 256) memoryBytes[value] = Math.min(MemorySizeExt.size(value), 255);

/** Copies the fields of `from`, an instruction at page offset `offset` of code of `mode` (CODE_*), into `to`. */
export function readInstruction(from: Instruction, offset: number, mode: number, to: Decoded): void {
  to.mnemonic = from.mnemonic;
  to.code = from.code;
  to.mode = mode & ~CODE_STEP;
  to.addressBits = bitnessOf(mode);
  to.segmentRegister = SEG_DS;
  to.isSlowBranch = false;
  to.offset = offset;
  to.length = from.length;
  to.end = offset + to.length;
  to.opCount = Math.min(from.opCount, 4);
  to.flagsRead = from.rflagsRead & ARITHMETIC_FLAGS;
  to.flagsModified = from.rflagsModified & ARITHMETIC_FLAGS;
  to.segment = ZERO;
  to.address32 = false;
  for (let n = 0; n < 4; n++) {
    if (n >= to.opCount) {
      to.kinds[n] = NONE;
      continue;
    }
    readOperand(from, n, to);
  }
}

function readOperand(from: Instruction, n: number, to: Decoded): void {
  const kind = from.opKind(n);
  switch (kind) {
    case OpKind.Register:
      to.kinds[n] = REG;
      to.registers[n] = from.opRegister(n);
      return;
    case OpKind.Memory:
      to.kinds[n] = MEM;
      readMemory(from, to);
      return;
    case OpKind.NearBranch16:
    case OpKind.NearBranch32:
      readCompatBranch(from, n, to);
      return;
    case OpKind.NearBranch64:
      to.kinds[n] = BRANCH;
      to.target = Number(BigInt.asIntN(64, from.nearBranchTarget - DECODE_BASE_BIG));
      to.address32 = countsInEcx(from.code);
      return;
    case OpKind.FarBranch16:
    case OpKind.FarBranch32:
      to.kinds[n] = FAR;
      to.imm = (kind === OpKind.FarBranch16 ? from.farBranch16 : from.farBranch32) | 0;
      to.imm2 = from.farBranchSelector;
      return;
    case OpKind.Immediate8:
      setImmediate(to, n, (from.immediate8 << 24) >> 24);
      return;
    case OpKind.Immediate8_2nd:
      to.kinds[n] = IMM;
      to.imm2 = from.immediate8_2nd;
      return;
    case OpKind.Immediate16:
      setImmediate(to, n, (from.immediate16 << 16) >> 16);
      return;
    case OpKind.Immediate8to16:
    case OpKind.Immediate8to32:
    case OpKind.Immediate8to64:
      setImmediate(to, n, (from.immediate8 << 24) >> 24);
      return;
    case OpKind.Immediate32:
    case OpKind.Immediate32to64:
      setImmediate(to, n, from.immediate32 | 0);
      return;
    case OpKind.Immediate64: {
      const value = from.immediate64;
      to.kinds[n] = IMM;
      to.immLow = Number(BigInt.asIntN(32, value));
      to.immHigh = Number(BigInt.asIntN(32, value >> 32n));
      to.immWide = to.immHigh !== to.immLow >> 31;
      to.imm = to.immLow;
      return;
    }
    default:
      to.kinds[n] = STRING;
      to.address32 ||= kind === OpKind.MemorySegESI || kind === OpKind.MemoryESEDI;
      to.addressBits = to.address32 ? 32 : kind === OpKind.MemorySegSI || kind === OpKind.MemoryESDI ? 16 : 64;
      if (from.segmentPrefix !== Register.None) to.segmentRegister = from.segmentPrefix - Register.ES;
      if (to.segment === ZERO) to.segment = segmentBase(from.segmentPrefix);
      to.repeats = from.hasRepePrefix;
      to.repeatsNe = from.hasRepnePrefix;
      return;
  }
}

/** Branches of compatibility mode: targets wrap at 32 or 16 bits. */
function readCompatBranch(from: Instruction, n: number, to: Decoded): void {
  const base = decodeBase(to.mode);
  const target = Number(from.nearBranchTarget);
  const is16 = from.opKind(n) === OpKind.NearBranch16;
  to.kinds[n] = BRANCH;
  to.target = is16 ? to.end + (((target - base - to.end) << 16) >> 16) : (target - base) | 0;
  to.isSlowBranch = is16 || (to.mode & CODE_SEGMENTED) !== 0 || COUNTS_IN_CX.has(from.code);
  to.address32 = true;
}

/** LOOP, LOOPE, LOOPNE and JCXZ that look at CX. */
const COUNTS_IN_CX: ReadonlySet<number> = new Set([Code.Loop_rel8_32_CX, Code.Loope_rel8_32_CX, Code.Loopne_rel8_32_CX, Code.Jcxz_rel8_32]);

function setImmediate(to: Decoded, n: number, value: number): void {
  to.kinds[n] = IMM;
  to.imm = value;
  to.immLow = value;
  to.immHigh = value >> 31;
  to.immWide = false;
}

function segmentBase(register: number): number {
  return register === Register.FS ? FS_BASE : register === Register.GS ? GS_BASE : ZERO;
}

function readMemory(from: Instruction, to: Decoded): void {
  const base = from.memoryBase;
  const index = from.memoryIndex;
  to.address32 = isDword(base) || isDword(index) || (base === Register.None && index === Register.None && from.memoryDisplSize === 4);
  to.addressBits = to.address32 ? 32 : isWord(base) || isWord(index) || from.memoryDisplSize === 2 ? 16 : 64;
  to.segmentRegister = from.memorySegment - Register.ES;
  to.base = registerOffset(base);
  to.index = registerOffset(index);
  to.scale = from.memoryIndexScale === 1 ? 0 : Math.log2(from.memoryIndexScale);
  to.segment = segmentBase(from.memorySegment);
  // With 32-bit addresses the decoder gives the displacement zero-extended; as part of a sum that is cut to 32 bits it may be signed.
  let displacement = BigInt.asIntN(to.addressBits, from.memoryDisplacement);
  if (base === Register.RIP || base === Register.EIP) {
    displacement -= DECODE_BASE_BIG;
    to.base = PAGE_BASE;
    to.address32 = base === Register.EIP;
  }
  to.immLow = Number(BigInt.asIntN(32, displacement));
  to.immHigh = Number(BigInt.asIntN(32, displacement >> 32n));
  to.disp = to.immLow;
  to.dispWide = to.immHigh !== to.immLow >> 31;
  to.memoryBytes = memoryBytes[from.memorySize] ?? 0;
  to.memorySize = to.memoryBytes === 1 ? SIZE_8 : to.memoryBytes === 2 ? SIZE_16 : to.memoryBytes === 4 ? SIZE_32 : SIZE_64;
}

/** LOOP, LOOPE, LOOPNE with the 67h prefix. */
function countsInEcx(code: Code): boolean {
  return code === Code.Loop_rel8_64_ECX || code === Code.Loope_rel8_64_ECX || code === Code.Loopne_rel8_64_ECX;
}

/** BX BP SI DI. */
function isWord(register: number): boolean {
  return register !== Register.None && registerSize(register) === SIZE_16 && register >= Register.AX && register <= Register.R15W;
}

function isDword(register: number): boolean {
  return register !== Register.None && registerSize(register) === SIZE_32 && register >= Register.EAX && register <= Register.R15D;
}

/** Size of the operation of a two-operand instruction: of its first register, else of its memory operand. */
export function operandSize(i: Decoded): SizeIndex {
  if (i.kinds[0] === REG) return registerSize(i.registers[0]);
  if (i.kinds[1] === REG) return registerSize(i.registers[1]);
  return i.memorySize;
}
