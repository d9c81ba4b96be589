// The recorded vectors: cases with what a real processor made of them, so that a machine without a compiler can check the core. The
// start state is derived (case.ts), of the result only what differs from it is kept; the rest is gzip.
import { gunzipSync, gzipSync } from "node:zlib";
import { ByteReader, ByteWriter } from "./bytes.ts";
import { type Case, type Change, NO_FAULT, newState, type Result, startState } from "./case.ts";

const MAGIC = "cordon-vectors-1";
const PROCESSOR_BYTES = 64;
const PAGE_FAULT = 14;

export interface Vectors {
  /** The processor that the results come from. */
  readonly processor: string;
  readonly cases: readonly Case[];
  readonly results: readonly Result[];
}

const state = newState();

function writeCase(w: ByteWriter, c: Case): void {
  w.u32(c.seed);
  w.u16(c.codeOffset);
  w.u16(c.flagMask);
  for (let n = 0; n < 16; n += 2) w.u8((c.classes[n] ?? 0) | ((c.classes[n + 1] ?? 0) << 4));
  w.u8(c.code.length);
  w.bytes(c.code);
}

function readCase(r: ByteReader): Case {
  const seed = r.u32();
  const codeOffset = r.u16();
  const flagMask = r.u16();
  const classes = new Uint8Array(16);
  for (let n = 0; n < 16; n += 2) {
    const two = r.u8();
    classes[n] = two & 15;
    classes[n + 1] = two >> 4;
  }
  return { name: "", seed, codeOffset, flagMask, classes, code: r.bytes(r.u8()) };
}

function writeResult(w: ByteWriter, c: Case, result: Result): void {
  startState(c.seed, c.classes, state);
  w.u8(result.outcome);
  if (result.outcome !== NO_FAULT) {
    w.u8(result.ripOffset);
    w.u16(result.errorCode);
    if (result.outcome === PAGE_FAULT) w.address(result.cr2);
  }
  let changed = 0;
  for (let n = 0; n < 16; n++) {
    const isSame = result.registers[2 * n] === state.registers[2 * n] && result.registers[2 * n + 1] === state.registers[2 * n + 1];
    if (!isSame) changed |= 1 << n;
  }
  w.u16(changed);
  for (let n = 0; n < 16; n++) {
    if ((changed & (1 << n)) === 0) continue;
    w.u32(result.registers[2 * n] ?? 0);
    w.u32(result.registers[2 * n + 1] ?? 0);
  }
  w.u16(result.flags & c.flagMask);
  w.u16(result.changes.length);
  for (const change of result.changes) {
    w.u16(change.offset);
    w.u8(change.bytes.length);
    w.bytes(change.bytes);
  }
}

function readResult(r: ByteReader, c: Case): Result {
  startState(c.seed, c.classes, state);
  const outcome = r.u8();
  const hasFault = outcome !== NO_FAULT;
  const ripOffset = hasFault ? r.u8() : 0;
  const errorCode = hasFault ? r.u16() : 0;
  const cr2 = outcome === PAGE_FAULT ? r.address() : 0;
  const registers = state.registers.slice();
  const changed = r.u16();
  for (let n = 0; n < 16; n++) {
    if ((changed & (1 << n)) === 0) continue;
    registers[2 * n] = r.u32();
    registers[2 * n + 1] = r.u32();
  }
  const flags = r.u16();
  const changes: Change[] = [];
  for (let n = r.u16(); n > 0; n--) {
    const offset = r.u16();
    changes.push({ offset, bytes: r.bytes(r.u8()) });
  }
  return { outcome, ripOffset, errorCode, cr2, registers, flags, changes };
}

export function encodeVectors(vectors: Vectors): Uint8Array {
  const w = new ByteWriter();
  w.text(MAGIC, MAGIC.length);
  w.text(vectors.processor, PROCESSOR_BYTES);
  w.u32(vectors.cases.length);
  for (const [i, c] of vectors.cases.entries()) {
    const result = vectors.results[i];
    if (result === undefined) throw new Error(`case ${i} has no result`);
    writeCase(w, c);
    writeResult(w, c, result);
  }
  return gzipSync(w.finish(), { level: 9 });
}

export function decodeVectors(file: Uint8Array): Vectors {
  const r = new ByteReader(gunzipSync(file));
  const magic = r.text(MAGIC.length);
  if (magic !== MAGIC) throw new Error(`not recorded vectors: starts with ${magic}`);
  const processor = r.text(PROCESSOR_BYTES);
  const cases: Case[] = [];
  const results: Result[] = [];
  for (let n = r.u32(); n > 0; n--) {
    const c = readCase(r);
    cases.push(c);
    results.push(readResult(r, c));
  }
  return { processor, cases, results };
}
