// Running one guest to its end, with everything counted: what `cordon run` does.
import type { CpuModel } from "../hardware/index.ts";
import type { Preset } from "../kernel/index.ts";
import type { Gear } from "../machine/index.ts";
import { encodeVmmArguments, type GuestImage, parseElf, VMM_PUPPET } from "../vmm/index.ts";
import type { LedgerReport, LedgerRow } from "./ledger.ts";
import { LineBuffer } from "./line-buffer.ts";
import { HOST_MEMORY_BYTES, Simulation } from "./simulation.ts";

export interface GuestRunOptions {
  readonly image: GuestImage;
  /** Name of the guest for reports. */
  readonly name: string;
  readonly model: CpuModel;
  /** Command line of the host kernel. */
  readonly commandLine: string;
  readonly preset: Preset;
  readonly guestCommandLine: string;
  /** Logical CPUs of the host. */
  readonly cpus: number;
  /** Guest memory in bytes. */
  readonly memoryBytes: number;
  readonly gear: Gear;
  /** Simulated cycles after which a guest that has not ended is stopped. */
  readonly limit: number;
  /** Evaluates the safety properties all the way. */
  readonly check: boolean;
  readonly console: (bytes: Uint8Array) => void;
  readonly log: (line: string) => void;
}

/** What a run was and did; `docs/ledger.schema.json` describes it as a file. */
export interface GuestRun {
  readonly guest: string;
  readonly cpu: string;
  readonly commandLine: string;
  readonly preset: Preset;
  readonly gear: Gear;
  readonly ending: "halt" | "exit" | "triple fault" | "limit" | "error";
  /** The guest's status; 0 when it did not end by itself. */
  readonly status: number;
  /** Why, for "error"; else empty. */
  readonly reason: string;
  readonly cycles: number;
  readonly instructions: number;
  readonly ledger: LedgerReport;
  /** Instructions that the machine does not know: each raised #UD. */
  readonly unimplemented: readonly LedgerRow[];
  /** Violations of the safety properties; null when they were not evaluated. */
  readonly violations: readonly LedgerRow[] | null;
}

/** Reads and checks a guest image; UsageError names what is wrong with it. */
export function parseGuestImage(file: Uint8Array, name: string, memoryBytes: number): GuestImage {
  return parseElf(file, name, memoryBytes);
}

/** The monitor is the only process. */
const VMM_PID = 1;

/** Boots the kernel, starts a monitor with the guest, and runs until the guest ends or the limit is reached. */
export function runGuest(options: GuestRunOptions): GuestRun {
  const line = new LineBuffer(options.console);
  const simulation = new Simulation({
    model: options.model,
    cpus: options.cpus,
    gear: options.gear,
    memoryBytes: HOST_MEMORY_BYTES + options.memoryBytes,
    commandLine: options.commandLine,
    preset: options.preset,
    processes: [
      {
        name: "vmm",
        puppet: VMM_PUPPET,
        args: encodeVmmArguments({ image: options.image, memoryBytes: options.memoryBytes, commandLine: options.guestCommandLine }),
      },
    ],
    check: options.check,
    console: (byte) => line.add(byte),
    log: options.log,
  });
  const result = simulation.runUntilExit([VMM_PID], options.limit);
  line.flush();
  const { machine } = simulation;
  const ending = simulation.endings.get(VMM_PID);
  return {
    guest: options.name,
    cpu: options.model.key,
    commandLine: options.commandLine,
    preset: options.preset,
    gear: options.gear,
    ending: ending?.kind ?? (result.kind === "limit" ? "limit" : "error"),
    status: ending?.status ?? 0,
    reason: ending?.reason ?? (result.kind === "limit" ? "" : stopReason(result.kind)),
    cycles: machine.now,
    instructions: machine.instructions,
    ledger: simulation.ledger.report(),
    unimplemented: machine.unimplemented.map(([what, count]) => ({ what, count })),
    violations: simulation.violations?.map(([what, count]) => ({ what, count })) ?? null,
  };
}

/** Why a run stopped without an end of its own. */
export function stopReason(kind: "exit" | "idle" | "triple-fault"): string {
  switch (kind) {
    case "exit":
      return "the monitor ended without saying why";
    case "idle":
      return "every CPU is halted and nothing is on its way";
    case "triple-fault":
      return "the host CPU shut down: triple fault in the host kernel";
  }
}
