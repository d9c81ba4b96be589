// Running a program as a process of the simulated kernel: what `cordon run --host` does.
import type { CpuModel } from "../hardware/index.ts";
import type { Preset, ProcessConfig } from "../kernel/index.ts";
import type { Gear } from "../machine/index.ts";
import { packCpio } from "./cpio.ts";
import type { LedgerReport, LedgerRow } from "./ledger.ts";
import { HOST_MEMORY_BYTES, Simulation } from "./simulation.ts";

export interface HostRunOptions {
  /** The program: a path in `root`, or its bytes, which become /init. */
  readonly program: string | Uint8Array;
  /** The first is the program's name; by default its path alone. */
  readonly argv?: readonly string[];
  readonly env?: readonly string[];
  /** Files of the RAM file system by path. */
  readonly root?: ReadonlyMap<string, Uint8Array>;
  readonly model: CpuModel;
  readonly preset: Preset;
  readonly commandLine: string;
  readonly cpus: number;
  readonly gear: Gear;
  /** Host RAM; HOST_MEMORY_BYTES unless given. */
  readonly memoryBytes?: number;
  /** Simulated cycles after which a program that has not ended is stopped. */
  readonly limit: number;
  /** Evaluates the safety properties all the way. */
  readonly check: boolean;
  /** Standard output as it comes; it is in the result too. */
  readonly stdout?: (bytes: Uint8Array) => void;
  readonly stderr?: (bytes: Uint8Array) => void;
  readonly log?: (line: string) => void;
  /** Processes beside the program. */
  readonly others?: readonly ProcessConfig[];
}

export interface HostRun {
  /** Why it is over: the program ended, the limit, nothing could go on ("idle", "triple-fault"), or the kernel could not execute it. */
  readonly ending: "exit" | "limit" | "idle" | "triple-fault" | "not started";
  /** As a shell says it: the exit status, or 128 and the signal that killed it. 0 when it did not end; the error if it was not started. */
  readonly status: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly cycles: number;
  readonly instructions: number;
  readonly ledger: LedgerReport;
  /** Instructions that the machine does not know: each raised #UD. */
  readonly unimplemented: readonly LedgerRow[];
  readonly violations: readonly LedgerRow[] | null;
}

/** The serial port: what the kernel's console writes standard error to. */
const ERROR_PORT = 0x3f8;
const INIT = "/init";

/** Collects a stream, and hands on whole lines as they come. */
class Stream {
  private readonly all: number[] = [];
  private told = 0;
  private readonly tell: ((bytes: Uint8Array) => void) | undefined;

  constructor(tell: ((bytes: Uint8Array) => void) | undefined) {
    this.tell = tell;
  }

  add(byte: number): void {
    this.all.push(byte);
    if (byte === 0x0a || this.all.length - this.told >= 4096) this.flush();
  }

  flush(): Uint8Array {
    if (this.told < this.all.length) this.tell?.(Uint8Array.from(this.all.slice(this.told)));
    this.told = this.all.length;
    return Uint8Array.from(this.all);
  }
}

/** Boots the kernel with the files, runs the program as process 1 until it ends or the limit is reached. */
export function runHost(options: HostRunOptions): HostRun {
  const root = new Map(options.root ?? []);
  const path = typeof options.program === "string" ? options.program : INIT;
  if (typeof options.program !== "string") root.set(INIT, options.program);
  const out = new Stream(options.stdout);
  const error = new Stream(options.stderr);
  const name = (path.split("/").at(-1) ?? path).slice(0, 15);
  const simulation = new Simulation({
    model: options.model,
    cpus: options.cpus,
    gear: options.gear,
    memoryBytes: options.memoryBytes ?? HOST_MEMORY_BYTES,
    commandLine: options.commandLine,
    preset: options.preset,
    processes: [{ name, program: path, argv: options.argv ?? [path], env: options.env ?? [] }, ...(options.others ?? [])],
    initrd: packCpio(root),
    check: options.check,
    console: (byte, port) => (port === ERROR_PORT ? error : out).add(byte),
    ...(options.log === undefined ? {} : { log: options.log }),
  });
  const result = simulation.runUntilExit([1], options.limit);
  const { machine } = simulation;
  const { notStarted } = simulation;
  return {
    ending: notStarted === undefined ? result.kind : "not started",
    status: notStarted?.error ?? (result.kind === "exit" ? result.status : 0),
    stdout: out.flush(),
    stderr: error.flush(),
    cycles: machine.now,
    instructions: machine.instructions,
    ledger: simulation.ledger.report(),
    unimplemented: machine.unimplemented.map(([what, count]) => ({ what, count })),
    violations: simulation.violations?.map(([what, count]) => ({ what, count })) ?? null,
  };
}
