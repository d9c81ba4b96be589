// Runs a kernel on any of the machines and hands back what it told: for tests that must hold on all of them.
import { fail, findCpuModel, type KernelImage } from "../src/hardware/index.ts";
import { SimulatedMachine } from "../src/machine/index.ts";
import { ResidueMachine } from "../src/residue/index.ts";
import { listener, type Told, type TraceRecord } from "./in-kernel.ts";

export const MACHINES = ["residue", "simulated, architectural", "simulated, detailed"] as const;
export type MachineName = (typeof MACHINES)[number];

export interface RunOptions {
  readonly commandLine?: string;
  readonly cpus?: number;
  readonly model?: string;
  /** Logical CPUs of a core, on the simulated machine. */
  readonly threadsPerCore?: number;
  /** The events so far, for the code that runs in the kernel; filled while it runs. */
  readonly events?: TraceRecord[];
  /** Ends the run; by default it ends when nothing can go on. */
  readonly until?: (events: readonly TraceRecord[]) => boolean;
}

const MEMORY_BYTES = 128 * 2 ** 20;
/** Far more than any of the tests needs. */
const TURNS = 200_000;
const CYCLES = 200_000_000;
const SLICE = 1_000_000;

/** Boots `image` and runs it until `until` holds or everything sleeps. */
export function runKernel(machine: MachineName, image: KernelImage, options: RunOptions = {}): Told {
  const events = options.events ?? [];
  const lines: string[] = [];
  let console = "";
  const common = {
    model: findCpuModel(options.model ?? "skx") ?? fail("no such CPU model"),
    memoryBytes: MEMORY_BYTES,
    cpus: options.cpus ?? 1,
    image,
    commandLine: options.commandLine ?? "",
    observer: listener(events, lines),
    console: (byte: number): void => {
      console += String.fromCharCode(byte);
    },
  };
  const isDone = (): boolean => options.until?.(events) ?? false;
  if (machine === "residue") {
    const residue = new ResidueMachine(common);
    const until = options.until === undefined ? () => residue.cpus.every((cpu) => !cpu.canRun) : isDone;
    residue.run(until, TURNS);
  } else {
    const { threadsPerCore = 1 } = options;
    const simulated = new SimulatedMachine({
      ...common,
      threadsPerCore,
      gear: machine === "simulated, detailed" ? "detailed" : "architectural",
    });
    for (let limit = SLICE; limit <= CYCLES && !isDone(); limit += SLICE) {
      if (simulated.run(limit).kind !== "limit") break;
    }
  }
  return { events, lines, console };
}
