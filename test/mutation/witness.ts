// A witness is a command that passes on the kernel as it is: a test file, or the prover at small bounds. It refutes a mutant by failing,
// and a mutant that makes it take several times as long hangs.
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";

export interface Witness {
  /** A test file below dist/, or the name of a command. */
  readonly name: string;
  /** What node is called with, in the tree of a worker. */
  readonly args: readonly string[];
}

export type Outcome = "passed" | "failed" | "hung" | "stopped";

export interface WitnessRun {
  readonly outcome: Outcome;
  /** Name of the first test that failed, or what was said last. */
  readonly by: string;
  readonly milliseconds: number;
}

/** Witnesses that are no test files, tried last. `cordon check` at small bounds belongs here. */
export const CHECKS: readonly Witness[] = [];

const HEAP_MEGABYTES = 3072;
const KEPT_OUTPUT = 4000;
/** How much slower than its processor time a witness may be before it is given up. */
const BUSY_FACTOR = 5;

export function testWitness(file: string): Witness {
  return { name: file, args: [join("dist", file)] };
}

/** Test files below `dist`, as paths from there. */
export function testFiles(dist: string, folder = ""): readonly string[] {
  return readdirSync(join(dist, folder), { withFileTypes: true })
    .flatMap((entry) => {
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
      return entry.isDirectory() ? testFiles(dist, path) : [path];
    })
    .filter((path) => path.endsWith(".test.js"))
    .sort();
}

/** A copy of what was built, with links to the rest of the checkout: mutants are written there. */
export function makeTree(root: string, tree: string): void {
  rmSync(tree, { recursive: true, force: true });
  mkdirSync(join(tree, "build"), { recursive: true });
  for (const entry of readdirSync(root)) {
    if (entry !== "dist" && entry !== "build" && entry !== ".git") symlinkSync(join(root, entry), join(tree, entry));
  }
  cpSync(join(root, "dist"), join(tree, "dist"), { recursive: true });
}

/**
 * Runs a witness in a tree; it is stopped at its first failure, when it has taken `limit` ms of a processor, which is a hang, and when
 * several times as much has passed, which on a busy machine is none: then it is `stopped`.
 */
export function runWitness(tree: string, witness: Witness, limit: number, environment: NodeJS.ProcessEnv = {}): Promise<WitnessRun> {
  const started = Date.now();
  const flags = [`--max-old-space-size=${HEAP_MEGABYTES}`, "--test-reporter=tap"];
  // A test that runs inside another one's run would report to that.
  const { NODE_TEST_CONTEXT: _outer, ...inherited } = process.env;
  const seconds = Math.ceil(limit / 1000);
  // The shell's limit is of processor time, for each process of the witness.
  const child = spawn("/bin/sh", ["-c", `ulimit -t ${seconds}; exec "$0" "$@"`, process.execPath, ...flags, ...witness.args], {
    cwd: tree,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...inherited, ...environment },
  });
  return new Promise((resolve) => {
    let output = "";
    let result: Omit<WitnessRun, "milliseconds"> | undefined;
    const stop = (reason: Omit<WitnessRun, "milliseconds">): void => {
      result ??= reason;
      killGroup(child.pid);
    };
    const timer = setTimeout(() => stop({ outcome: "stopped", by: "" }), BUSY_FACTOR * limit);
    const onData = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-KEPT_OUTPUT);
      const failed = /^\s*not ok \d+ - (?!.*# (?:TODO|SKIP))(.*)\n/m.exec(output)?.[1];
      if (failed !== undefined) stop({ outcome: "failed", by: failed });
    };
    child.stdout.on("data", onData);
    child.stderr.on("data", onData);
    child.on("error", (error) => stop({ outcome: "failed", by: error.message }));
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      killGroup(child.pid);
      const ended: Omit<WitnessRun, "milliseconds"> =
        code === 0
          ? { outcome: "passed", by: "" }
          : signal === "SIGXCPU" || signal === "SIGKILL"
            ? { outcome: "hung", by: `no end within ${seconds} s` }
            : { outcome: "failed", by: lastLine(output) };
      resolve({ ...(result ?? ended), milliseconds: Date.now() - started });
    });
  });
}

/** The process and what it has started; that they are gone already is no error. */
function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    return;
  }
}

function lastLine(output: string): string {
  const said = output.split("\n").filter((line) => /Error|error/.test(line));
  return (said[0] ?? output.trim().split("\n").at(-1) ?? "").trim().slice(0, 200);
}
