// What a selection is: one choice per bug, and the features that follow from all of them. Stored in static keys, so that asking costs
// nothing and a replay reads what the first run read.
import { type StaticKey, staticKey } from "../static-key.ts";

/** The choices for each bug, by the kernel's names (kernel: enum spectre_v2_mitigation and its kin). The first is "nothing". */
export const MITIGATIONS = {
  spectre_v1: ["NONE", "AUTO"],
  spectre_v2: ["NONE", "RETPOLINE", "LFENCE", "EIBRS", "EIBRS_RETPOLINE", "EIBRS_LFENCE", "IBRS"],
  spectre_v2_user_ibpb: ["NONE", "PRCTL", "SECCOMP", "STRICT"],
  spectre_v2_user_stibp: ["NONE", "PRCTL", "SECCOMP", "STRICT", "STRICT_PREFERRED"],
  bhi: ["OFF", "ON", "VMEXIT_ONLY"],
  retbleed: ["NONE", "UNRET", "IBPB", "IBRS", "EIBRS", "STUFF"],
  its: ["OFF", "ALIGNED_THUNKS", "VMEXIT_ONLY", "RETPOLINE_STUFF"],
  ssb: ["NONE", "DISABLE", "PRCTL", "SECCOMP"],
  l1tf: ["OFF", "FLUSH_NOWARN", "FLUSH", "FLUSH_NOSMT", "FULL", "FULL_FORCE"],
  mds: ["OFF", "FULL", "VMWERV"],
  taa: ["OFF", "UCODE_NEEDED", "VERW", "TSX_DISABLED"],
  mmio: ["OFF", "UCODE_NEEDED", "VERW"],
  rfds: ["OFF", "UCODE_NEEDED", "VERW"],
  srbds: ["OFF", "UCODE_NEEDED", "FULL", "TSX_OFF"],
  gds: ["OFF", "UCODE_NEEDED", "FORCE", "FULL"],
  vmscape: ["NONE", "IBPB_EXIT_TO_USER", "IBPB_ON_VMEXIT"],
  pti: ["OFF", "ON"],
} as const;
export type MitigationName = keyof typeof MITIGATIONS;
export type Choice<N extends MitigationName> = (typeof MITIGATIONS)[N][number];
export const MITIGATION_NAMES = Object.keys(MITIGATIONS) as readonly MitigationName[]; // the keys of the table above

/** What the selection turns on (kernel: X86_FEATURE_*, static keys of bugs.c). */
export const SELECTED_FEATURES = [
  "KERNEL_IBRS",
  "SPEC_CTRL_IBRS_ALWAYS",
  "RSB_CTXSW",
  "RSB_VMEXIT",
  "RSB_VMEXIT_LITE",
  "USE_IBRS_FW",
  "CLEAR_BHB_LOOP",
  "CLEAR_BHB_VMEXIT",
  "CLEAR_BHB_HW",
  "RRSBA_DIS_S",
  "CLEAR_CPU_BUF",
  "CLEAR_CPU_BUF_VM_MMIO",
  "CPU_BUF_IDLE_CLEAR",
  "FENCE_SWAPGS_USER",
  "FENCE_SWAPGS_KERNEL",
  "SWITCH_MM_COND_IBPB",
  "SWITCH_MM_ALWAYS_IBPB",
  "SWITCH_VCPU_IBPB",
  "IBPB_EXIT_TO_USER",
  "TSX_DISABLED",
  "SMT_DISABLED",
  "SMT_FORCE_DISABLED",
] as const;
export type SelectedFeature = (typeof SELECTED_FEATURES)[number];

export type Choices = { -readonly [N in MitigationName]: Choice<N> };

export interface Selection {
  readonly choices: Readonly<Choices>;
  readonly features: ReadonlySet<SelectedFeature>;
}

const chosen: ReadonlyMap<MitigationName, StaticKey> = new Map(MITIGATION_NAMES.map((name) => [name, staticKey(`${name}_mitigation`)]));
const selected: ReadonlyMap<SelectedFeature, StaticKey> = new Map(SELECTED_FEATURES.map((name) => [name, staticKey(`selected_${name}`)]));

/** The choice in force for `name`. Patched at boot. */
export function mitigation<N extends MitigationName>(name: N): Choice<N> {
  const values: readonly Choice<N>[] = MITIGATIONS[name];
  return values[chosen.get(name)?.value() ?? 0] ?? MITIGATIONS[name][0];
}

/** The feature was selected at boot. */
export function isSelected(feature: SelectedFeature): boolean {
  return selected.get(feature)?.isEnabled() ?? false;
}

/** Keeps a selection. Boot CPU. */
export function keepSelection(selection: Selection): void {
  for (const name of MITIGATION_NAMES) {
    const values: readonly string[] = MITIGATIONS[name];
    chosen.get(name)?.set(values.indexOf(selection.choices[name]));
  }
  for (const feature of SELECTED_FEATURES) selected.get(feature)?.set(selection.features.has(feature) ? 1 : 0);
}

/** The kept selection, for reports. */
export function keptSelection(): Selection {
  const choices = Object.fromEntries(MITIGATION_NAMES.map((name) => [name, mitigation(name)])) as Choices; // a choice for each name
  return { choices, features: new Set(SELECTED_FEATURES.filter(isSelected)) };
}
