// Two results of one case, side by side: what differs, in words, and the code, disassembled.
import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from "iced-x86";
import { type Case, CODE_BASE, DATA_BYTES, Flag, HOT_OFFSET, NO_FAULT, newState, type Result, startState } from "./case.ts";

/** What a runner leaves: as Result, with the whole data memory. */
export interface Outcome {
  readonly outcome: number;
  readonly ripOffset: number;
  readonly errorCode: number;
  readonly cr2: number;
  readonly registers: Uint32Array;
  readonly flags: number;
  readonly data: Uint8Array;
}

/** Runs cases on some machine; the returned object is reused by the next call. */
export interface Runner {
  readonly name: string;
  run(c: Case): Outcome;
}

const REGISTERS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

const scratch = newState();
const expectedData = new Uint8Array(DATA_BYTES);

/** Data memory after the case: what it was given, with the recorded changes. The buffer is reused. */
export function dataAfter(c: Case, result: Result): Uint8Array {
  startState(c.seed, c.classes, scratch);
  expectedData.fill(0);
  expectedData.set(scratch.hot, HOT_OFFSET);
  for (const change of result.changes) expectedData.set(change.bytes, change.offset);
  return expectedData;
}

function hex64(registers: Uint32Array, n: number): string {
  const word = (i: number): string => (registers[i] ?? 0).toString(16).padStart(8, "0");
  return word(2 * n + 1) + word(2 * n);
}

function flagNames(flags: number): string {
  return Object.entries(Flag)
    .filter(([, bit]) => (flags & bit) !== 0)
    .map(([name]) => name)
    .join(" ");
}

function isSameData(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** @returns a line for each difference; empty if there is none. */
export function differences(c: Case, expected: Result, actual: Outcome): string[] {
  const lines: string[] = [];
  if (actual.outcome !== expected.outcome) lines.push(`outcome: ${describeOutcome(actual)}, expected ${describeOutcome(expected)}`);
  else if (expected.outcome !== NO_FAULT) {
    if (actual.ripOffset !== expected.ripOffset) lines.push(`rip: +${actual.ripOffset}, expected +${expected.ripOffset}`);
    if (actual.errorCode !== expected.errorCode) lines.push(`error code: ${actual.errorCode}, expected ${expected.errorCode}`);
    if (actual.cr2 !== expected.cr2) lines.push(`cr2: ${actual.cr2.toString(16)}, expected ${expected.cr2.toString(16)}`);
  }
  for (let n = 0; n < 16; n++) {
    if (actual.registers[2 * n] === expected.registers[2 * n] && actual.registers[2 * n + 1] === expected.registers[2 * n + 1]) continue;
    lines.push(`${REGISTERS[n]}: ${hex64(actual.registers, n)}, expected ${hex64(expected.registers, n)}`);
  }
  const wrong = (actual.flags ^ expected.flags) & c.flagMask;
  if (wrong !== 0) lines.push(`flags: ${flagNames(actual.flags & c.flagMask)}, expected ${flagNames(expected.flags & c.flagMask)}`);
  const data = dataAfter(c, expected);
  if (!isSameData(data, actual.data)) lines.push(dataDifference(data, actual.data));
  return lines;
}

function describeOutcome(o: Omit<Outcome, "data">): string {
  if (o.outcome === NO_FAULT) return "no fault";
  const address = o.cr2 === 0 ? "" : ` at address ${o.cr2.toString(16)}`;
  return `vector ${o.outcome} (error ${o.errorCode}) at +${o.ripOffset}${address}`;
}

function dataDifference(expected: Uint8Array, actual: Uint8Array): string {
  const first = expected.findIndex((b, i) => b !== actual[i]);
  const count = expected.filter((b, i) => b !== actual[i]).length;
  const bytes = (data: Uint8Array): string => Buffer.from(data.subarray(first, first + 16)).toString("hex");
  return `data: ${count} bytes, from offset 0x${first.toString(16)}: ${bytes(actual)}, expected ${bytes(expected)}`;
}

/** The case as a listing, with the state it starts in. */
export function listing(c: Case): string {
  const decoder = new Decoder(64, c.code, DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Intel);
  decoder.ip = BigInt(CODE_BASE + c.codeOffset);
  const lines: string[] = [`  code at 0x${(CODE_BASE + c.codeOffset).toString(16)}`];
  while (decoder.canDecode) {
    const at = decoder.position;
    const instruction = decoder.decode();
    const bytes = Buffer.from(c.code.subarray(at, at + instruction.length)).toString("hex");
    lines.push(`  +${String(at).padEnd(3)} ${bytes.padEnd(22)} ${formatter.format(instruction)}`);
    instruction.free();
  }
  decoder.free();
  formatter.free();
  startState(c.seed, c.classes, scratch);
  const registers = REGISTERS.map((name, n) => `${name}=${hex64(scratch.registers, n)}`);
  const rows = [0, 4, 8, 12].map((n) => `  ${registers.slice(n, n + 4).join(" ")}`);
  return [...(c.name === "" ? [] : [`  ${c.name}`]), ...lines, ...rows, `  flags ${flagNames(scratch.flags)}`].join("\n");
}
