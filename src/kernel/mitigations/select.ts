// What the command line and the CPU select, put into force: ASI on or off, page-table isolation, everything that cpu_select_mitigations()
// chooses, and KVM's own L1D flush.
import {
  cpu,
  MSR_IA32_TSX_CTRL,
  SPEC_CTRL_IBRS,
  SPEC_CTRL_SSBD,
  SPEC_CTRL_STIBP,
  TSX_CTRL_CPUID_CLEAR,
  TSX_CTRL_RTM_DISABLE,
} from "../../hardware/index.ts";
import { flushTaints } from "../asi/asi-options.ts";
import { asiFeature, asiRfcV2, doBranchHistoryClear, doCpuBufferClear, doL1tfFlush, hasIbpb } from "../asi/asi-state.ts";
import { asiUserspace } from "../asi/asi-user.ts";
import { siblingsSpecCtrl } from "../asi/siblings.ts";
import { commandLineChoice } from "../boot/command-line.ts";
import { rsbVmexit, switchVcpuIbpb } from "../kvm/kvm-struct.ts";
import { printk } from "../trace.ts";
import { bootCpuHas, bootCpuHasBug, bootCpuHasCapability, isSmtPossible } from "./cpu-features.ts";
import {
  clearBhbLoop,
  clearBhbVmexit,
  clearCpuBuf,
  clearCpuBufVm,
  cpuBufIdleClear,
  fenceSwapgsKernel,
  fenceSwapgsUser,
  ibpbExitToUser,
  kernelIbrs,
  ptiFeature,
  rsbCtxsw,
  rsbVmexitLite,
  switchMmAlwaysIbpb,
  switchMmCondIbpb,
  switchToCondStibp,
  useIbrsFw,
  x86SpecCtrlBase,
} from "./feature-keys.ts";
import { l1tfFlushSetup } from "./l1tf.ts";
import { CORDON_CONFIG } from "./mitigation-config.ts";
import { parseMitigations } from "./mitigation-options.ts";
import { selectMitigations, selectsPti } from "./select-mitigations.ts";
import type { CpuFacts, SelectionInput } from "./selecting.ts";
import { isSelected, keepSelection, type SelectedFeature, type Selection } from "./selection.ts";
import { specCtrlInitCpu } from "./spec-ctrl.ts";

/** The boot CPU, for the selection. */
export function bootCpuFacts(): CpuFacts {
  return { has: bootCpuHas, hasBug: bootCpuHasBug, hasCapability: bootCpuHasCapability, isSmtPossible: isSmtPossible() };
}

/** `asi=on|off` (kernel: `asi_check_boottime_disable()`). Before the kernel's page tables are made: Global bits depend on it. */
export function asiCheckBoottimeDisable(commandLine: string): void {
  if (commandLineChoice(commandLine, "asi", ["on", "off"]) !== "on") return;
  asiFeature.set(1);
  printk("ASI enabled through kernel command line.");
}

function selectionInput(commandLine: string): SelectionInput {
  return { cpu: bootCpuFacts(), config: CORDON_CONFIG, commandLine, isAsi: asiFeature.isEnabled(), say: printk };
}

/** `pti=`, `nopti` (kernel: `pti_check_boottime_disable(asi_enabled)`). After the check of ASI, before the page tables (spec 2.17). */
export function ptiCheckBoottimeDisable(commandLine: string): void {
  if (!selectsPti(selectionInput(commandLine))) return;
  ptiFeature.set(1);
  printk("Kernel/User page tables isolation: enabled");
}

/** What a transition's flushes do on this CPU (patch 27). After the page allocator is up, and after cpuSelectMitigations(). */
export function selectAsiFlushes(): void {
  if (bootCpuHas("IBPB")) hasIbpb.set(1);
  const flushesL1d = bootCpuHasBug("L1TF") && l1tfFlushSetup() === 0;
  if (flushesL1d) doL1tfFlush.set(1);
  // FLUSH_CMD overwrites the fill buffers too where MDS and its microcode are there: VERW is for the CPUs that do not flush so.
  const coversBuffers = flushesL1d && bootCpuHas("FLUSH_L1D");
  const canSampleBuffers = bootCpuHasBug("MDS") || (bootCpuHasBug("TAA") && bootCpuHas("RTM") && !isSelected("TSX_DISABLED"));
  // As posted a data flush is the L1D flush alone.
  if (canSampleBuffers && bootCpuHas("MD_CLEAR") && !coversBuffers && !asiRfcV2.isEnabled()) doCpuBufferClear.set(1);
  if (asiFeature.isEnabled() && flushTaints.key.isEnabled()) followTaints();
}

/**
 * Option flush_taints: what is cleared at every entry or exit is cleared where a transition owes it instead. User code and guests run in
 * domains then, and what a restricted kernel leaves behind is nobody's secret; the taints know the rest. A VM without a domain, or
 * processes without the class for them, are protected as before.
 */
function followTaints(): void {
  if (isSelected("CLEAR_BHB_VMEXIT")) doBranchHistoryClear.set(1);
  clearBhbVmexit.set(0);
  if (!asiUserspace.isEnabled()) return;
  clearCpuBuf.set(0);
  clearBhbLoop.set(0);
}

const KEYS_OF_FEATURES = {
  KERNEL_IBRS: kernelIbrs,
  RSB_CTXSW: rsbCtxsw,
  RSB_VMEXIT: rsbVmexit,
  RSB_VMEXIT_LITE: rsbVmexitLite,
  USE_IBRS_FW: useIbrsFw,
  CLEAR_BHB_LOOP: clearBhbLoop,
  CLEAR_BHB_VMEXIT: clearBhbVmexit,
  CLEAR_CPU_BUF: clearCpuBuf,
  CPU_BUF_IDLE_CLEAR: cpuBufIdleClear,
  FENCE_SWAPGS_USER: fenceSwapgsUser,
  FENCE_SWAPGS_KERNEL: fenceSwapgsKernel,
  SWITCH_MM_COND_IBPB: switchMmCondIbpb,
  SWITCH_MM_ALWAYS_IBPB: switchMmAlwaysIbpb,
  SWITCH_VCPU_IBPB: switchVcpuIbpb,
  IBPB_EXIT_TO_USER: ibpbExitToUser,
} as const satisfies Partial<Record<SelectedFeature, unknown>>;

/** Chooses all mitigations and puts them into force (kernel: `cpu_select_mitigations()`). Boot CPU, before the others start. */
export function cpuSelectMitigations(commandLine: string): void {
  const input = selectionInput(commandLine);
  tellVectors(input);
  const selection = selectMitigations(input);
  keepSelection(selection);
  for (const [name, key] of Object.entries(KEYS_OF_FEATURES)) {
    if (selection.features.has(name as SelectedFeature)) key.set(1); // a key of the table above
  }
  // By the selection, not by the key: option flush_taints takes the key back, and a replay of this path would find it so.
  if (selection.features.has("CLEAR_CPU_BUF")) clearCpuBufVm.set(1);
  x86SpecCtrlBase.set(specCtrlBase(selection) | siblingsSpecCtrl());
  const stibp = selection.choices.spectre_v2_user_stibp;
  if (stibp === "PRCTL" || stibp === "SECCOMP") switchToCondStibp.set(1);
  mitigationsInitCpu();
}

function tellVectors({ commandLine, config, say }: SelectionInput): void {
  const { vectors, smt } = parseMitigations(commandLine, config, () => undefined);
  const names: readonly (readonly [string, boolean])[] = [
    ["user_kernel", vectors.userKernel],
    ["user_user", vectors.userUser],
    ["guest_host", vectors.guestHost],
    ["guest_guest", vectors.guestGuest],
  ];
  const on = names.filter(([, isOn]) => isOn).map(([name]) => `${name}, `);
  say(`mitigations: Enabled attack vectors: ${on.join("")}SMT mitigations: ${smt}`);
}

/** Kernel: what the apply steps OR into x86_spec_ctrl_base. */
function specCtrlBase({ choices, features }: Selection): number {
  let base = 0;
  if (features.has("SPEC_CTRL_IBRS_ALWAYS") || features.has("KERNEL_IBRS")) base |= SPEC_CTRL_IBRS;
  const stibp = choices.spectre_v2_user_stibp;
  if (stibp === "STRICT" || stibp === "STRICT_PREFERRED") base |= SPEC_CTRL_STIBP;
  if (choices.ssb === "DISABLE") base |= SPEC_CTRL_SSBD;
  return base;
}

/** What each CPU needs when it starts (kernel: the end of `identify_secondary_cpu()`, `x86_spec_ctrl_setup_ap()`, `tsx_ap_init()`). */
export function mitigationsInitCpu(): void {
  specCtrlInitCpu();
  if (isSelected("TSX_DISABLED")) cpu.writeMsr(MSR_IA32_TSX_CTRL, TSX_CTRL_RTM_DISABLE | TSX_CTRL_CPUID_CLEAR, 0);
}
