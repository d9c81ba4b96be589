// Runs a program in machine code as a process of the kernel, on the machine that has instructions: an ELF file of one segment in an initial
// RAM disk. For tests of what programs meet: system calls of every kind, signals, faults, under NMIs if wanted.
import { type Assembler, assemble, assembler } from "../src/assembler/index.ts";
import { cpuId, fail, findCpuModel } from "../src/hardware/index.ts";
import { buildKernelImage, type Preset } from "../src/kernel/index.ts";
import { SimulatedMachine } from "../src/machine/index.ts";
import { listener, type Told, type TraceRecord } from "./in-kernel.ts";

const BASE = 0x400000;
const ELF_HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const CODE = BASE + ELF_HEADER_BYTES + PROGRAM_HEADER_BYTES;
const EM_X86_64 = 62;
const RWX = 7;

/** A static ELF file whose only segment is readable, writable and executable. */
export function elfOf(emit: (a: Assembler) => void): Uint8Array {
  const a = assembler();
  emit(a);
  const code = assemble(a.program(), { origin: CODE }).bytes;
  const file = new Uint8Array(CODE - BASE + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, EM_X86_64, true);
  view.setUint32(20, 1, true);
  view.setUint32(24, CODE, true);
  view.setUint32(32, ELF_HEADER_BYTES, true);
  view.setUint16(52, ELF_HEADER_BYTES, true);
  view.setUint16(54, PROGRAM_HEADER_BYTES, true);
  view.setUint16(56, 1, true);
  view.setUint16(58, ELF_HEADER_BYTES, true);
  view.setUint32(64, 1, true);
  view.setUint32(68, RWX, true);
  view.setUint32(80, BASE, true);
  view.setUint32(88, BASE, true);
  view.setUint32(96, file.length, true);
  view.setUint32(104, file.length, true);
  view.setUint32(112, 0x1000, true);
  file.set(code, CODE - BASE);
  return file;
}

/** A static ELF file for i386 whose only segment holds `code`, which begins at CODE32. */
export function elf32Of(code: Uint8Array): Uint8Array {
  const file = new Uint8Array(CODE32 - BASE + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, EM_386, true);
  view.setUint32(20, 1, true);
  view.setUint32(24, CODE32, true);
  view.setUint32(28, ELF32_HEADER_BYTES, true);
  view.setUint16(40, ELF32_HEADER_BYTES, true);
  view.setUint16(42, PROGRAM32_HEADER_BYTES, true);
  view.setUint16(44, 1, true);
  view.setUint32(52, 1, true);
  view.setUint32(60, BASE, true);
  view.setUint32(64, BASE, true);
  view.setUint32(68, file.length, true);
  view.setUint32(72, file.length, true);
  view.setUint32(76, RWX, true);
  view.setUint32(80, 0x1000, true);
  file.set(code, CODE32 - BASE);
  return file;
}

const EM_386 = 3;
const ELF32_HEADER_BYTES = 52;
const PROGRAM32_HEADER_BYTES = 32;
/** Where the code of a 32-bit program lies. */
export const CODE32 = BASE + 0x100;

function cpio(files: readonly (readonly [string, Uint8Array])[]): Uint8Array {
  const bytes: number[] = [];
  const align = (): void => {
    while (bytes.length % 4 !== 0) bytes.push(0);
  };
  const encoder = new TextEncoder();
  for (const [name, content] of [...files, ["TRAILER!!!", new Uint8Array(0)] as const]) {
    const mode = name === "TRAILER!!!" ? 0 : 0o100755;
    const fields = [bytes.length + 1, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
    bytes.push(...encoder.encode(`070701${fields.map((f) => f.toString(16).padStart(8, "0")).join("")}${name}\0`));
    align();
    bytes.push(...content);
    align();
  }
  return Uint8Array.from(bytes);
}

export interface ProgramOptions {
  readonly commandLine?: string;
  readonly preset?: Preset;
  readonly model?: string;
  readonly cpus?: number;
  /** Cycles at which NMIs arrive on CPU 0. */
  readonly nmis?: readonly number[];
  /** Cycles at which machine checks arrive there, and whether what they interrupt can go on. */
  readonly machineChecks?: readonly (readonly [cycle: number, isRestartable: boolean])[];
  readonly cycles?: number;
  readonly gear?: "architectural" | "detailed";
}

/** Boots the kernel, runs the program until everything sleeps, and hands back what was told. */
export function runProgram(program: Uint8Array | ((a: Assembler) => void), options: ProgramOptions = {}): Told {
  const events: TraceRecord[] = [];
  const lines: string[] = [];
  let console = "";
  const machine = new SimulatedMachine({
    model: findCpuModel(options.model ?? "skx") ?? fail("no such CPU model"),
    memoryBytes: 64 * 2 ** 20,
    cpus: options.cpus ?? 1,
    gear: options.gear ?? "architectural",
    image: buildKernelImage({
      preset: options.preset ?? "cordon",
      processes: [{ name: "program", program: "/program" }],
      puppets: new Map(),
    }),
    commandLine: options.commandLine ?? "asi=on",
    observer: listener(events, lines),
    initrd: cpio([["program", program instanceof Uint8Array ? program : elfOf(program)]]),
    console: (byte: number): void => {
      console += String.fromCharCode(byte);
    },
  });
  for (const time of options.nmis ?? []) machine.injectNmi(cpuId(0), time);
  for (const [cycle, isRestartable] of options.machineChecks ?? []) {
    machine.run(cycle);
    machine.injectMachineCheck(cpuId(0), { errorCode: 0x134, address: 0x123000, isRestartable });
  }
  machine.run(options.cycles ?? 20_000_000);
  return { events, lines, console };
}

/** NMIs from `first` on, `count` of them: spaced by more than one takes, and varied, so that they meet different instructions. */
export function nmiStorm(first: number, count: number, spacing = 400): readonly number[] {
  const times: number[] = [];
  let time = first;
  for (let i = 0; i < count; i++) {
    times.push(time);
    time += spacing + ((i * 7919) % 397);
  }
  return times;
}
