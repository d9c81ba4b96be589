// `cordon run --host`: a program as a process of the simulated kernel. Standard output, standard error and exit status are the program's;
// the ledger goes where `--ledger` says, and as text to standard error with `--details`.
import { basename } from "node:path";
import type { CpuModel } from "../hardware/index.ts";
import { UsageError } from "../hardware/index.ts";
import { type Preset, runHost } from "../lab/index.ts";
import { checkWritable, readBytes, writeJson } from "./files.ts";
import { ledgerText } from "./ledger-text.ts";
import { readRoot } from "./root-files.ts";

const STATUS_STOPPED = 3;

export interface HostArguments {
  readonly file: string;
  readonly args: readonly string[];
  readonly root: string | undefined;
  readonly model: CpuModel;
  readonly preset: Preset;
  readonly commandLine: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly gear: "architectural" | "detailed";
  readonly limit: number;
  readonly check: boolean;
  readonly ledgerFile: string | undefined;
  readonly details: boolean;
}

/** @returns the program's status; 1 when --check found a violation; 3 when it was stopped. */
export function runHostProgram(options: HostArguments): number {
  const program = readBytes(options.file);
  const root = options.root === undefined ? new Map<string, Uint8Array>() : readRoot(options.root);
  if (options.ledgerFile !== undefined) checkWritable(options.ledgerFile);
  const result = runHost({
    program,
    argv: [basename(options.file), ...options.args],
    root,
    model: options.model,
    preset: options.preset,
    commandLine: options.commandLine,
    cpus: options.cpus,
    memoryBytes: options.memoryBytes,
    gear: options.gear,
    limit: options.limit,
    check: options.check,
    stdout: (bytes) => {
      process.stdout.write(bytes);
    },
    stderr: (bytes) => {
      process.stderr.write(bytes);
    },
    ...(options.details ? { log: (line: string) => void process.stderr.write(`kernel: ${line}\n`) } : {}),
  });
  if (result.ending === "not started")
    throw new UsageError(
      `${options.file}: the kernel cannot execute it (error ${result.status}); a static ELF program for x86 is accepted`,
    );
  if (options.details) process.stderr.write(`${ledgerText(result)}`);
  if (options.ledgerFile !== undefined) {
    const { stdout: _out, stderr: _err, ...rest } = result;
    writeJson(options.ledgerFile, { program: basename(options.file), cpu: options.model.key, commandLine: options.commandLine, ...rest });
  }
  if (result.violations !== null && result.violations.length > 0) {
    if (!options.details) process.stderr.write(ledgerText(result));
    return 1;
  }
  if (result.ending === "exit") return result.status;
  process.stderr.write(`cordon: ${options.file} was stopped: ${result.ending}\n`);
  return STATUS_STOPPED;
}
