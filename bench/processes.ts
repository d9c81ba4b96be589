// System calls (getppid) and context switches (two processes and two pipes) a second, architectural gear, ASI on, and the same programs on
// the real processor under the host's own kernel, in the same run. CPU time of this process, so that other work on the host counts less.
// Then the host memory that a kernel with 64 processes and 256 MiB costs. Targets: 300,000 calls, 100,000 switches, 400 MiB.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DEFAULT_CPU_MODEL } from "../src/hardware/index.ts";
import { type Preset, runHost } from "../src/lab/index.ts";

const self = fileURLToPath(import.meta.url);
const programs = join(dirname(self), "..", "..", "programs", "built");
const ROUNDS = 3;
const NATIVE_FACTOR = 10;

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

function simulated(program: string, count: number, commandLine: string, preset: Preset): number {
  const started = cpuSeconds();
  const result = runHost({
    program: readFileSync(join(programs, `${program}.elf`)),
    argv: [program, String(count)],
    model: DEFAULT_CPU_MODEL,
    preset,
    commandLine,
    cpus: 1,
    gear: "architectural",
    limit: Number.MAX_SAFE_INTEGER,
    check: false,
  });
  if (result.ending !== "exit" || result.status !== 0) throw new Error(`${program}: ${result.ending}, status ${result.status}`);
  return cpuSeconds() - started;
}

/** Seconds on this host, or undefined where it runs no x86-64 Linux programs. */
function native(program: string, count: number): number | undefined {
  const started = performance.now();
  const { status } = spawnSync(join(programs, `${program}.elf`), [String(count)]);
  return status === 0 ? (performance.now() - started) / 1000 : undefined;
}

function perSecond(seconds: (count: number) => number, count: number): number {
  // The boot, and what is compiled meanwhile, is in both.
  const short = count / 10;
  return (count - short) / (seconds(count) - seconds(short));
}

function figure(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function compare(program: string, count: number, events: number, what: string): void {
  for (const [commandLine, preset] of [
    ["asi=on", "cordon"],
    ["asi=on", "cordon-fast"],
    ["asi=off", "cordon"],
  ] as const) {
    const rates = Array.from({ length: ROUNDS }, () => perSecond((n) => simulated(program, n, commandLine, preset), count) * events);
    const rate = rates.sort((a, b) => a - b)[Math.floor(ROUNDS / 2)] ?? 0;
    const real = native(program, count * NATIVE_FACTOR);
    const base = native(program, 1);
    const ratio =
      real === undefined || base === undefined
        ? ""
        : `, 1/${((count * NATIVE_FACTOR * events) / (real - base) / rate).toFixed(1)} of native`;
    console.log(`${what}, ${commandLine}, ${preset}: ${figure(rate)} a second${ratio}`);
  }
}

/** In a process of its own: its peak resident memory is what is asked for. */
function memory(): void {
  const spin = readFileSync(join(programs, "yield.elf"));
  runHost({
    program: spin,
    argv: ["yield", "1000"],
    root: new Map([["/yield", spin]]),
    others: Array.from({ length: 63 }, (_, i) => ({ name: `yield${i}`, program: "/yield", argv: ["yield", "1000"] })),
    model: DEFAULT_CPU_MODEL,
    preset: "cordon",
    commandLine: "asi=on",
    cpus: 1,
    gear: "architectural",
    memoryBytes: 256 * 2 ** 20,
    limit: 200_000_000,
    check: false,
  });
  console.log(`64 processes, 256 MiB: ${figure(process.resourceUsage().maxRSS / 1024)} MiB of host memory at most`);
}

if (process.argv[2] === "memory") memory();
else {
  compare("getppid", 600_000, 1, "getppid");
  compare("pingpong", 60_000, 2, "context switches");
  process.stdout.write(spawnSync(process.execPath, [self, "memory"], { encoding: "utf8" }).stdout);
}
