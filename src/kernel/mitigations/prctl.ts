// prctl(PR_SET_SPECULATION_CTRL), by which a task asks to be protected where the kernel does not protect everybody: against speculative
// store bypass, and against what others trained (IBPB at switches, STIBP between siblings).
import { EINVAL, ENODEV, ENXIO, EPERM, ERANGE } from "../../abi/index.ts";
import { cpu, MSR_IA32_PRED_CMD, PRED_CMD_IBPB } from "../../hardware/index.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { bootCpuHas, bootCpuHasBug } from "./cpu-features.ts";
import { mitigation } from "./selection.ts";
import { PFA_SPEC_IB_FORCE_DISABLE, PFA_SPEC_SSB_FORCE_DISABLE, speculationCtrlUpdate, TIF_SPEC_IB, TIF_SSBD } from "./spec-ctrl.ts";

// include/uapi/linux/prctl.h
export const PR_GET_SPECULATION_CTRL = 52;
export const PR_SET_SPECULATION_CTRL = 53;
export const PR_SPEC_STORE_BYPASS = 0;
export const PR_SPEC_INDIRECT_BRANCH = 1;
export const PR_SPEC_NOT_AFFECTED = 0;
export const PR_SPEC_PRCTL = 1 << 0;
export const PR_SPEC_ENABLE = 1 << 1;
export const PR_SPEC_DISABLE = 1 << 2;
export const PR_SPEC_FORCE_DISABLE = 1 << 3;

interface Control {
  readonly flag: number;
  readonly force: number;
}
const STORE_BYPASS: Control = { flag: TIF_SSBD, force: PFA_SPEC_SSB_FORCE_DISABLE };
const INDIRECT_BRANCH: Control = { flag: TIF_SPEC_IB, force: PFA_SPEC_IB_FORCE_DISABLE };

function threadFlags(): number {
  return TaskStruct.at(current()).thread.specFlags;
}

function byPrctl({ flag, force }: Control): number {
  const flags = threadFlags();
  if ((flags & force) !== 0) return PR_SPEC_PRCTL | PR_SPEC_FORCE_DISABLE;
  return (flags & flag) !== 0 ? PR_SPEC_PRCTL | PR_SPEC_DISABLE : PR_SPEC_PRCTL | PR_SPEC_ENABLE;
}

/** Kernel: `ssb_prctl_get()`. */
function ssbGet(): number {
  if (!bootCpuHasBug("SPEC_STORE_BYPASS")) return PR_SPEC_NOT_AFFECTED;
  const choice = mitigation("ssb");
  if (choice === "DISABLE") return PR_SPEC_DISABLE;
  return choice === "NONE" ? PR_SPEC_ENABLE : byPrctl(STORE_BYPASS);
}

/** Kernel: `ib_prctl_get()`. */
function ibGet(): number {
  const ibpb = mitigation("spectre_v2_user_ibpb");
  const stibp = mitigation("spectre_v2_user_stibp");
  if (ibpb === "NONE" && stibp === "NONE") return PR_SPEC_ENABLE;
  if (ibpb === "PRCTL" || stibp === "PRCTL") return byPrctl(INDIRECT_BRANCH);
  return PR_SPEC_DISABLE;
}

/** Sets or clears the running task's flag, and its CPU's register with it. @returns 0; EPERM; ERANGE. */
function taskSet({ flag, force }: Control, wanted: number): number {
  const task = TaskStruct.at(current());
  const before = task.thread.specFlags;
  let after = before;
  switch (wanted) {
    case PR_SPEC_ENABLE:
      if ((before & force) !== 0) return EPERM;
      after &= ~flag;
      break;
    case PR_SPEC_DISABLE:
      after |= flag;
      break;
    case PR_SPEC_FORCE_DISABLE:
      after |= flag | force;
      break;
    default:
      return ERANGE;
  }
  task.thread.specFlags = after >>> 0;
  const flags = localIrqSave();
  // What trained this CPU before belongs to somebody from whom the task wants to be kept apart.
  if (flag === TIF_SPEC_IB && wanted !== PR_SPEC_ENABLE && bootCpuHas("IBPB")) cpu.writeMsr(MSR_IA32_PRED_CMD, PRED_CMD_IBPB, 0);
  speculationCtrlUpdate(before, after);
  localIrqRestore(flags);
  return 0;
}

/** Kernel: `ssb_prctl_set()`. */
function ssbSet(wanted: number): number {
  const choice = mitigation("ssb");
  return choice === "PRCTL" || choice === "SECCOMP" ? taskSet(STORE_BYPASS, wanted) : ENXIO;
}

/** Kernel: `ib_prctl_set()`. */
function ibSet(wanted: number): number {
  const ibpb = mitigation("spectre_v2_user_ibpb");
  const stibp = mitigation("spectre_v2_user_stibp");
  const isConditional = ibpb === "PRCTL" || stibp === "PRCTL";
  if (wanted === PR_SPEC_ENABLE) {
    if (ibpb === "NONE" && stibp === "NONE") return 0;
    return isConditional ? taskSet(INDIRECT_BRANCH, wanted) : EPERM;
  }
  if (wanted !== PR_SPEC_DISABLE && wanted !== PR_SPEC_FORCE_DISABLE) return ERANGE;
  if (ibpb === "NONE" && stibp === "NONE") return EPERM;
  return isConditional ? taskSet(INDIRECT_BRANCH, wanted) : 0;
}

/** prctl(2): what concerns speculation; everything else is refused (kernel: `sys_prctl()`). */
export function sysPrctl(option: number, which: number, wanted: number, arg4: number, arg5: number): number {
  if (option === PR_GET_SPECULATION_CTRL) {
    if (wanted !== 0 || arg4 !== 0 || arg5 !== 0) return EINVAL;
    return which === PR_SPEC_STORE_BYPASS ? ssbGet() : which === PR_SPEC_INDIRECT_BRANCH ? ibGet() : ENODEV;
  }
  if (option !== PR_SET_SPECULATION_CTRL || arg4 !== 0 || arg5 !== 0) return EINVAL;
  return which === PR_SPEC_STORE_BYPASS ? ssbSet(wanted) : which === PR_SPEC_INDIRECT_BRANCH ? ibSet(wanted) : ENODEV;
}
