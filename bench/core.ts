// The seven kernels of guests/built/bench.elf on the core, against the same kernels.c compiled by gcc with the same flags and run on
// this machine in the same sitting. `node dist/bench/core.js [--gear detailed] [kernel...]`. Without gcc there is no ratio.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { DEFAULT_CPU_MODEL } from "../src/hardware/index.ts";
import { BareMachine } from "../src/machine/bare.ts";
import { CPU_REGS, CPU_RETIRED } from "../src/machine/core/layout.gen.ts";
import type { CoreGear } from "../src/machine/core.ts";
import { GearedCore } from "../src/machine/geared-core.ts";
import { parseElf } from "../src/vmm/index.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const ELF = join(ROOT, "guests/built/bench.elf");
const PHYSICAL_BYTES = 64 * 1024 * 1024;
const STACK_TOP = PHYSICAL_BYTES - 64;
const RUNS = 3;
const RDI = 7;
/** CODE of guests/Makefile, so that both sides run the same instructions. */
const GUEST_FLAGS =
  "-O2 -std=gnu11 -ffreestanding -mgeneral-regs-only -mno-red-zone -fno-pie -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-builtin -fno-tree-loop-distribute-patterns".split(
    " ",
  );

interface Native {
  readonly name: string;
  readonly n: number;
  readonly checksum: string;
  readonly nanoseconds: number;
}

/** Compiles and runs the native peer; empty without gcc. */
function runNative(): readonly Native[] {
  const directory = mkdtempSync(join(tmpdir(), "cordon-bench-"));
  try {
    const program = join(directory, "native");
    const kernels = join(directory, "kernels.o");
    execFileSync("gcc", [...GUEST_FLAGS, "-c", join(ROOT, "guests/bench/kernels.c"), "-o", kernels]);
    execFileSync("gcc", ["-O2", "-no-pie", "-o", program, join(ROOT, "guests/bench/native.c"), kernels]);
    return execFileSync(program, { encoding: "utf8" }).trim().split("\n").map(parseNative);
  } catch (error) {
    console.error(`no native peer: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`);
    return [];
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function parseNative(line: string): Native {
  const [name = "", n = "0", checksum = "", nanoseconds = "0"] = line.split(" ");
  return { name, n: Number(n), checksum, nanoseconds: Number(nanoseconds) };
}

interface Program {
  readonly machine: BareMachine;
  readonly symbols: ReadonlyMap<string, number>;
}

/** Loads a guest to its own addresses, on the bare core. */
function loadElf(path: string, gear: CoreGear): Program {
  const machine = new BareMachine(new GearedCore(DEFAULT_CPU_MODEL, PHYSICAL_BYTES, 1, gear).core);
  const { segments, symbols } = parseElf(readFileSync(path), path, PHYSICAL_BYTES);
  for (const { address, bytes } of segments) machine.load(address, bytes);
  return { machine, symbols };
}

function benchKernel(program: Program, peer: Native | undefined, name: string): { mips: number; ratio: number } {
  const { machine, symbols } = program;
  const address = symbols.get(`k_${name}`);
  if (address === undefined) throw new Error(`bench.elf has no k_${name}`);
  const n = peer?.n ?? 1;
  let best = Number.POSITIVE_INFINITY;
  let instructions = 0;
  for (let run = 0; run < RUNS; run++) {
    const before = machine.core.fields.word(CPU_RETIRED);
    machine.setRegister(RDI, n);
    const start = performance.now();
    machine.call(address, STACK_TOP);
    best = Math.min(best, performance.now() - start);
    instructions = machine.core.fields.word(CPU_RETIRED) - before;
  }
  const low = machine.core.view.getBigUint64(CPU_REGS, true);
  const checksum = low.toString(16).padStart(16, "0");
  if (peer !== undefined && peer.checksum !== checksum) throw new Error(`${name}: checksum ${checksum}, native ${peer.checksum}`);
  const ratio = peer === undefined ? Number.NaN : (best * 1e6) / peer.nanoseconds;
  return { mips: instructions / best / 1000, ratio };
}

function main(args: readonly string[]): void {
  const gear: CoreGear = args.includes("detailed") ? "detailed" : "architectural";
  const native = runNative();
  const program = loadElf(ELF, gear);
  const wanted = args.filter((arg) => !arg.startsWith("--") && arg !== "detailed");
  const names = [...program.symbols.keys()].filter((symbol) => symbol.startsWith("k_")).map((symbol) => symbol.slice(2));
  const chosen = wanted.length > 0 ? wanted : names;
  let product = 1;
  let mipsProduct = 1;
  for (const name of chosen) {
    const { mips, ratio } = benchKernel(
      program,
      native.find((peer) => peer.name === name),
      name,
    );
    product *= ratio;
    mipsProduct *= mips;
    console.log(`${name.padEnd(10)} ${mips.toFixed(1).padStart(7)} MIPS   1/${ratio.toFixed(1)} of native`);
  }
  const root = 1 / chosen.length;
  console.log(
    `${"geomean".padEnd(10)} ${(mipsProduct ** root).toFixed(1).padStart(7)} MIPS   1/${(product ** root).toFixed(1)} of native  (${gear})`,
  );
}

main(process.argv.slice(2));
