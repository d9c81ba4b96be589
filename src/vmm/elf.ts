// Static ELF64 programs for x86-64, as guests are linked: what to load where, the entry, and the names of functions. Pure: also for the
// command line, which checks a file before anything starts.
import { UsageError } from "../hardware/index.ts";

/** A part of the image: `bytes` at guest-physical `address`, then zeros up to `memoryBytes`. */
export interface Segment {
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly memoryBytes: number;
}

export interface GuestImage {
  readonly entry: number;
  readonly segments: readonly Segment[];
  /** Functions and objects by name. */
  readonly symbols: ReadonlyMap<string, number>;
}

// Identification and header. System V ABI, chapter 4; AMD64 supplement.
const ELF_MAGIC = 0x464c457f;
const EI_CLASS = 4;
const EI_DATA = 5;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const EM_X86_64 = 62;
const EHDR_BYTES = 64;
const PHDR_BYTES = 56;
const SHDR_BYTES = 64;
const SYM_BYTES = 24;
const PT_LOAD = 1;
const PT_INTERP = 3;
const SHT_SYMTAB = 2;

/** Images start here: below are the monitor's page tables and tables of segments. */
export const GUEST_IMAGE_START = 0x100000;

function word64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

/** Throws UsageError, which names the file and what is accepted. */
function refuse(name: string, problem: string): never {
  throw new UsageError(
    `${name}: ${problem}; accepted: a static ELF64 executable for x86-64, linked at 1 MiB (0x${GUEST_IMAGE_START.toString(16)}) or above`,
  );
}

function checkHeader(view: DataView, name: string): void {
  if (view.byteLength < EHDR_BYTES || view.getUint32(0, true) !== ELF_MAGIC) refuse(name, "not an ELF file");
  if (view.getUint8(EI_CLASS) !== ELFCLASS64) refuse(name, `ELF class ${view.getUint8(EI_CLASS)}, not 64-bit`);
  if (view.getUint8(EI_DATA) !== ELFDATA2LSB) refuse(name, "not little endian");
  const type = view.getUint16(16, true);
  if (type !== ET_EXEC) refuse(name, `ELF type ${type}, not an executable with fixed addresses`);
  const machine = view.getUint16(18, true);
  if (machine !== EM_X86_64) refuse(name, `ELF machine ${machine}, not x86-64`);
}

/** Offsets of the entries of a header table that lies inside the file. */
function tableEntries(view: DataView, name: string, offset: number, count: number, size: number, minimum: number): readonly number[] {
  if (count === 0) return [];
  if (size < minimum || offset + count * size > view.byteLength) refuse(name, "header tables outside the file");
  return Array.from({ length: count }, (_, i) => offset + i * size);
}

function readSegments(view: DataView, file: Uint8Array, name: string, memoryBytes: number): readonly Segment[] {
  const headers = tableEntries(view, name, word64(view, 32), view.getUint16(56, true), view.getUint16(54, true), PHDR_BYTES);
  const segments: Segment[] = [];
  for (const at of headers) {
    const type = view.getUint32(at, true);
    if (type === PT_INTERP) refuse(name, "dynamically linked");
    if (type !== PT_LOAD) continue;
    const offset = word64(view, at + 8);
    const address = word64(view, at + 24);
    const fileBytes = word64(view, at + 32);
    const bytes = word64(view, at + 40);
    if (bytes === 0) continue;
    if (fileBytes > bytes || offset + fileBytes > view.byteLength) refuse(name, "a segment lies outside the file");
    if (address < GUEST_IMAGE_START || address + bytes > memoryBytes)
      refuse(
        name,
        `a segment at ${range(address, bytes)} lies outside guest memory (${range(GUEST_IMAGE_START, memoryBytes - GUEST_IMAGE_START)})`,
      );
    segments.push({ address, bytes: file.subarray(offset, offset + fileBytes), memoryBytes: bytes });
  }
  if (segments.length === 0) refuse(name, "nothing to load");
  return segments;
}

function range(start: number, bytes: number): string {
  return `0x${start.toString(16)}-0x${(start + bytes - 1).toString(16)}`;
}

function text(file: Uint8Array, at: number): string {
  const end = file.indexOf(0, at);
  return new TextDecoder("latin1").decode(file.subarray(at, end < 0 ? file.length : end));
}

/** A symbol table that is damaged is left out: nothing that is loaded depends on it. */
function readSymbols(view: DataView, file: Uint8Array): ReadonlyMap<string, number> {
  const symbols = new Map<string, number>();
  const offset = word64(view, 40);
  const size = view.getUint16(58, true);
  const count = view.getUint16(60, true);
  if (count === 0 || size < SHDR_BYTES || offset + count * size > view.byteLength) return symbols;
  for (let i = 0; i < count; i++) {
    const at = offset + i * size;
    if (view.getUint32(at + 4, true) !== SHT_SYMTAB) continue;
    const start = word64(view, at + 24);
    const bytes = word64(view, at + 32);
    const link = view.getUint32(at + 40, true);
    if (link >= count || start + bytes > view.byteLength) continue;
    const names = word64(view, offset + link * size + 24);
    for (let entry = start; entry + SYM_BYTES <= start + bytes; entry += SYM_BYTES) {
      const nameAt = view.getUint32(entry, true);
      if (nameAt !== 0 && names + nameAt < view.byteLength) symbols.set(text(file, names + nameAt), word64(view, entry + 8));
    }
  }
  return symbols;
}

/**
 * Checks and reads a guest. `name`: of the file, for messages; `memoryBytes`: of the guest. Throws UsageError, with one line, for what
 * is not a static ELF64 program for x86-64 that fits.
 */
export function parseElf(file: Uint8Array, name: string, memoryBytes: number): GuestImage {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  checkHeader(view, name);
  const segments = readSegments(view, file, name, memoryBytes);
  const entry = word64(view, 24);
  if (!segments.some((s) => entry >= s.address && entry < s.address + s.memoryBytes)) refuse(name, "the entry is in no segment");
  return { entry, segments, symbols: readSymbols(view, file) };
}
