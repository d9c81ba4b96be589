// The prover beside a checker of models, in one run: executions of the kernel's own code a second by the abstract machine, and states a second
// of a small Promela model of the same subject (bench/spin/asi.pml) by Spin, with the memory that each keeps for a state. Spin checks a
// model and we check the program, so the ratio says what running the program costs. Where Spin or a C compiler is missing only our
// half is measured, and the output says so. `node dist/bench/prover-spin.js [configuration [seconds]]`
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { EventExplorer } from "../src/lab/prover/event-explorer.ts";
import { Expander } from "../src/lab/prover/expander.ts";
import { namedConfiguration, System } from "../src/lab/prover/index.ts";
import { Search } from "../src/lab/prover/search.ts";

const MODEL = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "bench", "spin", "asi.pml");
const DEFAULT_CONFIGURATION = "small-kvm";
const DEFAULT_SECONDS = 20;
const MICROSECONDS = 1e6;
/** Limits of pan: of a run in ms, of its stack in steps, of its memory in MiB. */
const PAN_TIMEOUT = 240_000;
const PAN_DEPTH = 10_000_000;
const PAN_MEGABYTES = 2048;

function figure(value: number, digits = 0): string {
  return value.toLocaleString("en-US", { maximumFractionDigits: digits });
}

/** User and system time of this process in seconds: other work on the host counts less. */
function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / MICROSECONDS;
}

async function prover(name: string, seconds: number): Promise<void> {
  const configuration = namedConfiguration(name);
  const system = new System(configuration);
  const explorer = new EventExplorer(system, configuration);
  const expander = new Expander(explorer);
  const search = new Search(
    { width: 1, expand: (paths) => Promise.resolve(expander.expand(paths)) },
    { depth: 0, bytes: configuration.searchMegabytes * 2 ** 20, findsAll: true },
    { low: explorer.stateLow, high: explorer.stateHigh },
  );
  const started = cpuSeconds();
  const result = await search.run({ progress: () => cpuSeconds() - started > seconds });
  const time = cpuSeconds() - started;
  const bytes = (result.bytes + expander.bytes) / result.states;
  console.log(
    `cordon, ${name}: ${figure(result.executions / time)} executions of kernel code a second, ${figure(result.states)} states ` +
      `(${figure(result.states / time)} a second, ${figure(bytes)} bytes each) in ${figure(time, 1)} s of one core, ` +
      `${result.end === "closed" ? "the whole space" : `not the whole space (${result.end})`}`,
  );
}

/** @returns what the command printed, or undefined after having said why not. */
function output(command: string, args: readonly string[], folder: string): string | undefined {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: folder, encoding: "utf8", timeout: PAN_TIMEOUT });
  if (status === 0) return stdout;
  console.log(`spin: ${command} did not work: ${error?.message ?? `status ${status}`} ${`${stdout}${stderr}`.trim()}`);
  return undefined;
}

/** The number before or in `pattern` of pan's report. */
function reported(report: string, pattern: RegExp): number {
  return Number(pattern.exec(report)?.[1] ?? Number.NaN);
}

function spin(): void {
  for (const [command, flag] of [
    ["spin", "-V"],
    ["cc", "--version"],
  ] as const) {
    if (spawnSync(command, [flag]).error === undefined) continue;
    console.log(`spin: not measured, for ${command} is not installed here`);
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), "cordon-spin-"));
  try {
    if (output("spin", ["-a", MODEL], folder) === undefined) return;
    const flags = ["-O2", "-DSAFETY", `-DMEMLIM=${PAN_MEGABYTES}`, "-o", "pan", "pan.c"];
    if (output("cc", flags, folder) === undefined) return;
    const report = output("./pan", [`-m${PAN_DEPTH}`], folder);
    if (report === undefined) return;
    const states = reported(report, /([\d.e+]+) states, stored/);
    const transitions = reported(report, /([\d.e+]+) transitions/);
    const seconds = reported(report, /elapsed time ([\d.e+]+) seconds/);
    const vector = reported(report, /State-vector (\d+) byte/);
    const megabytes = reported(report, /([\d.]+)\s+total actual memory usage/);
    const errors = reported(report, /errors: (\d+)/);
    console.log(
      `spin, asi.pml: ${figure(transitions / seconds)} transitions a second, ${figure(states)} states (${figure(states / seconds)} a second, ` +
        `${figure((megabytes * 2 ** 20) / states)} bytes each, of them ${vector} of state vector) in ${figure(seconds, 1)} s, errors: ${errors}, ` +
        (/Search not completed/.test(report) ? "not the whole space" : "the whole space"),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const [, , name = DEFAULT_CONFIGURATION, seconds] = process.argv;
await prover(name, Number(seconds ?? DEFAULT_SECONDS));
spin();
