// SMT turned off at boot: by `nosmt`, or by a mitigation that is complete only with it. The second thread of every core stays with the
// firmware, so that nothing runs beside what a core's buffers and caches hold.
import { isSmtPossible } from "./cpu-features.ts";
import { isSelected } from "./selection.ts";

/**
 * May CPU `id` be started (kernel: `cpu_bootable()`)? Linux starts siblings once all the same, for CR4.MCE; here what arrives at a CPU that
 * was never started stops with the firmware.
 */
export function cpuBootable(id: number): boolean {
  const isPrimary = !isSmtPossible() || (id & 1) === 0;
  return isPrimary || !isSelected("SMT_DISABLED");
}

/** Kernel: `/sys/devices/system/cpu/smt/control`. Siblings that were taken offline one by one do not count. */
export function smtControlText(): string {
  if (!isSmtPossible()) return "notsupported\n";
  if (isSelected("SMT_FORCE_DISABLED")) return "forceoff\n";
  return isSelected("SMT_DISABLED") ? "off\n" : "on\n";
}
