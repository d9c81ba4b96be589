// KVM's own L1D flush before VM entry, against L1TF: never, always, or on condition that a secret may have come into L1D since the
// last entry. With ASI the data flush of asi_enter() does the same where it is owed; unless option flush_taints joins them, the two do
// not know of each other (spec 2.12).
import { EINVAL, type Errno } from "../../abi/index.ts";
import { addVirt, assertNever, count, NULL, u8 } from "../../hardware/index.ts";
import { flushTaints } from "../asi/asi-options.ts";
import { asiTaints } from "../asi/asi-state.ts";
import { ASI_TAINT_KERNEL_DATA, ASI_TAINT_OTHER_MM_DATA, ASI_TAINT_USER_DATA, Asi, AsiTaintPolicy } from "../asi/asi-struct.ts";
import { bootCommandLine, commandLineChoice } from "../boot/command-line.ts";
import { bootCpuHasBug, isSmtActive, skipsL1dFlushAtVmEntry } from "../mitigations/cpu-features.ts";
import { l1tfFlush, l1tfFlushSetup } from "../mitigations/l1tf.ts";
import { mitigation } from "../mitigations/selection.ts";
import {
  VMENTER_L1D_FLUSH_ALWAYS,
  VMENTER_L1D_FLUSH_AUTO,
  VMENTER_L1D_FLUSH_COND,
  VMENTER_L1D_FLUSH_NEVER,
  VMENTER_L1D_FLUSH_NOT_REQUIRED,
} from "../mitigations/vulnerabilities.ts";
import { staticBytes } from "../static-data.ts";
import { printk, TRACE_L1D_FLUSH, trace } from "../trace.ts";
import { Kvm, KvmVcpu, kvmCpuL1tfFlushL1d, vmxL1dMayFlush } from "./kvm-struct.ts";

/**
 * What is done at VM entry: VMENTER_L1D_FLUSH_* (kernel: l1tf_vmx_mitigation). Not a static key: the parameter can be written while VMs
 * run.
 */
const l1tfVmxMitigationState = staticBytes("l1tf_vmx_mitigation", 1, 1);

/** Kernel: l1tf_vmx_mitigation. AUTO until the hypervisor is loaded. */
export function l1tfVmxMitigation(): number {
  return u8.get(l1tfVmxMitigationState);
}

export const VMENTRY_L1D_FLUSH_VALUES = ["auto", "never", "cond", "always"] as const;
export type VmentryL1dFlush = (typeof VMENTRY_L1D_FLUSH_VALUES)[number];

/** Data that a flush here takes out of the way of the guest: what it leaves in the taints is the guest's own. */
const HOST_DATA = ASI_TAINT_KERNEL_DATA | ASI_TAINT_USER_DATA | ASI_TAINT_OTHER_MM_DATA;

/**
 * Kernel: `vmx_l1d_flush()`. After asi_enter(). The flags are cleared when they are looked at. With flush_taints the taints decide in a
 * VM that has a domain: they say at least as well what came into L1D as the flags of mode `cond` do, and asi_enter() has flushed for
 * them already; and a flush that is done all the same (mode `always`) is told to them.
 */
export function vmxL1dFlush(vcpu: KvmVcpu): void {
  const mode = l1tfVmxMitigation();
  if (mode !== VMENTER_L1D_FLUSH_COND && mode !== VMENTER_L1D_FLUSH_ALWAYS) return;
  const { asi } = Kvm.at(vcpu.kvm);
  const followsTaints = flushTaints.key.isEnabled() && asi !== NULL;
  if (mode === VMENTER_L1D_FLUSH_COND) {
    if (followsTaints && (asiTaints.get() & AsiTaintPolicy.at(Asi.at(asi).policy).protectData) === 0) return;
    const isOwed = vcpu.l1tfFlushL1d;
    vcpu.l1tfFlushL1d = false;
    const isOwedByCpu = kvmCpuL1tfFlushL1d.get() !== 0;
    kvmCpuL1tfFlushL1d.set(0);
    if (!isOwed && !isOwedByCpu) return;
  }
  count(addVirt(vcpu.address, KvmVcpu.offset.l1dFlushes));
  l1tfFlush();
  if (followsTaints) asiTaints.and(~HOST_DATA);
  trace(TRACE_L1D_FLUSH, mode);
}

/** A host interrupt may bring secrets into L1D: every one calls this (kernel: `kvm_set_cpu_l1tf_flush_l1d()`). */
export function kvmSetCpuL1tfFlushL1d(): void {
  if (vmxL1dMayFlush.isEnabled()) kvmCpuL1tfFlushL1d.set(1);
}

/** What the parameter and `l1tf=` come to, on this CPU. */
function stateFor(parameter: VmentryL1dFlush): number {
  if (!bootCpuHasBug("L1TF") || skipsL1dFlushAtVmEntry()) return VMENTER_L1D_FLUSH_NOT_REQUIRED;
  const l1tf = mitigation("l1tf");
  if (l1tf === "FULL_FORCE") return VMENTER_L1D_FLUSH_ALWAYS;
  switch (parameter) {
    case "never":
      return VMENTER_L1D_FLUSH_NEVER;
    case "cond":
      return VMENTER_L1D_FLUSH_COND;
    case "always":
      return VMENTER_L1D_FLUSH_ALWAYS;
    case "auto":
      return l1tf === "OFF" ? VMENTER_L1D_FLUSH_NEVER : l1tf === "FULL" ? VMENTER_L1D_FLUSH_ALWAYS : VMENTER_L1D_FLUSH_COND;
    default:
      return assertNever(parameter);
  }
}

/** Kernel: `vmx_setup_l1d_flush()`. A buffer that cannot be allocated leaves L1D unflushed, and says so. */
export function vmxSetupL1dFlush(parameter: VmentryL1dFlush): void {
  const wanted = stateFor(parameter);
  const flushes = wanted === VMENTER_L1D_FLUSH_COND || wanted === VMENTER_L1D_FLUSH_ALWAYS;
  if (flushes && l1tfFlushSetup() !== 0) {
    printk("kvm-intel: no memory for the L1D flush buffer: L1D is not flushed at VM entry");
    u8.set(l1tfVmxMitigationState, VMENTER_L1D_FLUSH_NEVER);
    return;
  }
  u8.set(l1tfVmxMitigationState, wanted);
}

/** The hypervisor is loaded: `kvm-intel.vmentry_l1d_flush=` takes effect (kernel: the end of `vmx_init()`). */
export function vmxInitL1dFlush(): void {
  // Patched in where a flush can ever be asked for, by the parameter at run time too.
  if (bootCpuHasBug("L1TF") && !skipsL1dFlushAtVmEntry()) vmxL1dMayFlush.set(1);
  vmxSetupL1dFlush(commandLineChoice(bootCommandLine(), "kvm-intel.vmentry_l1d_flush", VMENTRY_L1D_FLUSH_VALUES) ?? "auto");
}

/**
 * The parameter is written while the system runs: /sys/module/kvm_intel/parameters/vmentry_l1d_flush (kernel: `vmentry_l1d_flush_set()`).
 * @returns 0; EINVAL: not one of the values. Where the flush is not required the value is accepted and nothing changes.
 */
export function vmentryL1dFlushSet(text: string): 0 | Errno {
  const parameter = VMENTRY_L1D_FLUSH_VALUES.find((known) => known === text);
  if (parameter === undefined) return EINVAL;
  if (bootCpuHasBug("L1TF")) vmxSetupL1dFlush(parameter);
  return 0;
}

/** What reading the parameter gives (kernel: `vmentry_l1d_flush_get()`). */
export function vmentryL1dFlushGet(): string {
  const names = new Map([
    [VMENTER_L1D_FLUSH_AUTO, "auto"],
    [VMENTER_L1D_FLUSH_NEVER, "never"],
    [VMENTER_L1D_FLUSH_COND, "cond"],
    [VMENTER_L1D_FLUSH_ALWAYS, "always"],
    [VMENTER_L1D_FLUSH_NOT_REQUIRED, "not required"],
  ]);
  return names.get(l1tfVmxMitigation()) ?? "EPT disabled";
}

const L1TF_MSG_SMT =
  "L1TF CPU bug present and SMT on, data leak possible. See CVE-2018-3646 and https://www.kernel.org/doc/html/latest/admin-guide/hw-vuln/l1tf.html for details.";
const L1TF_MSG_L1D =
  "L1TF CPU bug present and virtualization mitigation disabled, data leak possible. See CVE-2018-3646 and https://www.kernel.org/doc/html/latest/admin-guide/hw-vuln/l1tf.html for details.";
const warnedSmt = staticBytes("l1tf_warned_smt", 1, 1);
const warnedL1d = staticBytes("l1tf_warned_l1d", 1, 1);

function warnOnce(flag: typeof warnedSmt, text: string): void {
  if (u8.get(flag) !== 0) return;
  u8.set(flag, 1);
  printk(text);
}

/** A VM is made: what L1TF leaves open is told once (kernel: `vmx_vm_init()`). */
export function l1tfWarnAtVmInit(): void {
  if (!bootCpuHasBug("L1TF")) return;
  switch (mitigation("l1tf")) {
    case "OFF":
    case "FLUSH_NOWARN":
    case "FULL_FORCE":
      return;
    case "FLUSH":
    case "FLUSH_NOSMT":
    case "FULL":
      if (isSmtActive()) warnOnce(warnedSmt, L1TF_MSG_SMT);
      if (l1tfVmxMitigation() === VMENTER_L1D_FLUSH_NEVER) warnOnce(warnedL1d, L1TF_MSG_L1D);
  }
}
