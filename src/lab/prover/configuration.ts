// What the prover explores: how many CPUs, processes and virtual machines, what they may do, what may be injected, and how far.
import type { CpuModel, Feature } from "../../hardware/index.ts";
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

interface Limit {
  readonly min: number;
  readonly max: number;
}

/** What is accepted. Bounds beyond these are impossible on any machine that there is. */
export const LIMITS = {
  processes: { min: 1, max: 4 },
  injectionsPerEvent: { min: 0, max: 4 },
  switches: { min: 0, max: 8 },
  failures: { min: 0, max: 4 },
  depth: { min: 0, max: 1000 },
  searchMegabytes: { min: 16, max: 65536 },
  memoryMegabytes: { min: 40, max: 256 },
  workers: { min: 1, max: 64 },
} as const satisfies Readonly<Record<string, Limit>>;

/** Features that a CPU may be explored without; the kernel cannot do without the others. */
export const REMOVABLE_FEATURES: readonly Feature[] = [
  "PCID",
  "INVPCID",
  "SMEP",
  "SMAP",
  "VMX",
  "IBPB",
  "IBRS",
  "STIBP",
  "SSBD",
  "MD_CLEAR",
  "FLUSH_L1D",
  "RTM",
];

/** The command line of the kernel, the options at its end. */
export function kernelCommandLine({ commandLine, options }: Pick<Configuration, "commandLine" | "options">): string {
  return [commandLine, ...Object.entries(options).map(([name, isOn]) => `cordon.${name}=${isOn ? "on" : "off"}`)].join(" ").trim();
}

/** The same part without some of its features. */
export function withoutFeatures(model: CpuModel, features: readonly Feature[]): CpuModel {
  if (features.length === 0) return model;
  return {
    ...model,
    name: `${model.name} without ${features.join(", ")}`,
    features: model.features.filter((feature) => !features.includes(feature)),
  };
}
