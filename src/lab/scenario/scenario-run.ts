// Running a scenario: one host with everything that the file names on it, until all of it has ended.
import { assert } from "../../hardware/index.ts";
import type { ProcessConfig } from "../../kernel/index.ts";
import { encodeVmmArguments, type GuestImage, VMM_PUPPET } from "../../vmm/index.ts";
import { type AddressMap, addressMaps, loadedSpaces } from "../address-map.ts";
import { stopReason } from "../guest-run.ts";
import type { LedgerReport, LedgerRow } from "../ledger.ts";
import { LineBuffer } from "../line-buffer.ts";
import { HOST_MEMORY_BYTES, Simulation } from "../simulation.ts";
import type { Scenario } from "./scenario-file.ts";

/** What the files that a scenario names hold: the command reads them. */
export interface ScenarioInputs {
  /** By the name of the guest. */
  readonly images: ReadonlyMap<string, GuestImage>;
}

export interface ScenarioSinks {
  /** A piece of console output of the entry `name`: whole lines where there are lines. */
  readonly console: (name: string, bytes: Uint8Array) => void;
  /** A line of the kernel log. */
  readonly log: (line: string) => void;
}

/** How one program or guest ended. */
export interface ScenarioEnd {
  readonly name: string;
  readonly kind: "program" | "guest";
  /** "exit" and "halt" are ends of its own; "limit" and "stopped" are not. */
  readonly ending: "exit" | "halt" | "triple fault" | "error" | "limit" | "stopped";
  /** Exit status; 0 when it did not end by itself. */
  readonly status: number;
  /** Why, where "error" or "stopped" needs words; else empty. */
  readonly reason: string;
}

export interface ScenarioRun {
  readonly cpu: string;
  readonly cpus: number;
  readonly commandLine: string;
  readonly preset: Scenario["preset"];
  readonly gear: Scenario["gear"];
  readonly ends: readonly ScenarioEnd[];
  readonly cycles: number;
  readonly instructions: number;
  readonly ledger: LedgerReport;
  readonly unimplemented: readonly LedgerRow[];
  readonly violations: readonly LedgerRow[] | null;
}

/** The system while it runs, for a map. */
export interface ScenarioSnapshot {
  readonly cycles: number;
  /** Which tables each CPU has loaded. */
  readonly loaded: readonly string[];
  readonly maps: readonly AddressMap[];
}

function processesOf(scenario: Scenario, inputs: ScenarioInputs): readonly ProcessConfig[] {
  return scenario.guests.map((guest): ProcessConfig => {
    const image = inputs.images.get(guest.name);
    assert(image !== undefined, () => `no image of guest ${guest.name}`);
    return {
      name: guest.name,
      puppet: VMM_PUPPET,
      cpu: guest.cpu,
      args: encodeVmmArguments({ image, memoryBytes: guest.memoryBytes, commandLine: guest.append }),
    };
  });
}

function hostMemory(scenario: Scenario): number {
  return scenario.memoryBytes ?? HOST_MEMORY_BYTES + scenario.guests.reduce((sum, guest) => sum + guest.memoryBytes, 0);
}

/** A scenario on its machine. Made, then run once. */
export class ScenarioHost {
  readonly simulation: Simulation;
  private readonly scenario: Scenario;
  private readonly buffers = new Map<string, LineBuffer>();
  /** Names by pid: processes are started in order, pids from 1. */
  private readonly names: readonly string[];

  constructor(scenario: Scenario, inputs: ScenarioInputs, sinks: ScenarioSinks, watch?: (event: number) => void) {
    const processes = processesOf(scenario, inputs);
    this.scenario = scenario;
    this.names = processes.map((process) => process.name);
    for (const name of this.names) this.buffers.set(name, new LineBuffer((bytes) => sinks.console(name, bytes)));
    this.simulation = new Simulation({
      model: scenario.model,
      cpus: scenario.cpus,
      gear: scenario.gear,
      memoryBytes: hostMemory(scenario),
      commandLine: scenario.commandLine,
      preset: scenario.preset,
      processes,
      check: scenario.check,
      console: (byte) => this.buffers.get(this.names[this.simulation.currentPid - 1] ?? "")?.add(byte),
      log: sinks.log,
      ...(watch === undefined ? {} : { watch }),
    });
  }

  run(): ScenarioRun {
    const { simulation, scenario } = this;
    const pids = this.names.map((_, i) => i + 1);
    const result = simulation.runUntilExit(pids, scenario.limit);
    for (const buffer of this.buffers.values()) buffer.flush();
    const stopped = result.kind === "exit" || result.kind === "limit" ? "" : stopReason(result.kind);
    return {
      cpu: scenario.model.key,
      cpus: scenario.cpus,
      commandLine: scenario.commandLine,
      preset: scenario.preset,
      gear: scenario.gear,
      ends: this.names.map((name, i) => this.endOf(name, pids[i] ?? 0, stopped)),
      cycles: simulation.machine.now,
      instructions: simulation.machine.instructions,
      ledger: simulation.ledger.report(),
      unimplemented: simulation.machine.unimplemented.map(([what, count]) => ({ what, count })),
      violations: simulation.violations?.map(([what, count]) => ({ what, count })) ?? null,
    };
  }

  /** The address spaces as they are now. For observers too. */
  snapshot(): ScenarioSnapshot {
    const { machine } = this.simulation;
    return { cycles: machine.now, loaded: loadedSpaces(machine), maps: addressMaps(machine) };
  }

  private endOf(name: string, pid: number, stopped: string): ScenarioEnd {
    const ending = this.simulation.endings.get(pid);
    if (ending !== undefined) return { name, kind: "guest", ending: ending.kind, status: ending.status, reason: ending.reason };
    const status = this.simulation.exited.get(pid);
    if (status !== undefined) return { name, kind: "program", ending: "exit", status, reason: "" };
    return { name, kind: "guest", ending: stopped === "" ? "limit" : "stopped", status: 0, reason: stopped };
  }
}
