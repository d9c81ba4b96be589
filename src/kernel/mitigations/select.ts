// What the command line and the CPU select: whether address space isolation is on and what its flushes do; KVM's own L1D flush.
import { assertNever } from "../../hardware/index.ts";
import { asiFeature, doCpuBufferClear, doL1tfFlush, hasIbpb } from "../asi/asi-state.ts";
import { commandLineChoice, commandLineOption } from "../boot/command-line.ts";
import { staticKey } from "../static-key.ts";
import { printk } from "../trace.ts";
import { bootCpuHas, bootCpuHasBug, skipsL1dFlushAtVmEntry } from "./cpu-features.ts";
import { l1tfFlushSetup } from "./l1tf.ts";

// Kernel: enum vmx_l1d_flush_state.
export const VMENTER_L1D_FLUSH_AUTO = 0;
export const VMENTER_L1D_FLUSH_NEVER = 1;
export const VMENTER_L1D_FLUSH_COND = 2;
export const VMENTER_L1D_FLUSH_ALWAYS = 3;
export const VMENTER_L1D_FLUSH_EPT_DISABLED = 4;
export const VMENTER_L1D_FLUSH_NOT_REQUIRED = 5;

const vmxL1dFlushState = staticKey("l1tf_vmx_mitigation");

/** What KVM does about L1TF at VM entry: VMENTER_L1D_FLUSH_* (kernel: l1tf_vmx_mitigation). Set by selectVmxL1dFlush(). */
export function l1tfVmxMitigation(): number {
  return vmxL1dFlushState.value();
}

/** `asi=on|off` (kernel: `asi_check_boottime_disable()`). Before the kernel's page tables are made: Global bits depend on it. */
export function asiCheckBoottimeDisable(commandLine: string): void {
  if (commandLineChoice(commandLine, "asi", ["on", "off"]) !== "on") return;
  asiFeature.set(1);
  printk("ASI enabled through kernel command line.");
}

/** What a transition's flushes do on this CPU (patch 27). After the page allocator is up. */
export function selectAsiFlushes(): void {
  if (bootCpuHas("IBPB")) hasIbpb.set(1);
  const flushesL1d = bootCpuHasBug("L1TF") && l1tfFlushSetup() === 0;
  if (flushesL1d) doL1tfFlush.set(1);
  // FLUSH_CMD overwrites the fill buffers too where MDS and its microcode are there: VERW is for the CPUs that do not flush so.
  const coversBuffers = flushesL1d && bootCpuHas("FLUSH_L1D");
  if (bootCpuHasBug("MDS") && bootCpuHas("MD_CLEAR") && !coversBuffers) doCpuBufferClear.set(1);
}

/** True for `mitigations=off`; other values than Linux accepts print its message. */
function mitigationsOff(commandLine: string): boolean {
  const value = commandLineOption(commandLine, "mitigations");
  if (value === undefined || value === "auto" || value === "auto,nosmt") return false;
  if (value === "off") return true;
  printk(`Unsupported mitigations=${value}, system may still be vulnerable`);
  return false;
}

const L1TF_VALUES = ["off", "flush,nowarn", "flush", "flush,nosmt", "full", "full,force"] as const;
const FLUSH_VALUES = ["auto", "never", "cond", "always"] as const;

/**
 * `kvm-intel.vmentry_l1d_flush=` and `l1tf=` (kernel: `vmx_setup_l1d_flush()`). Called when KVM is initialised. A buffer that cannot be
 * allocated leaves the state NOT_REQUIRED out: KVM then does not flush, and says so.
 */
export function selectVmxL1dFlush(commandLine: string): void {
  vmxL1dFlushState.set(vmxL1dFlushFor(commandLine));
  const state = vmxL1dFlushState.value();
  if ((state === VMENTER_L1D_FLUSH_COND || state === VMENTER_L1D_FLUSH_ALWAYS) && l1tfFlushSetup() !== 0) {
    printk("kvm-intel: no memory for the L1D flush buffer: L1D is not flushed at VM entry");
    vmxL1dFlushState.set(VMENTER_L1D_FLUSH_NEVER);
  }
}

function vmxL1dFlushFor(commandLine: string): number {
  if (!bootCpuHasBug("L1TF") || skipsL1dFlushAtVmEntry()) return VMENTER_L1D_FLUSH_NOT_REQUIRED;
  const l1tf = commandLineChoice(commandLine, "l1tf", L1TF_VALUES) ?? (mitigationsOff(commandLine) ? "off" : "flush");
  const parameter = commandLineChoice(commandLine, "kvm-intel.vmentry_l1d_flush", FLUSH_VALUES) ?? "auto";
  if (l1tf === "full,force") return VMENTER_L1D_FLUSH_ALWAYS;
  switch (parameter) {
    case "never":
      return VMENTER_L1D_FLUSH_NEVER;
    case "cond":
      return VMENTER_L1D_FLUSH_COND;
    case "always":
      return VMENTER_L1D_FLUSH_ALWAYS;
    case "auto":
      return l1tf === "off" ? VMENTER_L1D_FLUSH_NEVER : l1tf === "full" ? VMENTER_L1D_FLUSH_ALWAYS : VMENTER_L1D_FLUSH_COND;
    default:
      return assertNever(parameter);
  }
}
