// Running a scenario: one host with everything that the file names on it, until all of it has ended.
import { assert, UsageError } from "../../hardware/index.ts";
import type { ProcessConfig } from "../../kernel/index.ts";
import { encodeVmmArguments, type GuestImage, VMM_PUPPET } from "../../vmm/index.ts";
import { type AddressMap, addressMaps, loadedSpaces } from "../address-map.ts";
import { packCpio } from "../cpio.ts";
import { stopReason } from "../guest-run.ts";
import type { LedgerReport, LedgerRow } from "../ledger.ts";
import { LineBuffer } from "../line-buffer.ts";
import { HOST_MEMORY_BYTES, Simulation } from "../simulation.ts";
import type { Scenario, ScenarioProgram } from "./scenario-file.ts";

/** What the files that a scenario names hold: the command reads them. */
export interface ScenarioInputs {
  /** By the name of the guest. */
  readonly images: ReadonlyMap<string, GuestImage>;
  /** Programs that are host files, by the name of their entry. */
  readonly programs: ReadonlyMap<string, Uint8Array>;
  /** The RAM file system's files by path. */
  readonly root: ReadonlyMap<string, Uint8Array>;
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

/** Where a program that is a host file lies in the RAM file system. */
function programPath(program: ScenarioProgram): string {
  return program.path ?? `/scenario/${program.name}`;
}

/** Programs first, then guests: each in the order of the file. */
function processesOf(scenario: Scenario, inputs: ScenarioInputs): readonly ProcessConfig[] {
  const programs = scenario.programs.map(
    (program): ProcessConfig => ({
      name: program.name,
      program: programPath(program),
      argv: [program.path ?? program.name, ...program.args],
      env: Object.entries(program.env).map(([name, value]) => `${name}=${value}`),
      ...(program.cpu === undefined ? {} : { cpu: program.cpu }),
    }),
  );
  const guests = scenario.guests.map((guest): ProcessConfig => {
    const image = inputs.images.get(guest.name);
    assert(image !== undefined, () => `no image of guest ${guest.name}`);
    return {
      name: guest.name,
      puppet: VMM_PUPPET,
      cpu: guest.cpu,
      args: encodeVmmArguments({ image, memoryBytes: guest.memoryBytes, commandLine: guest.append }),
    };
  });
  return [...programs, ...guests];
}

function rootOf(scenario: Scenario, inputs: ScenarioInputs): ReadonlyMap<string, Uint8Array> {
  const root = new Map(inputs.root);
  for (const program of scenario.programs) {
    const bytes = inputs.programs.get(program.name);
    if (bytes !== undefined) root.set(programPath(program), bytes);
  }
  return root;
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
      initrd: packCpio(rootOf(scenario, inputs)),
      check: scenario.check,
      console: (byte) => this.buffers.get(this.names[this.simulation.currentFamily - 1] ?? "")?.add(byte),
      log: sinks.log,
      ...(watch === undefined ? {} : { watch }),
    });
  }

  /** UsageError where the kernel could not execute a program. */
  run(): ScenarioRun {
    const { simulation, scenario } = this;
    const pids = this.names.map((_, i) => i + 1);
    const result = simulation.runUntilExit(pids, scenario.limit);
    for (const buffer of this.buffers.values()) buffer.flush();
    const { notStarted } = simulation;
    if (notStarted !== undefined)
      throw new UsageError(
        `${notStarted.name}: the kernel cannot execute it (error ${notStarted.error}); a static ELF program for x86 is accepted`,
      );
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
    const kind = this.scenario.programs.some((program) => program.name === name) ? "program" : "guest";
    return { name, kind, ending: stopped === "" ? "limit" : "stopped", status: 0, reason: stopped };
  }
}
