// System calls (getppid) and context switches (two processes that yield to each other; two that pass a byte through pipes) a second,
// architectural gear, and the same programs on the real processor under the host's own kernel, in the same run. Each figure is the median of
// processes of their own with one machine each, so that what one made the host's compiler believe is no burden to the next; CPU time, so that
// other work on the host counts less; the kernel's trace points are counted, and nothing else listens to it. Then the host memory that a kernel with 64 processes and 256 MiB costs.
// Targets: 300,000 calls, 100,000 switches, 400 MiB.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DEFAULT_CPU_MODEL, fail, silentObserver } from "../src/hardware/index.ts";
import { buildKernelImage, PRESETS, TRACE_CONTEXT_SWITCH, TRACE_PROCESS_EXIT, TRACE_SYSCALL } from "../src/kernel/index.ts";
import { packCpio, runHost } from "../src/lab/index.ts";
import { SimulatedMachine } from "../src/machine/index.ts";

const self = fileURLToPath(import.meta.url);
const programs = join(dirname(self), "..", "..", "programs", "built");
const ROUNDS = 3;
const NATIVE_FACTOR = 10;
const HOST_BYTES = 128 * 2 ** 20;

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Events a second of CPU time, of the trace point `event`, without the first quarter of them: until then code is compiled. */
function simulated(program: string, count: number, events: number, commandLine: string, presetName: string): number {
  const path = `/${program}`;
  const event = events > 1 ? TRACE_CONTEXT_SWITCH : TRACE_SYSCALL;
  const warm = Math.floor((count * events) / 4);
  let seen = 0;
  let started = 0;
  let ended = 0;
  let status = -1;
  const machine: SimulatedMachine = new SimulatedMachine({
    model: DEFAULT_CPU_MODEL,
    memoryBytes: HOST_BYTES,
    cpus: 1,
    gear: "architectural",
    image: buildKernelImage({
      preset: PRESETS.find((preset) => preset === presetName) ?? fail(`no preset ${presetName}`),
      processes: [{ name: program, program: path, argv: [program, String(count)] }],
      puppets: new Map(),
    }),
    commandLine,
    initrd: packCpio(new Map([[path, readFileSync(join(programs, `${program}.elf`))]])),
    observer: {
      ...silentObserver,
      trace: (point, pid, code) => {
        if (point === event) {
          seen++;
          if (seen === warm) started = cpuSeconds();
          else if (seen === count * events) ended = cpuSeconds();
        } else if (point === TRACE_PROCESS_EXIT && pid === 1) {
          status = code;
          machine.stop({ kind: "exit", status: code });
        }
      },
    },
  });
  machine.run();
  if (status !== 0 || ended === 0) throw new Error(`${program}: status ${status}, ${seen} events`);
  return (count * events - warm) / (ended - started);
}

/** Seconds on this host, or undefined where it runs no x86-64 Linux programs. */
function native(program: string, count: number): number | undefined {
  const started = performance.now();
  const { status } = spawnSync(join(programs, `${program}.elf`), [String(count)]);
  return status === 0 ? (performance.now() - started) / 1000 : undefined;
}

function figure(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function compare(program: string, count: number, events: number, what: string): void {
  for (const [commandLine, preset] of [
    ["asi=on", "cordon"],
    ["asi=on", "cordon-fast"],
    ["asi=on mitigations=off", "cordon"],
    ["asi=off mitigations=off", "cordon"],
  ] as const) {
    const args = [self, "measure", program, String(count), String(events), commandLine, preset];
    const rates = Array.from({ length: ROUNDS }, () => Number(spawnSync(process.execPath, args, { encoding: "utf8" }).stdout));
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

const [, , mode, program = "", count, events, commandLine = "", preset = ""] = process.argv;
if (mode === "memory") memory();
else if (mode === "measure") console.log(simulated(program, Number(count), Number(events), commandLine, preset));
else {
  compare("getppid", 400_000, 1, "getppid");
  compare("yield", 20_000, 2, "context switches by sched_yield");
  compare("pingpong", 10_000, 2, "context switches by pipes");
  process.stdout.write(spawnSync(process.execPath, [self, "memory"], { encoding: "utf8" }).stdout);
}
