// IA32_SPEC_CTRL: what holds for all of the kernel, what a task asked for (by prctl), and what this CPU's register holds.
import { cpu, MSR_IA32_SPEC_CTRL, perCpuInteger, SPEC_CTRL_SSBD, SPEC_CTRL_STIBP } from "../../hardware/index.ts";
import { bootCpuHas, isSmtActive, isSmtPossible } from "./cpu-features.ts";
import { kernelIbrs, switchToCondStibp, x86SpecCtrlBase } from "./feature-keys.ts";
import { mitigation } from "./selection.ts";

/**
 * What the register holds while this CPU runs the kernel (kernel: x86_spec_ctrl_current). Entry code reads it: with KERNEL_IBRS an entry
 * writes it, and an exit to user mode writes it without IBRS.
 */
export const x86SpecCtrlCurrent = perCpuInteger("x86_spec_ctrl_current", 4);

// thread.specFlags: what a task asked for (kernel: TIF_SSBD, TIF_SPEC_IB, TIF_SPEC_L1D_FLUSH, and task->atomic_flags).
export const TIF_SSBD = 1 << 0;
export const TIF_SPEC_IB = 1 << 1;
export const TIF_SPEC_L1D_FLUSH = 1 << 2;
export const PFA_SPEC_SSB_FORCE_DISABLE = 1 << 3;
export const PFA_SPEC_IB_FORCE_DISABLE = 1 << 4;

/** Sets this CPU's register as the kernel wants it: at boot, when a CPU comes online, after a suspend. Interrupts off. */
export function specCtrlInitCpu(): void {
  if (!bootCpuHas("IBRS")) return;
  const base = x86SpecCtrlBase.value();
  x86SpecCtrlCurrent.set(base);
  if (base !== 0) cpu.writeMsr(MSR_IA32_SPEC_CTRL, base, 0);
}

/** Tasks can differ in it. Patched at boot. */
export function hasTaskSpecCtrl(): boolean {
  return mitigation("ssb") === "PRCTL" || (switchToCondStibp.isEnabled() && isSmtPossible());
}

/** A guest's value must be written before an entry, or the host's after an exit: some bit may be set in the host's. Patched at boot. */
export function hostSpecCtrlMatters(): boolean {
  return x86SpecCtrlBase.value() !== 0 || hasTaskSpecCtrl();
}

/** Bits that `flags` of a task add to the base. */
function taskBits(flags: number): number {
  let bits = 0;
  if ((flags & TIF_SSBD) !== 0) bits |= SPEC_CTRL_SSBD;
  // Between threads of a core only: with one thread there is no neighbour.
  if ((flags & TIF_SPEC_IB) !== 0 && switchToCondStibp.isEnabled() && isSmtActive()) bits |= SPEC_CTRL_STIBP;
  return bits;
}

/**
 * The register follows the task that runs next (kernel: `__speculation_ctrl_update()`, in `__switch_to_xtra()`). With KERNEL_IBRS the
 * return to user mode writes it anyway, so only the variable changes here (kernel: `update_spec_ctrl_cond()`).
 */
export function speculationCtrlUpdate(prevFlags: number, nextFlags: number): void {
  if (((prevFlags ^ nextFlags) & (TIF_SSBD | TIF_SPEC_IB)) === 0) return;
  const value = x86SpecCtrlBase.value() | taskBits(nextFlags);
  if (x86SpecCtrlCurrent.get() === value) return;
  x86SpecCtrlCurrent.set(value);
  if (!kernelIbrs.isEnabled()) cpu.writeMsr(MSR_IA32_SPEC_CTRL, value, 0);
}
