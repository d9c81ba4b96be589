// A case: code, and the state it starts in. The state is not stored but derived from a seed and one class per register (a pointer, a
// small number, an edge value ...), so that a file of 100,000 cases is small and every run builds the same ones.
import { Random } from "./random.ts";

// Must equal the constants in native.c.
export const CODE_BASE = 0x100000;
export const CODE_BYTES = 0x2000;
export const DATA_BASE = 0x200000;
export const DATA_BYTES = 0x2000;
/** The part of the data pages that holds random bytes; the rest holds zeros. It lies across the page boundary, in its middle. */
export const HOT_OFFSET = 0xc00;
export const HOT_BYTES = 0x800;
export const HOT_BASE = DATA_BASE + HOT_OFFSET;
export const HOT_MIDDLE = HOT_BASE + HOT_BYTES / 2;
export const DATA_END = DATA_BASE + DATA_BYTES;
/** Base address of the GS segment: cases may use the prefix. FS belongs to the C library of the native side. */
export const GS_BASE = 0x40;
export const CODE_MAX = 248;
/** Where code starts unless it shall cross into the second code page. */
export const CODE_OFFSET = 0x100;

/** RFLAGS bits (SDM volume 1, 3.4.3). */
export const Flag = { CF: 0x1, PF: 0x4, AF: 0x10, ZF: 0x40, SF: 0x80, IF: 0x200, DF: 0x400, OF: 0x800 } as const;
export type FlagName = keyof typeof Flag;
export const ARITHMETIC_FLAGS = Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.OF;
/** The flags that a case may compare. */
export const COMPARED_FLAGS = ARITHMETIC_FLAGS | Flag.DF;
/** Bit 1 is always set; user code runs with interrupts on. */
export const FIXED_FLAGS = 0x2 | Flag.IF;

/** What a register holds at the start. Fits four bits. */
export const RegisterClass = {
  random64: 0,
  /** Where arithmetic turns: 0, 1, the signed and unsigned limits of each width. */
  edge: 1,
  /** Into the hot bytes, a multiple of 16. */
  pointer: 2,
  /** Into the hot bytes, any alignment. */
  pointerOdd: 3,
  /** 0 .. 15 */
  small: 4,
  /** Within 16 bytes before the page boundary. */
  pointerCrossing: 5,
  /** At a page that is not mapped, or within 16 bytes before it. */
  pointerUnmapped: 6,
  notCanonical: 7,
  /** A sign-extended 32-bit number. */
  signed32: 8,
  /** -2048 .. 2047: a bit offset. */
  bitOffset: 9,
  /** 0 .. 255: a shift count. */
  count: 10,
  /** A pointer in the low half, random bits above: for 32-bit address size. */
  pointerDirty: 11,
  /** 0 .. 40: a repeat count. */
  repeat: 12,
  /** Within 64 bytes before the end of the data pages. */
  pointerEnd: 13,
  /** RSP: in the upper hot page, above the other pointers. */
  stack: 14,
  stackDirectionDown: 15,
} as const;
export type RegisterClass = (typeof RegisterClass)[keyof typeof RegisterClass];

/** Register numbers, as in the encoding. */
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RSP = 4;
export const RBP = 5;
export const RSI = 6;
export const RDI = 7;

export interface Case {
  /** The form and its operands, for reports; empty if it was read from a file. */
  readonly name: string;
  readonly seed: number;
  readonly code: Uint8Array;
  readonly codeOffset: number;
  /** 16 classes, by register number; that of RSP is `stack`, or `stackDirectionDown` to start with DF set. */
  readonly classes: Uint8Array;
  /** Flags to compare: those that the instructions leave undefined are missing. */
  readonly flagMask: number;
}

/** Registers are pairs of 32-bit words, low first: registers[2 * n], registers[2 * n + 1]. */
export interface State {
  readonly registers: Uint32Array;
  flags: number;
  readonly hot: Uint8Array;
}

export function newState(): State {
  return { registers: new Uint32Array(32), flags: 0, hot: new Uint8Array(HOT_BYTES) };
}

const EDGES: readonly (readonly [number, number])[] = [
  [0, 0],
  [1, 0],
  [0xffffffff, 0xffffffff],
  [0x7f, 0],
  [0x80, 0],
  [0xff, 0],
  [0x7fff, 0],
  [0x8000, 0],
  [0xffff, 0],
  [0x7fffffff, 0],
  [0x80000000, 0],
  [0xffffffff, 0],
  [0xffffffff, 0x7fffffff],
  [0, 0x80000000],
  [0xffffff80, 0xffffffff],
  [0xffff8000, 0xffffffff],
  [0x80000000, 0xffffffff],
  [2, 0],
  [0xfffffffe, 0xffffffff],
  [0, 1],
];

function lowOf(cls: number, random: Random): number {
  switch (cls) {
    case RegisterClass.pointer:
      return HOT_MIDDLE - 512 + 16 * random.below(64);
    case RegisterClass.pointerOdd:
      return HOT_MIDDLE - 512 + random.below(1024);
    case RegisterClass.small:
      return random.below(16);
    case RegisterClass.pointerCrossing:
      return HOT_MIDDLE - 16 + random.below(16);
    case RegisterClass.pointerUnmapped:
      return random.oneIn(2) ? DATA_END - random.below(16) : DATA_END + 0x1000 + random.below(0x10000);
    case RegisterClass.count:
      return random.below(256);
    case RegisterClass.repeat:
      return random.below(41);
    case RegisterClass.pointerEnd:
      return DATA_END - random.below(64);
    case RegisterClass.pointerDirty:
      return HOT_MIDDLE - 512 + random.below(1024);
    case RegisterClass.stack:
    case RegisterClass.stackDirectionDown:
      return HOT_MIDDLE + 768; // above whatever a pointer with displacement and index reaches
    default:
      return random.u32();
  }
}

function setRegister(registers: Uint32Array, n: number, cls: number, random: Random): void {
  let low = lowOf(cls, random);
  let high = 0;
  if (cls === RegisterClass.random64 || cls === RegisterClass.pointerDirty) high = random.u32();
  else if (cls === RegisterClass.edge) [low, high] = random.pick(EDGES);
  else if (cls === RegisterClass.notCanonical) high = 0x8000 + random.below(0x7fff0000);
  else if (cls === RegisterClass.signed32) high = low >> 31;
  else if (cls === RegisterClass.bitOffset) {
    low = random.below(4096) - 2048;
    high = low >> 31;
  }
  registers[2 * n] = low;
  registers[2 * n + 1] = high;
}

/** Writes into `state` what the case starts with. */
export function startState(seed: number, classes: Uint8Array, state: State): void {
  const random = new Random(seed);
  const words = new Uint32Array(state.hot.buffer);
  for (let n = 0; n < 16; n++) setRegister(state.registers, n, classes[n] ?? 0, random);
  const direction = classes[RSP] === RegisterClass.stackDirectionDown ? Flag.DF : 0;
  state.flags = FIXED_FLAGS | (random.u32() & ARITHMETIC_FLAGS) | direction;
  for (let i = 0; i < words.length; i++) words[i] = random.u32();
}

export const NO_FAULT = 0xff;
/** Stopped by the native side's clock: a fault of the generator. */
export const TIMEOUT = 0xfe;

/** What a case left behind. */
export interface Result {
  /** Exception vector, or NO_FAULT. */
  readonly outcome: number;
  /** After a fault: the address of the faulting instruction, relative to the start of the code (#BP: of the next one). Else 0. */
  readonly ripOffset: number;
  readonly errorCode: number;
  /** After a page fault: CR2; else 0. */
  readonly cr2: number;
  readonly registers: Uint32Array;
  readonly flags: number;
  /** Bytes of the data pages that changed: pieces of ascending offset. */
  readonly changes: readonly Change[];
}

export interface Change {
  readonly offset: number;
  readonly bytes: Uint8Array;
}
