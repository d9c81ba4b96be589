// The selection of all mitigations, in the kernel's order: select, update, apply (v6.18, cpu_select_mitigations()). The order can be seen
// from outside: a later step looks at what an earlier one chose. Pure; what it decides is put into force elsewhere.
import { commandLineOption } from "../boot/command-line.ts";
import { choiceOf, hasWord, parseMitigations, parseRetbleed } from "./mitigation-options.ts";
import {
  selectBhi,
  selectIts,
  selectRetbleed,
  selectSpectreV1,
  selectSpectreV2,
  selectSpectreV2User,
  selectVmscape,
  spectreV2Command,
  updateRetbleed,
  updateSpectreV2,
  updateSpectreV2User,
} from "./select-branches.ts";
import { selectGds, selectL1tf, selectSrbds, selectSsb, selectVerwFamily, updateVerwFamily } from "./select-data.ts";
import { inEibrsMode, type Selecting, type SelectionInput } from "./selecting.ts";
import { type Choices, MITIGATION_NAMES, MITIGATIONS, type SelectedFeature, type Selection } from "./selection.ts";

/** `pti=`, `nopti`, `mitigations=` (kernel: `pti_check_boottime_disable()`). With ASI on never, whatever the options say. */
export function selectsPti(input: SelectionInput): boolean {
  const { cpu, config, commandLine, say } = input;
  const tell = (why: string): false => {
    say(`Kernel/User page tables isolation: ${why}`);
    return false;
  };
  if (!config.PAGE_TABLE_ISOLATION) return false;
  if (input.isAsi)
    return cpu.hasBug("CPU_MELTDOWN") || hasWord(commandLine, "pti") ? tell("disabled, address space isolation is on") : false;
  const value = hasWord(commandLine, "nopti") ? "off" : choiceOf(commandLine, "pti", ["on", "off", "auto"], () => undefined);
  if (value === "off") return tell("disabled on command line.");
  if (value === "on") {
    say("Kernel/User page tables isolation: force enabled on command line.");
    return true;
  }
  const global = parseMitigations(commandLine, config, () => undefined);
  if (!global.vectors.userKernel) return cpu.hasBug("CPU_MELTDOWN") ? tell("disabled on command line.") : false;
  return cpu.hasBug("CPU_MELTDOWN");
}

/** `tsx=`: transactions are turned off (kernel: `tsx_init()`). Works only where the CPU has IA32_TSX_CTRL. */
function disablesTsx(input: SelectionInput): boolean {
  if (!input.cpu.hasCapability("TSX_CTRL_MSR")) return false;
  const mode =
    choiceOf(input.commandLine, "tsx", ["on", "off", "auto"], () => input.say("invalid option, defaulting to off")) ??
    (commandLineOption(input.commandLine, "tsx") === undefined ? input.config.TSX_MODE : "off");
  return mode === "off" || (mode === "auto" && input.cpu.hasBug("TAA"));
}

/** Kernel: `cpu_select_mitigations()` with `tsx_init()` before it. */
export function selectMitigations(input: SelectionInput): Selection {
  const { cpu, config, commandLine, say } = input;
  const global = parseMitigations(commandLine, config, say);
  const noTsx = disablesTsx(input);
  const choices = Object.fromEntries(MITIGATION_NAMES.map((name) => [name, MITIGATIONS[name][0]])) as Choices; // the first of each
  const s: Selecting = {
    cpu,
    config,
    commandLine,
    vectors: global.vectors,
    smt: global.smt,
    isOff: global.isOff,
    say,
    choices,
    forced: new Set(),
    nosmt: new Set(),
    hasRtm: cpu.has("RTM") && !noTsx,
    v2Command: "auto",
    verw: false,
  };
  choices.pti = selectsPti({ ...input, say: () => undefined }) ? "ON" : "OFF";
  selectSpectreV1(s);
  s.v2Command = spectreV2Command(s);
  selectSpectreV2(s);
  selectRetbleed(s);
  selectSpectreV2User(s);
  selectSsb(s);
  selectL1tf(s);
  selectVerwFamily(s);
  selectSrbds(s);
  selectGds(s);
  updateSpectreV2(s);
  selectIts(s);
  selectBhi(s);
  updateRetbleed(s);
  updateSpectreV2User(s);
  updateVerwFamily(s);
  selectVmscape(s);
  return { choices, features: selectedFeatures(s, noTsx) };
}

/** Kernel: the `*_apply_mitigation()` steps: what follows from the choices. */
function selectedFeatures(s: Selecting, noTsx: boolean): ReadonlySet<SelectedFeature> {
  const found = new Set<SelectedFeature>();
  branchFeatures(s, found);
  historyFeatures(s, found);
  userFeatures(s, found);
  dataFeatures(s, found);
  smtFeatures(s, found);
  if (noTsx) found.add("TSX_DISABLED");
  return found;
}

function branchFeatures(s: Selecting, found: Set<SelectedFeature>): void {
  const { choices, cpu } = s;
  if (choices.spectre_v1 === "AUTO") {
    // Without SMAP, or where a user mapping's fault comes late, a user GS base could be used by a kernel entry that skips SWAPGS.
    if (!cpu.has("FSGSBASE") || !cpu.has("SMAP") || cpu.hasBug("CPU_MELTDOWN")) {
      if (cpu.hasBug("SWAPGS") && choices.pti === "OFF") found.add("FENCE_SWAPGS_USER");
      found.add("FENCE_SWAPGS_KERNEL");
    }
  }
  const mode = choices.spectre_v2;
  if (inEibrsMode(mode)) {
    found.add("SPEC_CTRL_IBRS_ALWAYS");
    if (cpu.hasBug("EIBRS_PBRSB")) found.add("RSB_VMEXIT_LITE");
  }
  if (mode === "IBRS") found.add("KERNEL_IBRS");
  if (mode === "IBRS" || mode === "RETPOLINE" || mode === "LFENCE") {
    found.add("RSB_CTXSW");
    found.add("RSB_VMEXIT");
  }
  if (mode !== "NONE" && mode !== "IBRS" && !inEibrsMode(mode) && cpu.has("IBRS")) found.add("USE_IBRS_FW");
  const disablesRrsba = mode === "EIBRS_RETPOLINE" || mode === "EIBRS_LFENCE" || mode === "RETPOLINE";
  if (disablesRrsba && cpu.hasCapability("RRSBA") && cpu.has("RRSBA_CTRL")) found.add("RRSBA_DIS_S");
}

/** Kernel: `bhi_apply_mitigation()`. */
function historyFeatures(s: Selecting, found: Set<SelectedFeature>): void {
  const { choices, cpu } = s;
  if (choices.bhi === "OFF") return;
  const isRetpoline = choices.spectre_v2 === "RETPOLINE" || choices.spectre_v2 === "EIBRS_RETPOLINE";
  if (isRetpoline && (!cpu.hasCapability("RRSBA") || found.has("RRSBA_DIS_S"))) return;
  if (cpu.has("BHI_CTRL")) {
    found.add("CLEAR_BHB_HW");
    return;
  }
  found.add("CLEAR_BHB_VMEXIT");
  if (choices.bhi === "ON") found.add("CLEAR_BHB_LOOP");
}

function userFeatures(s: Selecting, found: Set<SelectedFeature>): void {
  const { choices } = s;
  if (choices.spectre_v2_user_ibpb !== "NONE") {
    found.add("SWITCH_VCPU_IBPB");
    found.add(choices.spectre_v2_user_ibpb === "STRICT" ? "SWITCH_MM_ALWAYS_IBPB" : "SWITCH_MM_COND_IBPB");
  }
  if (choices.vmscape === "IBPB_EXIT_TO_USER") found.add("IBPB_EXIT_TO_USER");
}

function dataFeatures(s: Selecting, found: Set<SelectedFeature>): void {
  const { choices, cpu } = s;
  if (s.verw) found.add("CLEAR_CPU_BUF");
  if (choices.mmio === "OFF") return;
  // Buffers that propagate while a CPU sleeps; and a guest that reaches devices, where nothing else clears.
  if (!s.verw) found.add("CLEAR_CPU_BUF_VM_MMIO");
  if (!cpu.hasCapability("FBSDP_NO")) found.add("CPU_BUF_IDLE_CLEAR");
}

/** `nosmt`, and the options that ask for it. */
function smtFeatures(s: Selecting, found: Set<SelectedFeature>): void {
  const { choices } = s;
  const value = commandLineOption(s.commandLine, "nosmt");
  const isL1tf = choices.l1tf === "FLUSH_NOSMT" || choices.l1tf === "FULL" || choices.l1tf === "FULL_FORCE";
  const isVerw = s.smt === "on" && (choices.mds !== "OFF" || choices.taa === "VERW" || choices.mmio !== "OFF");
  const option = parseRetbleed(s.commandLine, () => undefined);
  const isRetbleed =
    (choices.retbleed === "UNRET" || choices.retbleed === "IBPB") && !s.cpu.has("STIBP") && (option.nosmt || s.smt === "on");
  if (value !== undefined || isL1tf || isVerw || isRetbleed || s.nosmt.size > 0) found.add("SMT_DISABLED");
  if (value === "force" || choices.l1tf === "FULL_FORCE") found.add("SMT_FORCE_DISABLED");
}
