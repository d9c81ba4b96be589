// What Cordon offers beyond the posted series, each a choice of its own: `cordon.NAME=on|off` on the kernel command line, with defaults by
// preset. Patched at boot: asking costs nothing.
import { commandLineChoice } from "../boot/command-line.ts";
import { type StaticKey, staticKey } from "../static-key.ts";

/** `cordon`: right and conservative. `rfc-v2`: as posted, its faults included. `cordon-fast`: every option that was found sound. */
export const PRESETS = ["cordon", "rfc-v2", "cordon-fast"] as const;
export type Preset = (typeof PRESETS)[number];

export interface AsiOption {
  /** On the command line: `cordon.NAME=on|off`. */
  readonly name: string;
  /** What "on" means, in one line. */
  readonly meaning: string;
  readonly key: StaticKey;
  readonly isOnByDefault: Readonly<Record<Preset, boolean>>;
}

function option(name: string, meaning: string, cordon: boolean, posted: boolean, fast: boolean): AsiOption {
  return {
    name,
    meaning,
    key: staticKey(`cordon_${name}`),
    isOnByDefault: { cordon, "rfc-v2": posted, "cordon-fast": fast },
  };
}

/** asi_exit() at the end of KVM_RUN. */
export const exitAfterRun = option("exit_after_run", "the end of KVM_RUN leaves the restricted address space", true, true, false);
export const switchRestricted = option(
  "switch_restricted",
  "a context switch within one mm, or to a kernel thread and back, stays restricted",
  false,
  false,
  true,
);
/** Default of a VM; the monitor may say otherwise for each. */
export const protectUserData = option(
  "protect_user_data",
  "a guest is not entered with the monitor's own data in buffers",
  true,
  true,
  false,
);
export const rsbTaint = option("rsb_taint", "the return stack has a taint of its own, so that it is not filled twice", false, false, true);
export const flushTaints = option(
  "flush_taints",
  "KVM's L1D flush, VERW and the clearing of branch history follow the taints, and tell them",
  false,
  false,
  true,
);
export const domainPerVm = option("domain_per_vm", "each VM has a restricted address space of its own", false, false, true);
export const noflush = option("noflush", "CR3 writes of transitions keep the TLB", false, false, true);
export const ephmap = option("ephmap", "page cache and zeroing go through CPU-local mappings, without leaving", false, false, true);
/** Off in every preset: it saves nothing, and what it protects from others run one thread per core (nosmt). */
export const coreSched = option(
  "core_sched",
  "threads of a core run one domain at a time, and are stopped while the other is unrestricted",
  false,
  false,
  false,
);
export const asiShutdownHook = option("shutdown_hook", "a plain kexec leaves the restricted address space first", true, false, true);

export const ASI_OPTIONS: readonly AsiOption[] = [
  exitAfterRun,
  switchRestricted,
  protectUserData,
  rsbTaint,
  flushTaints,
  domainPerVm,
  noflush,
  ephmap,
  coreSched,
  asiShutdownHook,
];

/** Sets the keys from preset and command line. Boot CPU, before the first domain. */
export function selectAsiOptions(preset: Preset, commandLine: string): void {
  for (const { name, key, isOnByDefault } of ASI_OPTIONS) {
    const chosen = commandLineChoice(commandLine, `cordon.${name}`, ["on", "off"]);
    const isOn = chosen === undefined ? isOnByDefault[preset] : chosen === "on";
    if (isOn) key.set(1);
  }
}
