// The same reports without a running kernel: what this kernel would say on a CPU model with a command line, what Linux would say there
// with everything built in, and what isolation stands in for. For the command.
import { type CpuModel, fail } from "../../hardware/index.ts";
import { ASI_OPTIONS, type Preset } from "../asi/asi-options.ts";
import { coreSchedRefused } from "../asi/siblings.ts";
import { commandLineOption } from "../boot/command-line.ts";
import { deriveBugs } from "./cpu-bugs.ts";
import { CORDON_CONFIG, EVERYTHING_BUILT, type MitigationConfig } from "./mitigation-config.ts";
import { asiReplacements, type Replacement } from "./replacements.ts";
import { selectMitigations } from "./select-mitigations.ts";
import type { CpuFacts } from "./selecting.ts";
import {
  type Reported,
  VMENTER_L1D_FLUSH_ALWAYS,
  VMENTER_L1D_FLUSH_COND,
  VMENTER_L1D_FLUSH_NEVER,
  VMENTER_L1D_FLUSH_NOT_REQUIRED,
  VULNERABILITY_FILES,
  type VulnerabilityFile,
  vulnerabilityText,
} from "./vulnerabilities.ts";

export interface MitigationReport {
  /** What each file of /sys/devices/system/cpu/vulnerabilities says here, and what Linux's says with everything built in. */
  readonly files: readonly { readonly file: VulnerabilityFile; readonly text: string; readonly linux: string }[];
  /** What isolation stands in for; empty with `asi=off`. */
  readonly asi: readonly Replacement[];
  /** What the options' parsing had to say. */
  readonly messages: readonly string[];
}

export interface ReportOptions {
  readonly model: CpuModel;
  readonly commandLine: string;
  readonly preset: Preset;
  /** A core has two threads online. */
  readonly isSmt: boolean;
}

function factsOf(model: CpuModel, isSmtPossible: boolean): CpuFacts {
  const features: ReadonlySet<string> = new Set(model.features);
  const capabilities: ReadonlySet<string> = new Set(features.has("ARCH_CAPABILITIES") ? model.archCapabilities : []);
  const has = (name: string): boolean => features.has(name);
  const hasCapability = (name: string): boolean => capabilities.has(name);
  const bugs = deriveBugs({ family: model.family, model: model.model, stepping: model.stepping, has, hasCapability });
  return { has, hasCapability, hasBug: (bug) => bugs.has(bug), isSmtPossible };
}

function reported(options: ReportOptions, config: MitigationConfig, isAsi: boolean, say: (text: string) => void): Reported {
  const { model, commandLine, isSmt } = options;
  const cpu = factsOf(model, isSmt);
  const selection = selectMitigations({ cpu, config, commandLine, isAsi, say });
  const isNeeded = cpu.hasBug("L1TF") && !cpu.hasCapability("SKIP_L1DFL_VMENTRY");
  const parameter = commandLineOption(commandLine, "kvm-intel.vmentry_l1d_flush");
  const { l1tf } = selection.choices;
  let vmxL1dFlush = VMENTER_L1D_FLUSH_COND;
  if (!isNeeded) vmxL1dFlush = VMENTER_L1D_FLUSH_NOT_REQUIRED;
  else if (l1tf === "FULL_FORCE" || parameter === "always") vmxL1dFlush = VMENTER_L1D_FLUSH_ALWAYS;
  else if (parameter === "never") vmxL1dFlush = VMENTER_L1D_FLUSH_NEVER;
  else if (parameter !== "cond" && l1tf === "FULL") vmxL1dFlush = VMENTER_L1D_FLUSH_ALWAYS;
  else if (parameter !== "cond" && l1tf === "OFF") vmxL1dFlush = VMENTER_L1D_FLUSH_NEVER;
  const isSmtActive = isSmt && !selection.features.has("SMT_DISABLED");
  return { cpu, selection, state: { isSmtActive, vmxL1dFlush, hasVmx: cpu.has("VMX"), isKvmLoaded: true, splitsHugePages: true } };
}

function optionIsOn(name: string, { commandLine, preset }: ReportOptions): boolean {
  const option = ASI_OPTIONS.find((known) => known.name === name) ?? fail(`no option ${name}`);
  const value = commandLineOption(commandLine, `cordon.${name}`);
  return value === "on" || (value !== "off" && option.isOnByDefault[preset]);
}

/** What a kernel of this build says on `model` with `commandLine`. */
export function mitigationReport(options: ReportOptions): MitigationReport {
  const messages: string[] = [];
  const isAsi = commandLineOption(options.commandLine, "asi") === "on";
  const here = reported(options, CORDON_CONFIG, isAsi, (text) => messages.push(text));
  const hasUserspace = commandLineOption(options.commandLine, "asi_userspace") !== "off";
  const wantsApart = optionIsOn("core_sched", options) && here.cpu.isSmtPossible;
  const refused = wantsApart ? coreSchedRefused(isAsi && hasUserspace, optionIsOn("ephmap", options), here.cpu.has("STIBP")) : undefined;
  if (refused !== undefined) messages.unshift(`cordon.core_sched=on is not available: ${refused}`);
  const linux = reported(options, EVERYTHING_BUILT, false, () => undefined);
  return {
    files: VULNERABILITY_FILES.map((file) => ({ file, text: vulnerabilityText(file, here), linux: vulnerabilityText(file, linux) })),
    asi: asiReplacements(here, {
      isOn: isAsi,
      hasKvm: here.cpu.has("VMX"),
      hasUserspace,
      flushTaints: optionIsOn("flush_taints", options),
      siblingsApart: wantsApart && refused === undefined,
    }),
    messages,
  };
}
