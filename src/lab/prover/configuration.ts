// What the prover explores: how many CPUs, processes and virtual machines, what they may do, what may be injected, and how far.
import type { CpuModel } from "../../hardware/index.ts";
import type { Preset } from "../../kernel/index.ts";
import type { PropertyName } from "../properties/index.ts";
import type { InjectionKind } from "./injection.ts";

export interface Configuration {
  readonly name: string;
  readonly model: CpuModel;
  readonly preset: Preset;
  /** Of the kernel; what `options` say comes behind it. */
  readonly commandLine: string;
  /** `cordon.NAME=on|off`, by name. */
  readonly options: Readonly<Record<string, boolean>>;
  readonly cpus: number;
  /** Process i begins on CPU i modulo `cpus`. */
  readonly processes: number;
  /** VMs of each process, and vCPUs of each VM. */
  readonly vms: number;
  readonly vcpus: number;
  /** Names in OPERATIONS. */
  readonly operations: readonly string[];
  readonly injections: readonly InjectionKind[];
  /** Most injections of one event: how deep they nest. */
  readonly injectionsPerEvent: number;
  /** Most times that paths are suspended for other CPUs, and allocations that fail, on the way from the beginning. */
  readonly switches: number;
  readonly failures: number;
  /** Longest sequence of events; 0: the whole space. */
  readonly depth: number;
  /** Memory of the search, in MiB. */
  readonly searchMegabytes: number;
  readonly workers: number;
  /** Memory of the host, in MiB. */
  readonly memoryMegabytes: number;
  readonly properties: readonly PropertyName[];
}

/** The command line of the kernel, the options at its end. */
export function kernelCommandLine({ commandLine, options }: Pick<Configuration, "commandLine" | "options">): string {
  return [commandLine, ...Object.entries(options).map(([name, isOn]) => `cordon.${name}=${isOn ? "on" : "off"}`)].join(" ").trim();
}
