// Registers of the decoder (iced-x86 numbers) to byte offsets in the register file and operand sizes.
import { Register } from "iced-x86";
import { ZERO } from "./ir.ts";

/** Operand sizes as the index of their tables: log2 of the bytes. */
export const SIZE_8 = 0;
export const SIZE_16 = 1;
export const SIZE_32 = 2;
export const SIZE_64 = 3;
export type SizeIndex = 0 | 1 | 2 | 3;

const COUNT = 256;
const offsets = new Uint8Array(COUNT).fill(ZERO);
const sizes = new Uint8Array(COUNT);

fill(Register.AL, 4, SIZE_8, 0);
// AH CH DH BH: the second byte of the first four registers.
fill(Register.AH, 4, SIZE_8, 0, 1);
fill(Register.SPL, 12, SIZE_8, 4);
fill(Register.AX, 16, SIZE_16, 0);
fill(Register.EAX, 16, SIZE_32, 0);
fill(Register.RAX, 16, SIZE_64, 0);

function fill(first: number, count: number, size: SizeIndex, firstNumber: number, byte = 0): void {
  for (let n = 0; n < count; n++) {
    offsets[first + n] = (firstNumber + n) * 8 + byte;
    sizes[first + n] = size;
  }
}

/** Byte offset in the register file; the zero register for anything that is not a general register. */
export function registerOffset(register: number): number {
  return offsets[register] ?? ZERO;
}

export function registerSize(register: number): SizeIndex {
  const size = sizes[register];
  return size === SIZE_8 || size === SIZE_16 || size === SIZE_32 ? size : SIZE_64;
}

export function isGeneral(register: number): boolean {
  return register >= Register.AL && register <= Register.R15;
}

export function isXmm(register: number): boolean {
  return register >= Register.XMM0 && register < Register.XMM0 + 16;
}

/** Byte offset of an XMM register in the vector file. */
export function xmmOffset(register: number): number {
  return (register - Register.XMM0) * 16;
}

/** SEG_* number of a segment register, or -1. */
export function segmentNumber(register: number): number {
  return register >= Register.ES && register <= Register.GS ? register - Register.ES : -1;
}

export function isControl(register: number): boolean {
  return register >= Register.CR0 && register < Register.CR0 + 16;
}

export function isDebug(register: number): boolean {
  return register >= Register.DR0 && register < Register.DR0 + 8;
}
