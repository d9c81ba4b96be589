// The texts of /sys/devices/system/cpu/vulnerabilities, as Linux v6.18 prints them (docs/mitigations.md, section 4). Pure: what a file says
// follows from the CPU, the selection, and what can change while the system runs.
import { type CpuFacts, inEibrsMode } from "./selecting.ts";
import type { Choice, Selection } from "./selection.ts";

// Kernel: enum vmx_l1d_flush_state.
export const VMENTER_L1D_FLUSH_AUTO = 0;
export const VMENTER_L1D_FLUSH_NEVER = 1;
export const VMENTER_L1D_FLUSH_COND = 2;
export const VMENTER_L1D_FLUSH_ALWAYS = 3;
export const VMENTER_L1D_FLUSH_EPT_DISABLED = 4;
export const VMENTER_L1D_FLUSH_NOT_REQUIRED = 5;

/** What can change at run time. */
export interface RuntimeState {
  /** A core has two threads online (kernel: `sched_smt_active()`). */
  readonly isSmtActive: boolean;
  /** VMENTER_L1D_FLUSH_*; AUTO while the hypervisor is not loaded. */
  readonly vmxL1dFlush: number;
  /** The hypervisor is loaded and VMX can be used. */
  readonly hasVmx: boolean;
  readonly isKvmLoaded: boolean;
  /** No guest page is both executable and large (kernel: itlb_multihit_kvm_mitigation). */
  readonly splitsHugePages: boolean;
}

export interface Reported {
  readonly cpu: CpuFacts;
  readonly selection: Selection;
  readonly state: RuntimeState;
}

const NOT_AFFECTED = "Not affected";
const CLEAR = "Mitigation: Clear CPU buffers";
const CLEAR_ATTEMPTED = "Vulnerable: Clear CPU buffers attempted, no microcode";

function smtSuffix(r: Reported): string {
  return r.state.isSmtActive ? "; SMT vulnerable" : "; SMT disabled";
}

function verwText(choice: "OFF" | "UCODE_NEEDED" | "VERW"): string {
  return choice === "VERW" ? CLEAR : choice === "OFF" ? "Vulnerable" : CLEAR_ATTEMPTED;
}

/** Kernel: `l1tf_show_state()`. */
function l1tf(r: Reported): string {
  const base = "Mitigation: PTE Inversion";
  const smt = r.state.isSmtActive;
  switch (r.state.vmxL1dFlush) {
    case VMENTER_L1D_FLUSH_AUTO:
      return base;
    case VMENTER_L1D_FLUSH_EPT_DISABLED:
      return `${base}; VMX: EPT disabled`;
    case VMENTER_L1D_FLUSH_NEVER:
      return smt ? `${base}; VMX: vulnerable` : `${base}; VMX: vulnerable, SMT disabled`;
    default: {
      const texts = new Map([
        [VMENTER_L1D_FLUSH_COND, "conditional cache flushes"],
        [VMENTER_L1D_FLUSH_ALWAYS, "cache flushes"],
        [VMENTER_L1D_FLUSH_NOT_REQUIRED, "flush not necessary"],
      ]);
      return `${base}; VMX: ${texts.get(r.state.vmxL1dFlush)}, SMT ${smt ? "vulnerable" : "disabled"}`;
    }
  }
}

function mds(r: Reported): string {
  const choice = r.selection.choices.mds;
  const text = choice === "FULL" ? CLEAR : choice === "OFF" ? "Vulnerable" : CLEAR_ATTEMPTED;
  return text + smtSuffix(r);
}

function taa(r: Reported): string {
  const choice = r.selection.choices.taa;
  if (choice === "TSX_DISABLED") return "Mitigation: TSX disabled";
  return choice === "OFF" ? "Vulnerable" : verwText(choice) + smtSuffix(r);
}

function mmio(r: Reported): string {
  const choice = r.selection.choices.mmio;
  return choice === "OFF" ? "Vulnerable" : verwText(choice) + smtSuffix(r);
}

function rfds(r: Reported): string {
  const choice = r.selection.choices.rfds;
  return choice === "VERW" ? "Mitigation: Clear Register File" : choice === "OFF" ? "Vulnerable" : "Vulnerable: No microcode";
}

const SRBDS = {
  OFF: "Vulnerable",
  UCODE_NEEDED: "Vulnerable: No microcode",
  FULL: "Mitigation: Microcode",
  TSX_OFF: "Mitigation: TSX disabled",
} as const satisfies Record<Choice<"srbds">, string>;

const GDS = {
  OFF: "Vulnerable",
  UCODE_NEEDED: "Vulnerable: No microcode",
  FORCE: "Mitigation: AVX disabled, no microcode",
  FULL: "Mitigation: Microcode",
} as const satisfies Record<Choice<"gds">, string>;

const ITS = {
  OFF: "Vulnerable",
  ALIGNED_THUNKS: "Mitigation: Aligned branch/return thunks",
  VMEXIT_ONLY: "Mitigation: Vulnerable, KVM: Not affected",
  RETPOLINE_STUFF: "Mitigation: Retpolines, Stuffing RSB",
} as const satisfies Record<Choice<"its">, string>;

const SSB = {
  NONE: "Vulnerable",
  DISABLE: "Mitigation: Speculative Store Bypass disabled",
  PRCTL: "Mitigation: Speculative Store Bypass disabled via prctl",
  SECCOMP: "Mitigation: Speculative Store Bypass disabled via prctl and seccomp",
} as const satisfies Record<Choice<"ssb">, string>;

/** On Intel's parts, where untraining and IBPB at entry do not help. */
const RETBLEED = {
  NONE: "Vulnerable",
  UNRET: "Vulnerable: untrained return thunk / IBPB on non-AMD based uarch",
  IBPB: "Vulnerable: untrained return thunk / IBPB on non-AMD based uarch",
  IBRS: "Mitigation: IBRS",
  EIBRS: "Mitigation: Enhanced IBRS",
  STUFF: "Mitigation: Stuffing",
} as const satisfies Record<Choice<"retbleed">, string>;

const SPECTRE_V1 = {
  NONE: "Vulnerable: __user pointer sanitization and usercopy barriers only; no swapgs barriers",
  AUTO: "Mitigation: usercopy/swapgs barriers and __user pointer sanitization",
} as const satisfies Record<Choice<"spectre_v1">, string>;

const VMSCAPE = {
  NONE: "Vulnerable",
  IBPB_EXIT_TO_USER: "Mitigation: IBPB before exit to userspace",
  IBPB_ON_VMEXIT: "Mitigation: IBPB on VMEXIT",
} as const satisfies Record<Choice<"vmscape">, string>;

const SPECTRE_V2_MODES = {
  NONE: "Vulnerable",
  RETPOLINE: "Mitigation: Retpolines",
  LFENCE: "Vulnerable: LFENCE",
  EIBRS: "Mitigation: Enhanced / Automatic IBRS",
  EIBRS_RETPOLINE: "Mitigation: Enhanced / Automatic IBRS + Retpolines",
  EIBRS_LFENCE: "Mitigation: Enhanced / Automatic IBRS + LFENCE",
  IBRS: "Mitigation: IBRS",
} as const satisfies Record<Choice<"spectre_v2">, string>;

/** Kernel: `stibp_state()`. */
function stibpPart({ selection, state }: Reported): string {
  const { choices } = selection;
  if (inEibrsMode(choices.spectre_v2)) return "";
  switch (choices.spectre_v2_user_stibp) {
    case "NONE":
      return "; STIBP: disabled";
    case "STRICT":
      return "; STIBP: forced";
    case "STRICT_PREFERRED":
      return "; STIBP: always-on";
    case "PRCTL":
    case "SECCOMP":
      return state.isSmtActive ? "; STIBP: conditional" : "";
  }
}

/** Kernel: `ibpb_state()`. */
function ibpbPart({ cpu, selection }: Reported): string {
  if (!cpu.has("IBPB")) return "";
  if (selection.features.has("SWITCH_MM_ALWAYS_IBPB")) return "; IBPB: always-on";
  return selection.features.has("SWITCH_MM_COND_IBPB") ? "; IBPB: conditional" : "; IBPB: disabled";
}

/** Kernel: `pbrsb_eibrs_state()`. */
function pbrsbPart({ cpu, selection }: Reported): string {
  if (!cpu.hasBug("EIBRS_PBRSB")) return "; PBRSB-eIBRS: Not affected";
  const isHandled = selection.features.has("RSB_VMEXIT_LITE") || selection.features.has("RSB_VMEXIT");
  return isHandled ? "; PBRSB-eIBRS: SW sequence" : "; PBRSB-eIBRS: Vulnerable";
}

/** Kernel: `spectre_bhi_state()`. */
function bhiPart({ cpu, selection }: Reported): string {
  const { features, choices } = selection;
  if (!cpu.hasBug("BHI")) return "; BHI: Not affected";
  if (features.has("CLEAR_BHB_HW")) return "; BHI: BHI_DIS_S";
  if (features.has("CLEAR_BHB_LOOP")) return "; BHI: SW loop, KVM: SW loop";
  const isRetpoline = choices.spectre_v2 === "RETPOLINE" || choices.spectre_v2 === "EIBRS_RETPOLINE";
  if (isRetpoline && (!cpu.hasCapability("RRSBA") || features.has("RRSBA_DIS_S"))) return "; BHI: Retpoline";
  return features.has("CLEAR_BHB_VMEXIT") ? "; BHI: Vulnerable, KVM: SW loop" : "; BHI: Vulnerable";
}

/** Kernel: `spectre_v2_show_state()`. Unprivileged eBPF does not exist here. */
function spectreV2(r: Reported): string {
  const { features, choices } = r.selection;
  const firmware = features.has("USE_IBRS_FW") ? "; IBRS_FW" : "";
  const rsb = features.has("RSB_CTXSW") ? "; RSB filling" : "";
  return SPECTRE_V2_MODES[choices.spectre_v2] + ibpbPart(r) + firmware + stibpPart(r) + rsb + pbrsbPart(r) + bhiPart(r);
}

/** Kernel: `itlb_multihit_show_state()`. */
function itlbMultihit({ state }: Reported): string {
  if (!state.hasVmx) return "KVM: Mitigation: VMX unsupported";
  if (!state.isKvmLoaded) return "KVM: Mitigation: VMX disabled";
  return state.splitsHugePages ? "KVM: Mitigation: Split huge pages" : "KVM: Vulnerable";
}

type Text = (r: Reported) => string;
const whenBug =
  (bug: Parameters<CpuFacts["hasBug"]>[0], text: Text): Text =>
  (r) =>
    r.cpu.hasBug(bug) ? text(r) : NOT_AFFECTED;

/** Every file of the folder and what it says, without the newline at its end. */
const FILES = {
  gather_data_sampling: whenBug("GDS", (r) => GDS[r.selection.choices.gds]),
  ghostwrite: () => NOT_AFFECTED,
  indirect_target_selection: whenBug("ITS", (r) => ITS[r.selection.choices.its]),
  itlb_multihit: whenBug("ITLB_MULTIHIT", itlbMultihit),
  l1tf: whenBug("L1TF", l1tf),
  mds: whenBug("MDS", mds),
  meltdown: whenBug("CPU_MELTDOWN", (r) => (r.selection.choices.pti === "ON" ? "Mitigation: PTI" : "Vulnerable")),
  mmio_stale_data: whenBug("MMIO_STALE_DATA", mmio),
  reg_file_data_sampling: whenBug("RFDS", rfds),
  retbleed: whenBug("RETBLEED", (r) => RETBLEED[r.selection.choices.retbleed]),
  spec_rstack_overflow: () => NOT_AFFECTED,
  spec_store_bypass: whenBug("SPEC_STORE_BYPASS", (r) => SSB[r.selection.choices.ssb]),
  spectre_v1: whenBug("SPECTRE_V1", (r) => SPECTRE_V1[r.selection.choices.spectre_v1]),
  spectre_v2: whenBug("SPECTRE_V2", spectreV2),
  srbds: whenBug("SRBDS", (r) => SRBDS[r.selection.choices.srbds]),
  tsa: () => NOT_AFFECTED,
  tsx_async_abort: whenBug("TAA", taa),
  vmscape: whenBug("VMSCAPE", (r) => VMSCAPE[r.selection.choices.vmscape]),
} as const satisfies Record<string, Text>;

export type VulnerabilityFile = keyof typeof FILES;
export const VULNERABILITY_FILES = Object.keys(FILES) as readonly VulnerabilityFile[]; // the keys of the table above

/** The line of `/sys/devices/system/cpu/vulnerabilities/FILE`, without the newline. */
export function vulnerabilityText(file: VulnerabilityFile, reported: Reported): string {
  return FILES[file](reported);
}
