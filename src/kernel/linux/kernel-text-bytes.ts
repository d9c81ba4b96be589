// Text between JavaScript and kernel memory: one character a byte (Latin-1), four bytes a step. A buffer has room for whole words.
import { addVirt, cpu, type VirtAddr } from "../../hardware/index.ts";

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** A name's hash (kernel: `full_name_hash()`); here FNV-1a. */
export function hashOf(text: string): number {
  let hash = FNV_OFFSET;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), FNV_PRIME);
  return hash >>> 0;
}

function wordOf(text: string, at: number): number {
  const byte = (i: number): number => (i < text.length ? text.charCodeAt(i) & 0xff : 0);
  return (byte(at) | (byte(at + 1) << 8) | (byte(at + 2) << 16) | (byte(at + 3) << 24)) >>> 0;
}

/** Writes the text; the last word is filled up with zeros. */
export function storeText(at: VirtAddr, text: string): void {
  for (let i = 0; i < text.length; i += 4) cpu.store(addVirt(at, i), 4, wordOf(text, i));
}

/** True when `storeText` wrote `text` there. */
export function isStored(at: VirtAddr, text: string): boolean {
  for (let i = 0; i < text.length; i += 4) if (cpu.load(addVirt(at, i), 4) !== wordOf(text, i)) return false;
  return true;
}

/** Reads `bytes` characters. Reads whole words: up to three bytes more. */
export function loadText(at: VirtAddr, bytes: number): string {
  let text = "";
  for (let i = 0; i < bytes; i += 4) {
    const value = cpu.load(addVirt(at, i), 4);
    text += String.fromCharCode(value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24);
  }
  return text.slice(0, bytes);
}

/** Reads up to the first NUL, at most `bytes` (a multiple of 4). @returns undefined when there is none. */
export function loadString(at: VirtAddr, bytes: number): string | undefined {
  let text = "";
  for (let i = 0; i < bytes; i += 4) {
    const value = cpu.load(addVirt(at, i), 4);
    for (let shift = 0; shift < 32; shift += 8) {
      const code = (value >>> shift) & 0xff;
      if (code === 0) return text;
      text += String.fromCharCode(code);
    }
  }
  return undefined;
}
