// System calls on signals (kernel/signal.c: the SYSCALL_DEFINEs).
import {
  EAGAIN,
  EINVAL,
  ENOMEM,
  EPERM,
  ESRCH,
  KERNEL_SIGACTION_BYTES,
  MINSIGSTKSZ,
  NSIG,
  SI_TKILL,
  SI_USER,
  SIG_BLOCK,
  SIG_SETMASK,
  SIG_UNBLOCK,
  SIGKILL,
  SIGSET_BYTES,
  SIGSTOP,
  SS_DISABLE,
  SS_ONSTACK,
} from "../../abi/index.ts";
import { addVirt, cpu, NULL, type VirtAddr } from "../../hardware/index.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { current } from "../sched/current.ts";
import { SignalStruct } from "../sched/signal-struct.ts";
import { allTasks, findTask, putTask, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { PF_KTHREAD, TASK_INTERRUPTIBLE, TASK_RUNNING, TaskStruct } from "../sched/task-struct.ts";
import { actionOf, dropIgnored, sendSignalToThread, sendToGroup, setBlocked } from "./signal.ts";
import { ERESTARTNOHAND, SLEEP } from "./syscall-results.ts";
import { signalPending } from "./syscall-sleep.ts";
import { giveUserBytes, withUserBytes } from "./user-arguments.ts";

interface NewAction {
  readonly handler: number;
  readonly flags: number;
  readonly restorer: number;
  readonly maskLow: number;
  readonly maskHigh: number;
}

/** Kernel: `do_sigaction()`. */
export function sysRtSigaction(signal: number, newAt: number, oldAt: number, setBytes: number): number {
  if (setBytes !== SIGSET_BYTES || signal < 1 || signal > NSIG) return EINVAL;
  if (newAt !== 0 && (signal === SIGKILL || signal === SIGSTOP)) return EINVAL;
  const wanted = newAt === 0 ? undefined : readAction(newAt);
  if (typeof wanted === "number") return wanted;
  const task = TaskStruct.at(current());
  tasklistLock();
  const action = actionOf(task, signal);
  const { handler, flags, restorer, maskLow, maskHigh } = action;
  if (wanted !== undefined) {
    action.handler = wanted.handler as VirtAddr; // what the user says: it is only ever jumped to in user mode
    action.flags = wanted.flags;
    action.restorer = wanted.restorer as VirtAddr; // as above
    action.maskLow = wanted.maskLow;
    action.maskHigh = wanted.maskHigh;
    dropIgnored(task, signal);
  }
  tasklistUnlock();
  if (oldAt === 0) return 0;
  return giveUserBytes(oldAt, KERNEL_SIGACTION_BYTES, (buffer) => {
    cpu.storeWord(buffer, handler);
    cpu.store64(addVirt(buffer, 8), flags, 0);
    cpu.storeWord(addVirt(buffer, 16), restorer);
    cpu.store64(addVirt(buffer, 24), maskLow, maskHigh);
  });
}

function readAction(at: number): NewAction | number {
  return withUserBytes<NewAction | number>(at, KERNEL_SIGACTION_BYTES, (buffer) => {
    const handler = cpu.loadWord(buffer);
    const flags = cpu.load(addVirt(buffer, 8), 4);
    const restorer = cpu.loadWord(addVirt(buffer, 16));
    const maskLow = cpu.load(addVirt(buffer, 24), 4);
    return { handler, flags, restorer, maskLow, maskHigh: cpu.load(addVirt(buffer, 28), 4) };
  });
}

interface SignalSet {
  readonly low: number;
  readonly high: number;
}

function readSet(at: number): SignalSet | number {
  return withUserBytes<SignalSet | number>(at, SIGSET_BYTES, (buffer) => ({
    low: cpu.load(buffer, 4),
    high: cpu.load(addVirt(buffer, 4), 4),
  }));
}

function giveSet(at: number, low: number, high: number): number {
  return giveUserBytes(at, SIGSET_BYTES, (buffer) => cpu.store64(buffer, low, high));
}

/** Kernel: `sigprocmask()`. */
export function sysRtSigprocmask(how: number, newAt: number, oldAt: number, setBytes: number): number {
  if (setBytes !== SIGSET_BYTES) return EINVAL;
  const task = TaskStruct.at(current());
  const { blockedLow: low, blockedHigh: high } = task;
  if (newAt !== 0) {
    const set = readSet(newAt);
    if (typeof set === "number") return set;
    if (how === SIG_BLOCK) setBlocked(low | set.low, high | set.high);
    else if (how === SIG_UNBLOCK) setBlocked(low & ~set.low, high & ~set.high);
    else if (how === SIG_SETMASK) setBlocked(set.low, set.high);
    else return EINVAL;
  }
  return oldAt === 0 ? 0 : giveSet(oldAt, low, high);
}

export function sysRtSigpending(to: number, setBytes: number): number {
  if (setBytes > SIGSET_BYTES) return EINVAL;
  const task = TaskStruct.at(current());
  tasklistLock();
  const shared = SignalStruct.at(task.signal).sharedPending;
  const low = (task.pending.low | shared.low) & task.blockedLow;
  const high = (task.pending.high | shared.high) & task.blockedHigh;
  tasklistUnlock();
  return giveSet(to, low, high);
}

/** Sleeps until a signal comes (kernel: `sys_pause()`). */
export function sysPause(): number {
  const task = TaskStruct.at(current());
  task.state = TASK_INTERRUPTIBLE;
  if (!signalPending()) return SLEEP;
  task.state = TASK_RUNNING;
  return ERESTARTNOHAND;
}

/** As pause(), with another mask meanwhile (kernel: `sigsuspend()`). Called again, it has its mask already. */
export function sysRtSigsuspend(maskAt: number, setBytes: number): number {
  const task = TaskStruct.at(current());
  if (task.restoreSigmask === 0) {
    if (setBytes !== SIGSET_BYTES) return EINVAL;
    const set = readSet(maskAt);
    if (typeof set === "number") return set;
    task.savedLow = task.blockedLow;
    task.savedHigh = task.blockedHigh;
    task.restoreSigmask = 1;
    setBlocked(set.low, set.high);
  }
  return sysPause();
}

/** Kernel: `kill_something_info()`. There are no process groups: 0 is the caller's own process, a negative pid is nobody but -1, all others. */
export function sysKill(pid: number, signal: number): number {
  if (signal < 0 || signal > NSIG) return EINVAL;
  const own = TaskStruct.at(current());
  const info = { code: SI_USER, pid: own.tgid };
  tasklistLock();
  const targets = allTasks().filter((candidate) => {
    const view = TaskStruct.at(candidate);
    if ((view.flags & PF_KTHREAD) !== 0 || view.groupLeader !== candidate) return false;
    if (pid === -1) return view.tgid !== 1 && view.tgid !== own.tgid;
    return view.tgid === (pid === 0 ? own.tgid : pid);
  });
  let result = targets.length === 0 ? ESRCH : 0;
  if (signal !== 0) {
    for (const target of targets) if (sendToGroup(target, signal, info) === EAGAIN) result = EAGAIN;
  }
  tasklistUnlock();
  return result;
}

/** Kernel: `do_tkill()`. */
export function sysTgkill(tgid: number, pid: number, signal: number): number {
  if (signal < 0 || signal > NSIG || tgid <= 0 || pid <= 0) return EINVAL;
  tasklistLock();
  const found = findTask(pid);
  const isThere = found !== NULL && TaskStruct.at(found).tgid === tgid && (TaskStruct.at(found).flags & PF_KTHREAD) === 0;
  // Held over the lock: it may end meanwhile.
  if (isThere) cpu.rmw("add", addVirt(found, TaskStruct.offset.usage), 4, 1);
  tasklistUnlock();
  if (!isThere) return ESRCH;
  const result = signal === 0 ? 0 : sendSignalToThread(found, signal, { code: SI_TKILL, pid: TaskStruct.at(current()).tgid });
  putTask(found);
  return result;
}

const STACK_T_BYTES = 24;

/** Kernel: `do_sigaltstack()`. */
export function sysSigaltstack(newAt: number, oldAt: number): number {
  const task = TaskStruct.at(current());
  const { sasSp, sasBytes } = task;
  const { rsp } = PtRegs.at(taskPtRegs(current()));
  const isOnIt = sasBytes > 0 && rsp > sasSp && rsp - sasSp <= sasBytes;
  if (newAt !== 0) {
    const wanted = withUserBytes<readonly [number, number, number] | number>(newAt, STACK_T_BYTES, (buffer) => {
      const sp = cpu.loadWord(buffer);
      const flags = cpu.load(addVirt(buffer, 8), 4);
      return [sp, flags, cpu.loadWord(addVirt(buffer, 16))];
    });
    if (typeof wanted === "number") return wanted;
    if (isOnIt) return EPERM;
    const [sp, flags, bytes] = wanted;
    if (flags !== 0 && flags !== SS_DISABLE && flags !== SS_ONSTACK) return EINVAL;
    if (flags !== SS_DISABLE && bytes < MINSIGSTKSZ) return ENOMEM;
    task.sasSp = flags === SS_DISABLE ? 0 : sp;
    task.sasBytes = flags === SS_DISABLE ? 0 : bytes;
    task.sasFlags = flags;
  }
  if (oldAt === 0) return 0;
  return giveUserBytes(oldAt, STACK_T_BYTES, (buffer) => {
    cpu.storeWord(buffer, sasSp);
    cpu.store(addVirt(buffer, 8), 4, sasBytes === 0 ? SS_DISABLE : isOnIt ? SS_ONSTACK : 0);
    cpu.storeWord(addVirt(buffer, 16), sasBytes);
  });
}
