// The command line's mitigation options, parsed as Linux parses them: exact comparison of the whole value unless a list of words is said;
// a wrong value prints one message and leaves the default.
import { commandLineOption } from "../boot/command-line.ts";
import type { MitigationConfig } from "./mitigation-config.ts";

/** Kinds of attack that can be left unmitigated (kernel: enum cpu_attack_vectors). */
export interface AttackVectors {
  readonly userKernel: boolean;
  readonly userUser: boolean;
  readonly guestHost: boolean;
  readonly guestGuest: boolean;
}

/** What mitigations may do about siblings (kernel: smt_mitigations). */
export type SmtMitigations = "off" | "auto" | "on";

export interface GlobalChoice {
  readonly vectors: AttackVectors;
  readonly smt: SmtMitigations;
  /** mitigations=off, in any spelling. */
  readonly isOff: boolean;
  /** mitigations=asi (Cordon's): what address space isolation stands in for is not selected beside it. */
  readonly isAsi: boolean;
}

/** Where messages go. */
export type Say = (text: string) => void;

const GLOBAL_PREFIXES = ["off", "auto,nosmt", "auto", "asi"] as const;

/** `mitigations=` (kernel: `mitigations_parse_cmdline()`). */
export function parseMitigations(commandLine: string, config: MitigationConfig, say: Say): GlobalChoice {
  const all: AttackVectors = { userKernel: true, userUser: true, guestHost: config.KVM, guestGuest: config.KVM };
  const none: AttackVectors = { userKernel: false, userUser: false, guestHost: false, guestGuest: false };
  const byDefault: GlobalChoice = { vectors: all, smt: "auto", isOff: false, isAsi: false };
  const value = commandLineOption(commandLine, "mitigations");
  if (value === undefined) return byDefault;
  const prefix = GLOBAL_PREFIXES.find((known) => value === known || value.startsWith(`${known},`));
  if (prefix === undefined && !value.startsWith(",")) {
    say(`Unsupported mitigations=${value}, system may still be vulnerable`);
    return byDefault;
  }
  if (prefix === "off") return { vectors: none, smt: "off", isOff: true, isAsi: false };
  const rest = value.slice((prefix ?? "").length).replace(/^,/, "");
  const choice: { vectors: AttackVectors; smt: SmtMitigations } = { vectors: all, smt: prefix === "auto,nosmt" ? "on" : "auto" };
  const words = rest === "" ? [] : rest.split(",");
  for (const [i, word] of words.entries()) {
    if (word === "no_user_kernel") choice.vectors = { ...choice.vectors, userKernel: false };
    else if (word === "no_user_user") choice.vectors = { ...choice.vectors, userUser: false };
    else if (word === "no_guest_host") choice.vectors = { ...choice.vectors, guestHost: false };
    else if (word === "no_guest_guest") choice.vectors = { ...choice.vectors, guestGuest: false };
    else if (word === "no_cross_thread") choice.smt = "off";
    else {
      say(`Unsupported mitigations options ${words.slice(i).join(",")}`);
      break;
    }
  }
  return { ...choice, isOff: false, isAsi: prefix === "asi" };
}

/** Value of `name=`, if it is one of `accepted`; else one message (nothing if the kernel says nothing) and undefined. */
export function choiceOf<T extends string>(
  commandLine: string,
  name: string,
  accepted: readonly T[],
  complain: (value: string) => void,
): T | undefined {
  const value = commandLineOption(commandLine, name);
  if (value === undefined) return undefined;
  const found = accepted.find((known) => known === value);
  if (found === undefined) complain(value);
  return found;
}

/** True where the bare word `name` is on the line. */
export function hasWord(commandLine: string, name: string): boolean {
  return commandLineOption(commandLine, name) !== undefined;
}

export interface RetbleedOption {
  readonly command: "off" | "auto" | "unret" | "ibpb" | "stuff";
  readonly isExplicit: boolean;
  readonly nosmt: boolean;
  readonly force: boolean;
}

/** `retbleed=`: words separated by commas. */
export function parseRetbleed(commandLine: string, say: Say): RetbleedOption {
  const value = commandLineOption(commandLine, "retbleed");
  const option: { command: RetbleedOption["command"]; isExplicit: boolean; nosmt: boolean; force: boolean } = {
    command: "auto",
    isExplicit: false,
    nosmt: false,
    force: false,
  };
  for (const word of value === undefined || value === "" ? [] : value.split(",")) {
    switch (word) {
      case "off":
      case "unret":
      case "ibpb":
      case "stuff":
        option.command = word;
        option.isExplicit = true;
        break;
      case "auto":
        option.command = "auto";
        break;
      case "nosmt":
        option.nosmt = true;
        break;
      case "force":
        option.force = true;
        break;
      default:
        say(`RETBleed: Ignoring unknown retbleed option (${word}).`);
    }
  }
  return option;
}
