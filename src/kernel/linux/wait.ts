// Waiting for children (kernel/exit.c: wait4()).
import { ECHILD, EFAULT, EINVAL, isErr, WCONTINUED, WNOHANG, WUNTRACED } from "../../abi/index.ts";
import { cpu, NULL, type Ptr } from "../../hardware/index.ts";
import { copyToUser } from "../mm/uaccess.ts";
import { current } from "../sched/current.ts";
import { SignalStruct } from "../sched/signal-struct.ts";
import { allTasks, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { EXIT_DEAD, EXIT_ZOMBIE, TASK_INTERRUPTIBLE, TaskStruct } from "../sched/task-struct.ts";
import { finishWait, prepareToWait } from "../sched/wait-queue.ts";
import { clearUser } from "./devices.ts";
import { finishRelease, isGroupDead, unhash } from "./exit.ts";
import { kernelBuffer } from "./kernel-buffer.ts";
import { ERESTARTSYS, SLEEP } from "./syscall-results.ts";
import { signalPending } from "./syscall-sleep.ts";
import { userAddress } from "./user-arguments.ts";

/** struct rusage. */
const RUSAGE_BYTES = 144;

interface Search {
  /** The zombie that was taken out, or NULL. */
  readonly zombie: Ptr<"task_struct">;
  readonly hasChildren: boolean;
}

/** Looks for a child that ended, and takes it. Under tasklist_lock. */
function search(leader: Ptr<"task_struct">, pid: number): Search {
  let hasChildren = false;
  for (const child of allTasks()) {
    const view = TaskStruct.at(child);
    if (view.realParent !== leader || view.groupLeader !== child || view.exitState === EXIT_DEAD) continue;
    // No process groups: 0 and less than -1 mean any child, as -1 does.
    if (pid > 0 && view.pid !== pid) continue;
    hasChildren = true;
    if (view.exitState !== EXIT_ZOMBIE || !isGroupDead(child)) continue;
    view.exitState = EXIT_DEAD;
    unhash(child);
    return { zombie: child, hasChildren };
  }
  return { zombie: NULL, hasChildren };
}

/** Kernel: `kernel_wait4()`. @returns the child's pid; 0: WNOHANG, none has ended; ECHILD; EFAULT; EINVAL; ERESTARTSYS; SLEEP. */
export function doWait4(pid: number, statusAt: number, options: number, rusageAt: number): number {
  if ((options & ~(WNOHANG | WUNTRACED | WCONTINUED)) !== 0) return EINVAL;
  const task = TaskStruct.at(current());
  const leader = task.groupLeader;
  tasklistLock();
  const { zombie, hasChildren } = search(leader, pid);
  const mayWait = zombie === NULL && hasChildren && (options & WNOHANG) === 0;
  // Under the lock that the child's end takes: it cannot be missed.
  if (mayWait) prepareToWait(SignalStruct.at(task.signal).waitChild, TASK_INTERRUPTIBLE);
  tasklistUnlock();
  if (zombie !== NULL) return reap(zombie, statusAt, rusageAt);
  if (!hasChildren) return ECHILD;
  if (!mayWait) return 0;
  if (!signalPending()) return SLEEP;
  finishWait();
  return ERESTARTSYS;
}

/** Kernel: `wait_task_zombie()`. */
function reap(zombie: Ptr<"task_struct">, statusAt: number, rusageAt: number): number {
  const { pid, exitCode } = TaskStruct.at(zombie);
  finishRelease(zombie);
  if (rusageAt !== 0) {
    const rusage = userAddress(rusageAt);
    if (isErr(rusage) || clearUser(rusage, RUSAGE_BYTES) !== 0) return EFAULT;
  }
  if (statusAt === 0) return pid;
  const to = userAddress(statusAt);
  if (isErr(to)) return to;
  return kernelBuffer(4, (buffer) => {
    cpu.store(buffer, 4, exitCode);
    return copyToUser(to, buffer, 4) === 0 ? pid : EFAULT;
  });
}
