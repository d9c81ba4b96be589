// VMSCAPE: what a guest trained may steer its monitor, which runs in the same mm, so that no switch of mm comes between. An IBPB before the
// first return to user mode after a VM exit stops it (kernel: x86_ibpb_exit_to_user).
import { cpu, MSR_IA32_PRED_CMD, PRED_CMD_IBPB, perCpuInteger } from "../../hardware/index.ts";
import { ibpbExitToUser } from "./feature-keys.ts";

/** A guest ran on this CPU since the last IBPB on the way to user mode (kernel: x86_ibpb_exit_to_user). */
export const ibpbOwedToUser = perCpuInteger("x86_ibpb_exit_to_user", 1);

/** After every VM exit, before the task can move to another CPU. */
export function vmscapeAfterVmExit(): void {
  if (ibpbExitToUser.isEnabled()) ibpbOwedToUser.set(1);
}

/** An IBPB was issued for another reason: none is owed any more. */
export function vmscapeBarrierIssued(): void {
  if (ibpbExitToUser.isEnabled()) ibpbOwedToUser.set(0);
}

/** On every way to user mode. Interrupts off. */
export function vmscapeExitToUser(): void {
  if (!ibpbExitToUser.isEnabled() || ibpbOwedToUser.get() === 0) return;
  cpu.writeMsr(MSR_IA32_PRED_CMD, PRED_CMD_IBPB, 0);
  ibpbOwedToUser.set(0);
}
