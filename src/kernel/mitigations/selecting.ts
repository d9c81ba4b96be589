// What the steps of the selection share: what they are given, and the choices as they take shape.
import type { CpuBug } from "./cpu-bugs.ts";
import type { ArchCapability, CpuFeature } from "./cpu-features.ts";
import type { MitigationConfig } from "./mitigation-config.ts";
import type { AttackVectors, Say, SmtMitigations } from "./mitigation-options.ts";
import type { Choice, Choices } from "./selection.ts";

/** Values of `spectre_v2=`. */
export const SPECTRE_V2_COMMANDS = [
  "off",
  "on",
  "auto",
  "retpoline",
  "retpoline,amd",
  "retpoline,lfence",
  "retpoline,generic",
  "eibrs",
  "eibrs,lfence",
  "eibrs,retpoline",
  "ibrs",
] as const;
export type SpectreV2Command = (typeof SPECTRE_V2_COMMANDS)[number];

/** The CPU as the selection sees it. */
export interface CpuFacts {
  has(feature: CpuFeature): boolean;
  hasBug(bug: CpuBug): boolean;
  hasCapability(capability: ArchCapability): boolean;
  readonly isSmtPossible: boolean;
}

export interface SelectionInput {
  readonly cpu: CpuFacts;
  readonly config: MitigationConfig;
  readonly commandLine: string;
  /** Address space isolation is on: no page-table isolation then. */
  readonly isAsi: boolean;
  readonly say: Say;
}

/** A selection while it is made. */
export interface Selecting {
  readonly cpu: CpuFacts;
  readonly config: MitigationConfig;
  readonly commandLine: string;
  readonly vectors: AttackVectors;
  readonly smt: SmtMitigations;
  readonly isOff: boolean;
  readonly say: Say;
  readonly choices: Choices;
  /** Bugs that an option claims. */
  readonly forced: Set<CpuBug>;
  /** Options that ask for SMT to be off. */
  readonly nosmt: Set<string>;
  /** Transactions can be used: the CPU has them and `tsx=` leaves them on. */
  readonly hasRtm: boolean;
  v2Command: SpectreV2Command;
  /** Some bug is mitigated by VERW at the return to user mode (kernel: verw_clear_cpu_buf_mitigation_selected). */
  verw: boolean;
}

/** Kernel: `spectre_v2_in_eibrs_mode()`. */
export function inEibrsMode(mode: Choice<"spectre_v2">): boolean {
  return mode === "EIBRS" || mode === "EIBRS_RETPOLINE" || mode === "EIBRS_LFENCE";
}
