// IBPB between users (arch/x86/mm/tlb.c: cond_mitigation()): what one process taught the predictors must not steer another that asked for
// protection, or any other. Kernel threads in between do not count: their mm is nobody's.
import { cpu, MSR_IA32_PRED_CMD, NULL, PRED_CMD_IBPB, type Ptr, perCpu, word } from "../../hardware/index.ts";
import { switchMmAlwaysIbpb, switchMmCondIbpb } from "../mitigations/feature-keys.ts";
import { TIF_SPEC_IB } from "../mitigations/spec-ctrl.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { Mm } from "./mm-struct.ts";

/**
 * The last mm on this CPU that had a user, and whether that task wanted IBPB (kernel: cpu_tlbstate.last_user_mm_spec). By the number that is
 * never used twice: an mm at the address of one that was freed is another user.
 */
export const lastUserMmSpec = perCpu("cpu_tlbstate.last_user_mm_spec", word);
/** Kernel: LAST_USER_MM_IBPB. */
const WANTS_IBPB = 1;
const CTX_SHIFT = 2;

/** `next` is about to run on an mm that is not the one it follows; NULL: no task. Interrupts off, before CR3 changes. */
export function condMitigation(next: Ptr<"task_struct">): void {
  const isConditional = switchMmCondIbpb.isEnabled();
  const isAlways = switchMmAlwaysIbpb.isEnabled();
  if ((!isConditional && !isAlways) || next === NULL) return;
  const task = TaskStruct.at(next);
  const { mm } = task;
  if (mm === NULL) return;
  const before = lastUserMmSpec.get();
  const after = Mm.at(mm).context.ctxId * CTX_SHIFT + ((task.thread.specFlags & TIF_SPEC_IB) !== 0 ? WANTS_IBPB : 0);
  if (before === after) return;
  const isOther = Math.floor(before / CTX_SHIFT) !== Math.floor(after / CTX_SHIFT);
  // Conditional: the same mm with another wish counts too, as in the kernel, whose word is compared whole.
  const isAsked = (before % CTX_SHIFT) + (after % CTX_SHIFT) > 0;
  if (isAlways ? isOther : isAsked) cpu.writeMsr(MSR_IA32_PRED_CMD, PRED_CMD_IBPB, 0);
  lastUserMmSpec.set(after);
}
