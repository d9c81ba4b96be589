// Selection for the bugs that let data be sampled, and for speculative store bypass, as the select and update steps of the kernel's
// bugs.c decide (v6.18). VERW serves four bugs at once: if one of them needs it, all are mitigated by it.
import { choiceOf, hasWord } from "./mitigation-options.ts";
import type { Selecting } from "./selecting.ts";

const VERW_VALUES = ["off", "full", "full,nosmt"] as const;
type VerwValue = (typeof VERW_VALUES)[number];

function anyVector(s: Selecting): boolean {
  const { userKernel, userUser, guestHost, guestGuest } = s.vectors;
  return userKernel || userUser || guestHost || guestGuest;
}

/** Kernel: `taa_vulnerable()`: transactions can be used. */
function taaVulnerable(s: Selecting): boolean {
  return s.cpu.hasBug("TAA") && s.hasRtm;
}

function verwOption(s: Selecting, name: string): VerwValue | undefined {
  return choiceOf(s.commandLine, name, VERW_VALUES, () => undefined);
}

/** Kernel: `ssb_select_mitigation()`. */
export function selectSsb(s: Selecting): void {
  const { choices, cpu, config, say } = s;
  choices.ssb = "NONE";
  const parsed = choiceOf(s.commandLine, "spec_store_bypass_disable", ["auto", "on", "off", "prctl", "seccomp"], (wrong) =>
    say(`Speculative Store Bypass: unknown option (${wrong}). Switching to default`),
  );
  const isOff = hasWord(s.commandLine, "nospec_store_bypass_disable") || parsed === "off" || !config.SSB;
  if (!cpu.hasBug("SPEC_STORE_BYPASS") || !cpu.has("SSBD") || isOff) return;
  if (parsed === "on") choices.ssb = "DISABLE";
  else if (parsed === "seccomp") choices.ssb = config.SECCOMP ? "SECCOMP" : "PRCTL";
  else if (parsed === "prctl" || s.vectors.userUser) choices.ssb = "PRCTL";
}

const L1TF_CHOICES = {
  off: "OFF",
  "flush,nowarn": "FLUSH_NOWARN",
  flush: "FLUSH",
  "flush,nosmt": "FLUSH_NOSMT",
  full: "FULL",
  "full,force": "FULL_FORCE",
} as const;
export const L1TF_VALUES = Object.keys(L1TF_CHOICES) as readonly (keyof typeof L1TF_CHOICES)[]; // the keys of the table above

/** Kernel: `l1tf_select_mitigation()`. */
export function selectL1tf(s: Selecting): void {
  const { choices, say } = s;
  choices.l1tf = "OFF";
  if (!s.cpu.hasBug("L1TF") || !s.config.L1TF) return;
  const value = choiceOf(s.commandLine, "l1tf", L1TF_VALUES, (wrong) =>
    say(`Ignoring unknown l1tf=${wrong} argument: expected ${L1TF_VALUES.join(", ")}`),
  );
  if (value !== undefined) choices.l1tf = L1TF_CHOICES[value];
  else if (s.vectors.userKernel || s.vectors.guestHost) choices.l1tf = s.smt === "on" ? "FLUSH_NOSMT" : "FLUSH";
}

/** Kernel: `mds_select_mitigation()`, `taa_...`, `mmio_...`, `rfds_...`: who asks for VERW. */
export function selectVerwFamily(s: Selecting): void {
  const { choices, cpu, config } = s;
  const wants = (name: string, isBuilt: boolean): boolean => {
    const value = verwOption(s, name);
    if (value === "full,nosmt") s.nosmt.add(name);
    return isBuilt && (value === undefined ? anyVector(s) : value !== "off");
  };
  choices.mds = cpu.hasBug("MDS") && wants("mds", config.MDS) ? "FULL" : "OFF";
  choices.taa = "OFF";
  if (cpu.hasBug("TAA")) {
    if (!s.hasRtm) choices.taa = "TSX_DISABLED";
    else if (wants("tsx_async_abort", config.TAA)) choices.taa = "VERW";
  }
  choices.mmio = cpu.hasBug("MMIO_STALE_DATA") && wants("mmio_stale_data", config.MMIO_STALE_DATA) ? "VERW" : "OFF";
  const rfds = choiceOf(s.commandLine, "reg_file_data_sampling", ["on", "off"], () => undefined);
  const wantsRfds = config.RFDS && (rfds === undefined ? anyVector(s) : rfds === "on");
  choices.rfds = cpu.hasBug("RFDS") && wantsRfds ? "VERW" : "OFF";
  s.verw =
    choices.mds !== "OFF" ||
    choices.taa === "VERW" ||
    (choices.mmio !== "OFF" && (cpu.hasBug("MDS") || taaVulnerable(s))) ||
    (choices.rfds !== "OFF" && cpu.hasCapability("RFDS_CLEAR"));
}

/** Kernel: the `*_update_mitigation()` of the same four, with what microcode is there. */
export function updateVerwFamily(s: Selecting): void {
  const { choices, cpu } = s;
  const hasMdClear = cpu.has("MD_CLEAR");
  if (cpu.hasBug("MDS") && s.verw) choices.mds = hasMdClear ? "FULL" : "VMWERV";
  if (cpu.hasBug("TAA") && choices.taa !== "TSX_DISABLED" && (s.verw || choices.taa === "VERW")) {
    // MD_CLEAR alone does not say that VERW clears where MDS_NO is set: the microcode that brought TSX_CTRL does.
    const clears = hasMdClear && !(cpu.hasCapability("MDS_NO") && !cpu.hasCapability("TSX_CTRL_MSR"));
    choices.taa = clears ? "VERW" : "UCODE_NEEDED";
  }
  if (cpu.hasBug("MMIO_STALE_DATA") && (s.verw || choices.mmio === "VERW")) {
    const clears = cpu.hasCapability("FB_CLEAR") || (hasMdClear && cpu.has("FLUSH_L1D") && !cpu.hasCapability("MDS_NO"));
    choices.mmio = clears ? "VERW" : "UCODE_NEEDED";
  }
  if (cpu.hasBug("RFDS") && (s.verw || choices.rfds === "VERW")) {
    choices.rfds = cpu.hasCapability("RFDS_CLEAR") ? "VERW" : "UCODE_NEEDED";
  }
}

/** Kernel: `srbds_select_mitigation()`. */
export function selectSrbds(s: Selecting): void {
  const { choices, cpu } = s;
  choices.srbds = "OFF";
  const isOff = choiceOf(s.commandLine, "srbds", ["off"], () => undefined) === "off";
  if (!cpu.hasBug("SRBDS") || isOff || !s.config.SRBDS || !anyVector(s)) return;
  if (cpu.hasCapability("MDS_NO") && !s.hasRtm && !cpu.hasBug("MMIO_STALE_DATA")) choices.srbds = "TSX_OFF";
  else choices.srbds = cpu.has("SRBDS_CTRL") ? "FULL" : "UCODE_NEEDED";
}

/** Kernel: `gds_select_mitigation()`. */
export function selectGds(s: Selecting): void {
  const { choices, cpu } = s;
  choices.gds = "OFF";
  const value = choiceOf(s.commandLine, "gather_data_sampling", ["off", "force"], () => undefined);
  const byDefault = s.config.GDS && (anyVector(s) || s.smt !== "off");
  if (!cpu.hasBug("GDS") || value === "off" || (value === undefined && !byDefault)) return;
  if (cpu.hasCapability("GDS_CTRL")) choices.gds = "FULL";
  else choices.gds = value === "force" ? "FORCE" : "UCODE_NEEDED";
}
