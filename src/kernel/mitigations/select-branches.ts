// Selection for the bugs of branch prediction: Spectre v1 and v2, branch history, Retbleed, ITS, VMSCAPE, as the select and update steps
// of the kernel's bugs.c decide (v6.18). Pure: what CPU, configuration and command line are comes in, choices go out.
import { choiceOf, hasWord, parseRetbleed } from "./mitigation-options.ts";
import { inEibrsMode, type Selecting, SPECTRE_V2_COMMANDS, type SpectreV2Command } from "./selecting.ts";

/** Kernel: `spectre_v1_select_mitigation()`. */
export function selectSpectreV1(s: Selecting): void {
  const isWanted = !hasWord(s.commandLine, "nospectre_v1") && s.config.SPECTRE_V1 && s.vectors.userKernel;
  s.choices.spectre_v1 = s.cpu.hasBug("SPECTRE_V1") && isWanted ? "AUTO" : "NONE";
}

/** Kernel: `spectre_v2_parse_cmdline()` with the feature checks behind it. */
export function spectreV2Command(s: Selecting): SpectreV2Command {
  const { commandLine, config, cpu, say } = s;
  if (hasWord(commandLine, "nospectre_v2") || !config.SPECTRE_V2) return "off";
  const value = choiceOf(commandLine, "spectre_v2", SPECTRE_V2_COMMANDS, (wrong) =>
    say(`Spectre V2 : Ignoring unknown spectre_v2 option (${wrong}).`),
  );
  if (value === undefined) return "auto";
  const refuse = (why: string): SpectreV2Command => {
    say(`Spectre V2 : ${value} selected but ${why}. Switching to AUTO select`);
    return "auto";
  };
  if (/retpoline|lfence/.test(value) && !config.RETPOLINE) return refuse("not compiled in");
  if (value.startsWith("eibrs") && !cpu.hasCapability("IBRS_ALL")) return refuse("CPU doesn't have Enhanced or Automatic IBRS");
  if (value === "ibrs" && !config.IBRS_ENTRY) return refuse("not compiled in");
  if (value === "ibrs" && !cpu.has("IBRS")) return refuse("CPU doesn't have IBRS");
  return value;
}

/** Kernel: `spectre_v2_select_mitigation()`. */
export function selectSpectreV2(s: Selecting): void {
  const { cpu, config, choices } = s;
  choices.spectre_v2 = "NONE";
  switch (s.v2Command) {
    case "off":
      return;
    case "auto":
      if (!s.vectors.userKernel && !s.vectors.guestHost) return;
      break;
    case "on":
      break;
    case "retpoline,lfence":
    case "retpoline,amd":
      s.say("Spectre V2 : WARNING: LFENCE mitigation is not recommended for this CPU, data leaks possible!");
      choices.spectre_v2 = "LFENCE";
      return;
    case "retpoline":
    case "retpoline,generic":
      choices.spectre_v2 = "RETPOLINE";
      return;
    case "ibrs":
      choices.spectre_v2 = "IBRS";
      return;
    case "eibrs":
      choices.spectre_v2 = "EIBRS";
      return;
    case "eibrs,lfence":
      choices.spectre_v2 = "EIBRS_LFENCE";
      return;
    case "eibrs,retpoline":
      choices.spectre_v2 = "EIBRS_RETPOLINE";
      return;
  }
  if (cpu.hasCapability("IBRS_ALL")) choices.spectre_v2 = "EIBRS";
  else if (config.RETPOLINE) choices.spectre_v2 = "RETPOLINE";
}

/** Kernel: `spectre_v2_update_mitigation()`. */
export function updateSpectreV2(s: Selecting): void {
  const { cpu, config, choices } = s;
  const retbleed = choices.retbleed;
  const byRetbleed = cpu.hasBug("RETBLEED") && retbleed !== "NONE" && retbleed !== "STUFF";
  if (s.v2Command === "auto" && !inEibrsMode(choices.spectre_v2) && byRetbleed && config.IBRS_ENTRY && cpu.has("IBRS")) {
    choices.spectre_v2 = "IBRS";
  } else if (choices.spectre_v2 === "NONE" && s.v2Command !== "off" && !config.RETPOLINE && !s.isOff) {
    s.say("Spectre V2 : Kernel not compiled with retpoline; no mitigation available!");
  }
}

/** Kernel: `retbleed_select_mitigation()`, Intel. */
export function selectRetbleed(s: Selecting): void {
  const { cpu, config, choices, say } = s;
  choices.retbleed = "NONE";
  const option = parseRetbleed(s.commandLine, say);
  if (option.force) s.forced.add("RETBLEED");
  const isThere = cpu.hasBug("RETBLEED") || option.force;
  if (!isThere || !config.RETBLEED || option.command === "off") return;
  let { command } = option;
  if (command === "unret" && !config.UNRET_ENTRY) {
    say("RETBleed: WARNING: kernel not compiled with MITIGATION_UNRET_ENTRY.");
    command = "auto";
  }
  if (command === "stuff" && !config.CALL_DEPTH_TRACKING) {
    say("RETBleed: WARNING: kernel not compiled with MITIGATION_CALL_DEPTH_TRACKING.");
    command = "auto";
  }
  if (command === "ibpb") {
    if (cpu.has("IBPB")) {
      choices.retbleed = "IBPB";
      return;
    }
    say("RETBleed: WARNING: CPU does not support IBPB.");
    command = "auto";
  }
  if (command === "unret") choices.retbleed = "UNRET";
  else if (command === "stuff") choices.retbleed = "STUFF";
  else if (option.isExplicit || s.vectors.userKernel || s.vectors.guestHost) {
    if (cpu.hasCapability("IBRS_ALL")) choices.retbleed = "EIBRS";
    else if (cpu.has("IBRS")) choices.retbleed = "IBRS";
  }
}

/** Kernel: `retbleed_update_mitigation()`, Intel. */
export function updateRetbleed(s: Selecting): void {
  const { cpu, choices, say } = s;
  if (!cpu.hasBug("RETBLEED") && !s.forced.has("RETBLEED")) return;
  if (choices.its === "RETPOLINE_STUFF") choices.retbleed = "STUFF";
  if (choices.retbleed === "NONE") return;
  const v2 = choices.spectre_v2;
  if (choices.retbleed === "STUFF" && v2 !== "RETPOLINE" && v2 !== "EIBRS_RETPOLINE") {
    say("RETBleed: WARNING: retbleed=stuff depends on spectre_v2=retpoline");
    choices.retbleed = "NONE";
  }
  // The result on Intel follows what was chosen for Spectre v2.
  if (v2 === "IBRS") choices.retbleed = "IBRS";
  else if (inEibrsMode(v2)) choices.retbleed = "EIBRS";
  else if (choices.retbleed !== "STUFF") {
    say("RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable to RETBleed attacks, data leaks possible!");
    choices.retbleed = "NONE";
  }
}

const USER_COMMANDS = ["auto", "off", "on", "prctl", "prctl,ibpb", "seccomp", "seccomp,ibpb"] as const;

/** Kernel: `spectre_v2_user_select_mitigation()`. */
export function selectSpectreV2User(s: Selecting): void {
  const { cpu, config, choices, say } = s;
  choices.spectre_v2_user_ibpb = "NONE";
  choices.spectre_v2_user_stibp = "NONE";
  if (!cpu.has("IBPB") && !cpu.has("STIBP")) return;
  const parsed =
    choiceOf(s.commandLine, "spectre_v2_user", USER_COMMANDS, (wrong) =>
      say(`Spectre V2 : Unknown user space protection option (${wrong}). Switching to default`),
    ) ?? "auto";
  const withoutSeccomp = config.SECCOMP ? parsed : parsed === "seccomp" ? "prctl" : parsed === "seccomp,ibpb" ? "prctl,ibpb" : parsed;
  const command = s.v2Command === "off" ? "off" : s.v2Command === "on" ? "on" : withoutSeccomp;
  switch (command) {
    case "off":
      return;
    case "on":
      choices.spectre_v2_user_ibpb = "STRICT";
      choices.spectre_v2_user_stibp = "STRICT";
      break;
    case "auto":
      if (!s.vectors.userUser && !s.vectors.guestGuest) return;
      choices.spectre_v2_user_ibpb = "PRCTL";
      choices.spectre_v2_user_stibp = s.smt === "off" ? "NONE" : "PRCTL";
      break;
    case "prctl":
      choices.spectre_v2_user_ibpb = "PRCTL";
      choices.spectre_v2_user_stibp = "PRCTL";
      break;
    case "prctl,ibpb":
      choices.spectre_v2_user_ibpb = "STRICT";
      choices.spectre_v2_user_stibp = "PRCTL";
      break;
    case "seccomp":
      choices.spectre_v2_user_ibpb = "SECCOMP";
      choices.spectre_v2_user_stibp = "SECCOMP";
      break;
    case "seccomp,ibpb":
      choices.spectre_v2_user_ibpb = "STRICT";
      choices.spectre_v2_user_stibp = "SECCOMP";
      break;
  }
  if (!cpu.has("IBPB")) choices.spectre_v2_user_ibpb = "NONE";
  if (!cpu.has("STIBP")) choices.spectre_v2_user_stibp = "NONE";
}

/** Kernel: `spectre_v2_user_update_mitigation()`. */
export function updateSpectreV2User(s: Selecting): void {
  const { choices } = s;
  // Between threads of a core enhanced IBRS protects by itself.
  if (!s.cpu.isSmtPossible || inEibrsMode(choices.spectre_v2)) choices.spectre_v2_user_stibp = "NONE";
  const isWanted = choices.spectre_v2_user_stibp !== "NONE" && choices.spectre_v2_user_stibp !== "STRICT";
  if (isWanted && (choices.retbleed === "UNRET" || choices.retbleed === "IBPB")) choices.spectre_v2_user_stibp = "STRICT_PREFERRED";
}

/** Kernel: `bhi_select_mitigation()`, `bhi_update_mitigation()`. */
export function selectBhi(s: Selecting): void {
  const { choices, say } = s;
  choices.bhi = "OFF";
  if (!s.cpu.hasBug("BHI") || !s.config.SPECTRE_BHI || s.v2Command === "off") return;
  const command = choiceOf(s.commandLine, "spectre_bhi", ["off", "on", "vmexit"], (wrong) =>
    say(`Spectre V2 : Ignoring unknown spectre_bhi option (${wrong})`),
  );
  if (command === "on") choices.bhi = "ON";
  else if (command === "vmexit") choices.bhi = "VMEXIT_ONLY";
  else if (command === undefined && s.vectors.guestHost) choices.bhi = s.vectors.userKernel ? "ON" : "VMEXIT_ONLY";
}

/** Kernel: `its_select_mitigation()`. */
export function selectIts(s: Selecting): void {
  const { choices, cpu, config, say } = s;
  choices.its = "OFF";
  const command = choiceOf(s.commandLine, "indirect_target_selection", ["on", "off", "force", "vmexit", "stuff"], (wrong) =>
    say(`ITS: Ignoring unknown indirect_target_selection option (${wrong}).`),
  );
  if (command === "force") s.forced.add("ITS");
  if ((!cpu.hasBug("ITS") && !s.forced.has("ITS")) || command === "off") return;
  if (command === undefined && !s.vectors.userKernel && !s.vectors.guestHost) return;
  if (!config.ITS || !config.RETPOLINE) {
    say("ITS: WARNING: ITS mitigation depends on retpoline and rethunk support");
    return;
  }
  const v2 = choices.spectre_v2;
  if (v2 === "NONE") say("ITS: WARNING: Spectre-v2 mitigation is off, disabling ITS");
  else if (v2 === "LFENCE" || v2 === "EIBRS_LFENCE") say("ITS: WARNING: ITS mitigation is not compatible with lfence mitigation");
  else if (command === "vmexit" && cpu.hasBug("ITS_NATIVE_ONLY")) choices.its = "VMEXIT_ONLY";
  else if (command === "stuff" && config.CALL_DEPTH_TRACKING && (v2 === "RETPOLINE" || v2 === "EIBRS_RETPOLINE"))
    choices.its = "RETPOLINE_STUFF";
  else choices.its = "ALIGNED_THUNKS";
}

/** Kernel: `vmscape_select_mitigation()`, `vmscape_update_mitigation()`. */
export function selectVmscape(s: Selecting): void {
  const { choices, cpu, say } = s;
  choices.vmscape = "NONE";
  const command = choiceOf(s.commandLine, "vmscape", ["off", "ibpb", "force", "on", "auto"], (wrong) =>
    say(`VMSCAPE: Ignoring unknown vmscape=${wrong} option.`),
  );
  if (command === "force") s.forced.add("VMSCAPE");
  const isThere = cpu.hasBug("VMSCAPE") || s.forced.has("VMSCAPE");
  if (!isThere || !s.config.VMSCAPE || command === "off" || !cpu.has("IBPB")) return;
  const isWanted = command === "ibpb" || command === "force" || command === "on" || s.vectors.guestHost;
  if (isWanted) choices.vmscape = choices.retbleed === "IBPB" ? "IBPB_ON_VMEXIT" : "IBPB_EXIT_TO_USER";
}
