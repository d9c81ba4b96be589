// Host programs as processes of the simulated kernel: what they print and how they end is what a real Linux gives. The same file is run
// natively where the host can (x86-64 Linux); elsewhere the expected text stands here, as a real kernel printed it.
import { deepEqual, equal } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { fail, findCpuModel } from "../hardware/index.ts";
import { type HostRun, runHost } from "./host-run.ts";

const BUILT = fileURLToPath(new URL("../../../programs/built/", import.meta.url));
const isNative = process.platform === "linux" && process.arch === "x64";
/** Far more than any of the programs needs. */
const LIMIT = 2_000_000_000;

interface Ending {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

interface Options {
  readonly argv?: readonly string[];
  readonly env?: readonly string[];
  readonly cpus?: number;
  readonly commandLine?: string;
  readonly root?: ReadonlyMap<string, Uint8Array>;
  readonly check?: boolean;
  readonly memoryBytes?: number;
}

function run(name: string, options: Options = {}): HostRun {
  return runHost({
    program: new Uint8Array(readFileSync(join(BUILT, `${name}.elf`))),
    argv: options.argv ?? [name],
    env: options.env ?? [],
    model: findCpuModel("skx") ?? fail("no such CPU model"),
    preset: "cordon",
    commandLine: options.commandLine ?? "asi=on",
    cpus: options.cpus ?? 1,
    gear: "architectural",
    limit: LIMIT,
    check: options.check ?? false,
    ...(options.root === undefined ? {} : { root: options.root }),
    ...(options.memoryBytes === undefined ? {} : { memoryBytes: options.memoryBytes }),
  });
}

function endingOf({ stdout, stderr, status }: HostRun): Ending {
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  return { stdout: text(stdout), stderr: text(stderr), status };
}

function natively(name: string, argv: readonly string[], env: Readonly<Record<string, string>>): Ending {
  const [argv0, ...rest] = argv;
  // Node would add this variable of its own while coverage is measured.
  const clean = { ...env, NODE_V8_COVERAGE: undefined };
  const result = spawnSync(join(BUILT, `${name}.elf`), rest, { argv0: argv0 ?? name, env: clean, encoding: "utf8" });
  return { stdout: result.stdout, stderr: result.stderr, status: result.status ?? -1 };
}

/** What Linux 6.18 gave. */
const EXPECTED: readonly (readonly [name: string, stdout: string])[] = [
  ["files", "files: ok\n"],
  ["fork", "executed with argument, environment A=b\nfork: ok\n"],
  ["pipes", "pipes: ok\n"],
  ["threads", "threads: ok, 2000\n"],
  ["memory", "memory: ok\n"],
  ["race", "race: ok\n"],
  ["signals", "signals: ok\n"],
  ["badptr", "badptr: ok\n"],
  ["enosys", "enosys: ok\n"],
];

for (const [name, stdout] of EXPECTED) {
  for (const cpus of [1, 3]) {
    test(`${name} does on ${cpus} simulated CPU${cpus === 1 ? "" : "s"} what it does on Linux`, () => {
      deepEqual(endingOf(run(name, { cpus })), { stdout, stderr: "", status: 0 });
    });
  }
  test(`${name} still does that on this machine's own kernel`, { skip: isNative ? false : "not an x86-64 Linux" }, () => {
    deepEqual(natively(name, [name], {}), { stdout, stderr: "", status: 0 });
  });
}

// Not natively: the machines that this was written on load no LDT for a process (LAR of its descriptors fails there). What is checked is the
// SDM's: vol. 3, 3.4.5, 3.5.1 (limits, types), 7.15 (#NP, #GP), and espfix's promise about ESP.
for (const [commandLine, cpus] of [
  ["asi=on", 1],
  ["asi=off pti=on", 1],
  ["asi=on", 3],
] as const) {
  test(`ldt has segments of its own and runs on a 16-bit stack (${commandLine}, ${cpus} CPUs)`, () => {
    const result = run("ldt", { commandLine, cpus, check: true });
    deepEqual(endingOf(result), { stdout: "ldt: ok\n", stderr: "", status: 0 });
    deepEqual(result.violations, []);
  });
}

for (const commandLine of ["asi=on", "asi=off pti=on"]) {
  test(`threads that change memory while another forks keep every property (${commandLine})`, () => {
    const result = run("race", { commandLine, cpus: 3, check: true });
    deepEqual([result.status, result.violations], [0, []]);
  });
}

for (const commandLine of ["asi=on", "asi=off pti=on"]) {
  test(`every return to user mode is judged, from signal handlers and from 32-bit code too (${commandLine})`, () => {
    for (const [name, status] of [
      ["signals", 0],
      ["threads", 0],
      ["hello32", 32],
    ] as const) {
      const result = run(name, { commandLine, check: true });
      deepEqual([name, result.status, result.violations], [name, status, []]);
    }
  });
}

test("arguments, environment, both outputs and the exit status are the program's", () => {
  const expected = {
    stdout: "hello from hello\nargument 1: one\nargument 2: two words\nenvironment: A=b\nenvironment: C=\n",
    stderr: "and this is standard error\n",
    status: 7,
  };
  const argv = ["hello", "one", "two words"];
  deepEqual(endingOf(run("hello", { argv, env: ["A=b", "C="] })), expected);
  if (isNative) deepEqual(natively("hello", argv, { A: "b", C: "" }), expected);
});

test("files of the root are there, with their bytes, and what is missing is ENOENT", () => {
  const content = new Uint8Array(10_000).map((_, i) => 32 + ((i * 7) % 90));
  const root = new Map([
    ["/some/where/file", content],
    ["empty", new Uint8Array(0)],
  ]);
  const there = run("cat", { argv: ["cat", "/some/where/file", "empty", "/some/../some/./where//file"], root });
  deepEqual(there.stdout, Uint8Array.from([...content, ...content]));
  deepEqual(endingOf(run("cat", { argv: ["cat", "/some/where/else"], root })), {
    stdout: "",
    stderr: "/some/where/else: error -2\n",
    status: 1,
  });
});

test("synthetic files say what the kernel says", () => {
  equal(endingOf(run("cat", { argv: ["cat", "/sys/devices/system/cpu/online"], cpus: 3 })).stdout, "0-2\n");
});

test("a process stays within its domain's rules: S1 to S10 hold while it forks, executes and dies", () => {
  const result = run("fork", { check: true });
  deepEqual(result.violations, []);
  equal(result.status, 0);
});

test("a 32-bit program calls by INT 0x80, and a number that i386 does not have is ENOSYS", () => {
  deepEqual(endingOf(run("hello32")), { stdout: "hello from 32-bit code\n", stderr: "", status: 32 });
});

test("64 processes at once fit 256 MiB of memory, on four CPUs", () => {
  const result = run("crowd", { argv: ["crowd", "63"], cpus: 4, memoryBytes: 256 * 2 ** 20 });
  deepEqual(endingOf(result), { stdout: "crowd: ok, 63\n", stderr: "", status: 0 });
});

test("isolation off, and each process with PTI instead", () => {
  for (const commandLine of ["asi=off", "asi=off pti=on"]) equal(run("fork", { commandLine }).status, 0);
});
