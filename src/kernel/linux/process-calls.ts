// System calls about the running process: identities, affinity, thread-local storage, speculation.
import { ARCH_GET_FS, ARCH_GET_GS, ARCH_SET_FS, ARCH_SET_GS, EFAULT, EINVAL, EPERM, ESRCH, isErr } from "../../abi/index.ts";
import { addVirt, cpu, NULL } from "../../hardware/index.ts";
import { accessOk } from "../mm/layout.ts";
import { onlineCpus } from "../mm/percpu.ts";
import { schedSetaffinity } from "../sched/affinity.ts";
import { current } from "../sched/current.ts";
import { loadSegmentBases } from "../sched/segment-bases.ts";
import { findTask, initTask, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { storeText } from "./kernel-text-bytes.ts";
import { giveUserBytes, userAddress, withUserBytes } from "./user-arguments.ts";

export function getpid(): number {
  return TaskStruct.at(current()).tgid;
}

export function gettid(): number {
  return TaskStruct.at(current()).pid;
}

/** Kernel: `sys_getppid()`. What the kernel adopted has process 1 for its parent; process 1 has none. */
export function getppid(): number {
  const task = TaskStruct.at(current());
  const parent = task.realParent;
  if (parent !== initTask) return TaskStruct.at(parent).tgid;
  return task.tgid === 1 ? 0 : 1;
}

const UTS_FIELD_BYTES = 65;
const UTS_NAME = ["Linux", "cordon", "6.13.0-cordon", "#1 SMP", "x86_64", "(none)"];

/** Kernel: `sys_newuname()`. */
export function sysUname(to: number): number {
  return giveUserBytes(to, UTS_NAME.length * UTS_FIELD_BYTES, (buffer) => {
    for (const [i, text] of UTS_NAME.entries()) storeText(addVirt(buffer, i * UTS_FIELD_BYTES), text);
  });
}

/** Kernel: `do_arch_prctl_64()`. */
export function sysArchPrctl(code: number, address: number): number {
  const task = TaskStruct.at(current());
  const { thread } = task;
  switch (code) {
    case ARCH_SET_FS:
    case ARCH_SET_GS: {
      if (!accessOk(address, 0)) return EPERM;
      if (code === ARCH_SET_FS) thread.fsbase = address;
      else thread.gsbase = address;
      const flags = localIrqSave();
      loadSegmentBases(task);
      localIrqRestore(flags);
      return 0;
    }
    case ARCH_GET_FS:
    case ARCH_GET_GS: {
      const base = code === ARCH_GET_FS ? thread.fsbase : thread.gsbase;
      return giveUserBytes(address, 8, (buffer) => cpu.storeWord(buffer, base));
    }
    default:
      return EINVAL;
  }
}

/** Kernel: `sys_set_tid_address()`. */
export function sysSetTidAddress(address: number): number {
  const task = TaskStruct.at(current());
  task.clearChildTid = address;
  return task.pid;
}

const MASK_BYTES = 8;

/** Kernel: `sys_sched_setaffinity()`. Another task moves when it next enters the kernel's scheduler. */
export function sysSchedSetaffinity(pid: number, bytes: number, maskAt: number): number {
  if (bytes < 4) return EINVAL;
  const from = userAddress(maskAt);
  if (isErr(from)) return EFAULT;
  const mask = withUserBytes(from, 4, (buffer) => cpu.load(buffer, 4));
  if (isErr(mask)) return mask;
  const task = TaskStruct.at(current());
  if (pid === 0 || pid === task.pid) return schedSetaffinity(mask);
  const allowed = (mask & onlineCpus()) >>> 0;
  if (allowed === 0) return EINVAL;
  tasklistLock();
  const found = findTask(pid);
  if (found !== NULL) TaskStruct.at(found).cpusAllowed = allowed;
  tasklistUnlock();
  return found === NULL ? ESRCH : 0;
}

/** Kernel: `sys_sched_getaffinity()`. @returns bytes written. */
export function sysSchedGetaffinity(pid: number, bytes: number, maskAt: number): number {
  if (bytes < MASK_BYTES || bytes % MASK_BYTES !== 0) return EINVAL;
  tasklistLock();
  const found = pid === 0 ? current() : findTask(pid);
  const mask = found === NULL ? 0 : (TaskStruct.at(found).cpusAllowed & onlineCpus()) >>> 0;
  tasklistUnlock();
  if (found === NULL) return ESRCH;
  const error = giveUserBytes(maskAt, MASK_BYTES, (buffer) => cpu.store64(buffer, mask, 0));
  return error === 0 ? MASK_BYTES : error;
}
