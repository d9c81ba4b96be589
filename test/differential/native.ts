// Talks to native.c: builds it, sends it cases, reads what the processor did with them.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ByteReader } from "./bytes.ts";
import { type Case, type Change, CODE_BASE, CODE_MAX, HOT_BYTES, newState, type Result, startState } from "./case.ts";

const INPUT_BYTES = 8 + CODE_MAX + 16 * 8 + 8 + HOT_BYTES;
const PROCESSOR_BYTES = 64;
/** Cases per child process. */
const BATCH = 4000;

export interface NativeRun {
  readonly processor: string;
  readonly results: readonly Result[];
}

export interface Native {
  run(cases: readonly Case[]): NativeRun;
  close(): void;
}

/** Compiles the native side. @throws if there is no compiler: cases then run against the recorded vectors only. */
export function buildNative(source: string): Native {
  const directory = mkdtempSync(join(tmpdir(), "cordon-native-"));
  const program = join(directory, "native");
  const built = spawnSync("gcc", ["-O2", "-Wall", "-o", program, source], { encoding: "utf8" });
  if (built.status !== 0) throw new Error(`cannot build ${source}: ${built.error?.message ?? built.stderr}`);
  return {
    run: (cases) => runAll(program, cases),
    close: () => rmSync(directory, { recursive: true }),
  };
}

const state = newState();

function writeInput(view: DataView, bytes: Uint8Array, at: number, c: Case): void {
  startState(c.seed, c.classes, state);
  view.setUint16(at, c.codeOffset, true);
  view.setUint8(at + 2, c.code.length);
  bytes.set(c.code, at + 8);
  let to = at + 8 + CODE_MAX;
  for (let i = 0; i < 32; i++, to += 4) view.setUint32(to, state.registers[i] ?? 0, true);
  view.setUint32(to, state.flags, true);
  bytes.set(state.hot, to + 8);
}

function runAll(program: string, cases: readonly Case[]): NativeRun {
  const results: Result[] = [];
  let processor = "";
  for (let from = 0; from < cases.length; from += BATCH) {
    const batch = cases.slice(from, from + BATCH);
    const input = new Uint8Array(batch.length * INPUT_BYTES);
    const view = new DataView(input.buffer);
    for (const [i, c] of batch.entries()) writeInput(view, input, i * INPUT_BYTES, c);
    const child = spawnSync(program, [], { input, maxBuffer: 2 ** 30 });
    if (child.status !== 0) throw new Error(`native side ended with ${child.status ?? child.signal} after ${from} cases: ${child.stderr}`);
    const reader = new ByteReader(child.stdout);
    processor = reader.text(PROCESSOR_BYTES);
    for (const c of batch) results.push(readResult(reader, c));
    if (!reader.isAtEnd()) throw new Error("native side wrote more than one result per case");
  }
  return { processor, results };
}

const PAGE_FAULT = 14;
const ERROR_CODE_PRESENT = 1;

/** In the kernel half the P bit of the error code tells what the kernel there has mapped: that is not part of a case. */
function comparableErrorCode(outcome: number, errorCode: number, cr2: number): number {
  return outcome === PAGE_FAULT && cr2 < 0 ? errorCode & ~ERROR_CODE_PRESENT : errorCode;
}

function readResult(reader: ByteReader, c: Case): Result {
  const outcome = reader.u8();
  const rip = reader.address();
  const errorCode = reader.address();
  const cr2 = reader.address();
  const registers = new Uint32Array(32);
  for (let i = 0; i < 32; i++) registers[i] = reader.u32();
  const flags = reader.address();
  const changes: Change[] = [];
  for (let n = reader.u16(); n > 0; n--) {
    const offset = reader.u16();
    changes.push({ offset, bytes: reader.bytes(reader.u8()) });
  }
  const start = CODE_BASE + c.codeOffset;
  return {
    outcome,
    ripOffset: rip === 0 ? 0 : rip - start,
    errorCode: comparableErrorCode(outcome, errorCode, cr2),
    cr2: outcome === PAGE_FAULT ? cr2 : 0,
    registers,
    flags,
    changes,
  };
}
