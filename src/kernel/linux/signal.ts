// Signals (kernel/signal.c): sending, what is pending, and which one a task takes on its way to user mode. Everything that several tasks
// see is under tasklist_lock, which is taken with interrupts on or off but never in an interrupt.
import {
  EAGAIN,
  NSIG,
  SA_NOCLDWAIT,
  SA_NODEFER,
  SA_RESETHAND,
  SI_KERNEL,
  SI_USER,
  SIG_DFL,
  SIG_IGN,
  SIGCHLD,
  SIGCONT,
  SIGKILL,
  SIGSTOP,
  SIGTSTP,
  SIGTTIN,
  SIGTTOU,
  SIGURG,
  SIGWINCH,
} from "../../abi/index.ts";
import { addVirt, NULL, type Ptr, ptr, type VirtAddr } from "../../hardware/index.ts";
import { GFP_ATOMIC } from "../mm/gfp.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { current } from "../sched/current.ts";
import { KSigaction, SighandStruct, SignalStruct, type SigPending, SigQueue } from "../sched/signal-struct.ts";
import { allThreads, taskComm, tasklistLock, tasklistUnlock } from "../sched/task.ts";
import { TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, TaskStruct } from "../sched/task-struct.ts";
import { kickProcess, tryToWakeUp } from "../sched/wake-up.ts";
import { printk } from "../trace.ts";
import { doExit, doGroupExit } from "./exit.ts";

/** What the receiver is told (kernel: kernel_siginfo). */
export interface SignalInfo {
  readonly code: number;
  readonly pid?: number;
  readonly status?: number;
  /** Faults: the address. */
  readonly address?: number;
}

/** A signal for the user's handler. `action` is the address of a k_sigaction that may change: read it before anything sleeps. */
export interface DeliveredSignal {
  readonly signal: number;
  readonly info: SignalInfo;
  readonly handler: VirtAddr;
  readonly flags: number;
  readonly restorer: VirtAddr;
  readonly maskLow: number;
  readonly maskHigh: number;
}

const IGNORED_BY_DEFAULT = new Set([SIGCHLD, SIGCONT, SIGURG, SIGWINCH]);
/** Nobody watches terminals or stops processes here: what would stop is ignored. */
const STOPPING = new Set([SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU]);

function lowBit(signal: number): number {
  return signal <= 32 ? (1 << (signal - 1)) >>> 0 : 0;
}

function highBit(signal: number): number {
  return signal > 32 ? (1 << (signal - 33)) >>> 0 : 0;
}

/** What the process does with `signal`. */
export function actionOf(task: TaskStruct, signal: number): KSigaction {
  const { actions } = SighandStruct.at(task.sighand);
  return KSigaction.at(ptr<"k_sigaction">(addVirt(actions, (signal - 1) * KSigaction.bytes)));
}

function isIgnored(task: TaskStruct, signal: number): boolean {
  const { handler } = actionOf(task, signal);
  if (handler === SIG_IGN) return true;
  return handler === SIG_DFL && (IGNORED_BY_DEFAULT.has(signal) || STOPPING.has(signal));
}

function isBlocked(task: TaskStruct, signal: number): boolean {
  return ((task.blockedLow & lowBit(signal)) | (task.blockedHigh & highBit(signal))) !== 0;
}

function isMember(pending: SigPending, signal: number): boolean {
  return ((pending.low & lowBit(signal)) | (pending.high & highBit(signal))) !== 0;
}

/** Adds to a set. A standard signal is there once; real-time ones queue. @returns false: no memory to queue another. */
function addPending(pending: SigPending, signal: number, info: SignalInfo): boolean {
  const isThere = isMember(pending, signal);
  if (isThere && signal < 32) return true;
  const address = kzalloc(SigQueue.bytes, GFP_ATOMIC);
  if (address === NULL && isThere) return false;
  if (address !== NULL) {
    const entry = ptr<"sigqueue">(address);
    const view = SigQueue.at(entry);
    view.signo = signal;
    view.code = info.code;
    if (info.pid !== undefined) view.pid = info.pid;
    if (info.status !== undefined) view.status = info.status;
    if (info.address !== undefined) view.faultAddress = info.address;
    appendQueue(pending, entry);
  }
  if (lowBit(signal) !== 0) pending.low = (pending.low | lowBit(signal)) >>> 0;
  else pending.high = (pending.high | highBit(signal)) >>> 0;
  return true;
}

function appendQueue(pending: SigPending, entry: Ptr<"sigqueue">): void {
  let at = pending.list;
  if (at === NULL) {
    pending.list = entry;
    return;
  }
  for (let next = SigQueue.at(at).next; next !== NULL; next = SigQueue.at(at).next) at = next;
  SigQueue.at(at).next = entry;
}

/** Takes the first entry of `signal`, and the signal out of the set if it was the only one (kernel: `collect_signal()`). */
function collect(pending: SigPending, signal: number): SignalInfo {
  let previous: Ptr<"sigqueue"> = NULL;
  let at = pending.list;
  while (at !== NULL && SigQueue.at(at).signo !== signal) {
    previous = at;
    at = SigQueue.at(at).next;
  }
  let info: SignalInfo = { code: SI_USER, pid: 0 };
  let isMore = false;
  if (at !== NULL) {
    const { next, code, pid, status, faultAddress } = SigQueue.at(at);
    if (previous === NULL) pending.list = next;
    else SigQueue.at(previous).next = next;
    info = code > 0 && isSynchronous(signal) ? { code, address: faultAddress } : { code, pid, status };
    kfree(at);
    for (let rest = next; rest !== NULL && !isMore; rest = SigQueue.at(rest).next) isMore = SigQueue.at(rest).signo === signal;
  }
  if (!isMore) removeFromSet(pending, signal);
  return info;
}

function removeFromSet(pending: SigPending, signal: number): void {
  if (lowBit(signal) !== 0) pending.low = (pending.low & ~lowBit(signal)) >>> 0;
  else pending.high = (pending.high & ~highBit(signal)) >>> 0;
}

/** Forgets what is pending (kernel: `flush_sigqueue()`). */
export function flushPending(pending: SigPending): void {
  for (let entry = pending.list; entry !== NULL; entry = pending.list) {
    pending.list = SigQueue.at(entry).next;
    kfree(entry);
  }
  pending.low = 0;
  pending.high = 0;
}

function flushSignal(pending: SigPending, signal: number): void {
  while (isMember(pending, signal)) collect(pending, signal);
}

/** The task looks for signals before it runs user code again; if it sleeps, or runs user code elsewhere, it is made to (kernel: `signal_wake_up()`). */
function signalWakeUp(pointer: Ptr<"task_struct">, isFatal: boolean): void {
  TaskStruct.at(pointer).pendingSignal = 1;
  const states = isFatal ? TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE : TASK_INTERRUPTIBLE;
  if (!tryToWakeUp(pointer, states)) kickProcess(pointer);
}

/** Sends a signal to one thread. Under tasklist_lock. @returns 0; EAGAIN. */
function sendToThread(pointer: Ptr<"task_struct">, signal: number, info: SignalInfo): number {
  const task = TaskStruct.at(pointer);
  if (isIgnored(task, signal) && !isBlocked(task, signal)) return 0;
  if (!addPending(task.pending, signal, info)) return EAGAIN;
  if (!isBlocked(task, signal)) signalWakeUp(pointer, signal === SIGKILL);
  return 0;
}

/** Sends a signal to a process: any thread that does not block it takes it. Under tasklist_lock. @returns 0; EAGAIN. */
export function sendToGroup(leader: Ptr<"task_struct">, signal: number, info: SignalInfo): number {
  const task = TaskStruct.at(leader);
  const shared = SignalStruct.at(task.signal);
  if (shared.nrThreads === 0) return 0; // it has ended, and nobody would take the signal or free it
  if (isIgnored(task, signal) && !isBlocked(task, signal)) return 0;
  if (!addPending(shared.sharedPending, signal, info)) return EAGAIN;
  if (signal === SIGKILL) {
    for (const thread of allThreads(leader)) signalWakeUp(thread, true);
    return 0;
  }
  const taker = allThreads(leader).find((thread) => !isBlocked(TaskStruct.at(thread), signal));
  if (taker !== undefined) signalWakeUp(taker, false);
  return 0;
}

/**
 * Sends `signal` to the process of `pointer` (kernel: `send_sig_info()`, for the group). Process context or an exception of a task.
 * @returns 0; EAGAIN.
 */
export function sendSignal(pointer: Ptr<"task_struct">, signal: number, info: SignalInfo): number {
  tasklistLock();
  const { groupLeader, exitState } = TaskStruct.at(pointer);
  const result = exitState === 0 || groupLeader !== pointer ? sendToGroup(groupLeader, signal, info) : 0;
  tasklistUnlock();
  return result;
}

/** As `sendSignal`, but this thread takes it (kernel: `send_sig_info()` of tgkill()). */
export function sendSignalToThread(pointer: Ptr<"task_struct">, signal: number, info: SignalInfo): number {
  tasklistLock();
  const result = TaskStruct.at(pointer).exitState === 0 ? sendToThread(pointer, signal, info) : 0;
  tasklistUnlock();
  return result;
}

/** True when the task has signals to look at (kernel: `signal_pending()`). */
export function hasPendingSignals(pointer: Ptr<"task_struct">): boolean {
  return TaskStruct.at(pointer).pendingSignal !== 0;
}

/**
 * The running task must take `signal` before it runs user code again: blocked or ignored, it kills (kernel: `force_sig_info()`).
 * `why` goes to the kernel log if it kills.
 */
export function forceSig(signal: number, why: string, info: SignalInfo = { code: SI_KERNEL }): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  tasklistLock();
  const action = actionOf(task, signal);
  const { handler } = action;
  const isUnwilling = isBlocked(task, signal) || handler === SIG_IGN;
  if (isUnwilling) {
    action.handler = SIG_DFL as VirtAddr; // a disposition, not an address
    task.blockedLow = (task.blockedLow & ~lowBit(signal)) >>> 0;
    task.blockedHigh = (task.blockedHigh & ~highBit(signal)) >>> 0;
  }
  addPending(task.pending, signal, info);
  task.pendingSignal = 1;
  tasklistUnlock();
  if (isUnwilling || handler === SIG_DFL) printk(`${taskComm(pointer)}[${task.pid}]: killed by signal ${signal}: ${why}`);
}

/** Recomputes whether the running task has something to look at (kernel: `recalc_sigpending()`). Under tasklist_lock. */
export function recalcSigpending(task: TaskStruct): void {
  const shared = SignalStruct.at(task.signal);
  const own = task.pending;
  const both = shared.sharedPending;
  const low = (own.low | both.low) & ~task.blockedLow;
  const high = (own.high | both.high) & ~task.blockedHigh;
  task.pendingSignal = low !== 0 || high !== 0 || shared.isGroupExit !== 0 ? 1 : 0;
}

/** The signal to take next, faults' own first, or 0 (kernel: `next_signal()`). */
function nextSignal(pending: SigPending, task: TaskStruct): number {
  const low = (pending.low & ~task.blockedLow) >>> 0;
  if (low !== 0) {
    const synchronous = low & SYNCHRONOUS;
    const bits = synchronous !== 0 ? synchronous : low;
    return 32 - Math.clz32(bits & -bits);
  }
  const high = (pending.high & ~task.blockedHigh) >>> 0;
  return high === 0 ? 0 : 64 - Math.clz32(high & -high);
}

/** SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS. Kernel: SYNCHRONOUS_MASK. */
const SYNCHRONOUS = (1 << 3) | (1 << 4) | (1 << 6) | (1 << 7) | (1 << 10) | (1 << 30);

/** A signal that an exception raises: if the kernel sent it (a positive code), it tells an address, not a sender. */
function isSynchronous(signal: number): boolean {
  return (lowBit(signal) & SYNCHRONOUS) !== 0;
}

interface Taken {
  readonly signal: number;
  readonly info: SignalInfo;
}

function dequeue(task: TaskStruct): Taken | undefined {
  const shared = SignalStruct.at(task.signal).sharedPending;
  // SIGKILL before all others.
  for (const pending of [task.pending, shared]) {
    if (isMember(pending, SIGKILL)) return { signal: SIGKILL, info: collect(pending, SIGKILL) };
  }
  const own = nextSignal(task.pending, task);
  if (own !== 0) return { signal: own, info: collect(task.pending, own) };
  const group = nextSignal(shared, task);
  return group === 0 ? undefined : { signal: group, info: collect(shared, group) };
}

/**
 * Takes the next signal of the running task that its program handles; default actions happen here, and may end the process (kernel:
 * `get_signal()`). On the way to user mode, interrupts on. @returns undefined: nothing is left to deliver.
 */
export function getSignal(): DeliveredSignal | undefined {
  const task = TaskStruct.at(current());
  for (;;) {
    tasklistLock();
    const shared = SignalStruct.at(task.signal);
    if (shared.isGroupExit !== 0) {
      const code = shared.groupExitCode;
      tasklistUnlock();
      doGroupExit(code);
    }
    const taken = dequeue(task);
    if (taken === undefined) {
      recalcSigpending(task);
      tasklistUnlock();
      return undefined;
    }
    const { signal, info } = taken;
    const delivered = dispose(task, signal, info);
    tasklistUnlock();
    if (delivered === "kill") endBy(task, signal);
    if (delivered !== "ignored") return delivered;
  }
}

/** A signal kills the process; or this thread alone, where another is about to run a new program. */
function endBy(task: TaskStruct, signal: number): never {
  const { execTask } = SignalStruct.at(task.signal);
  if (execTask !== NULL && execTask !== current()) doExit(signal);
  return doGroupExit(signal);
}

/** What happens with a signal that was taken. Under tasklist_lock. */
function dispose(task: TaskStruct, signal: number, info: SignalInfo): DeliveredSignal | "kill" | "ignored" {
  const action = actionOf(task, signal);
  const { handler, flags, restorer, maskLow, maskHigh } = action;
  if (isIgnored(task, signal)) return "ignored";
  if (handler === SIG_DFL) return "kill";
  if ((flags & SA_RESETHAND) !== 0) action.handler = SIG_DFL as VirtAddr; // a disposition, not an address
  return { signal, info, handler, flags, restorer, maskLow, maskHigh };
}

/** The handler's frame is made: its mask holds until sigreturn (kernel: `signal_delivered()`). */
export function signalDelivered(delivered: DeliveredSignal): void {
  const task = TaskStruct.at(current());
  const { signal, flags, maskLow, maskHigh } = delivered;
  const own = (flags & SA_NODEFER) === 0;
  setBlocked(
    (task.blockedLow | maskLow | (own ? lowBit(signal) : 0)) >>> 0,
    (task.blockedHigh | maskHigh | (own ? highBit(signal) : 0)) >>> 0,
  );
}

const UNBLOCKABLE = lowBit(SIGKILL) | lowBit(SIGSTOP);

/** The running task blocks exactly these signals from now on (kernel: `set_current_blocked()`). */
export function setBlocked(low: number, high: number): void {
  const task = TaskStruct.at(current());
  tasklistLock();
  task.blockedLow = (low & ~UNBLOCKABLE) >>> 0;
  task.blockedHigh = high >>> 0;
  recalcSigpending(task);
  tasklistUnlock();
}

/** What the frame of a handler restores later: the mask before it, or before the sigsuspend() that it ended (kernel: `sigmask_to_save()`). */
export function sigmaskToSave(): readonly [low: number, high: number] {
  const task = TaskStruct.at(current());
  if (task.restoreSigmask === 0) return [task.blockedLow, task.blockedHigh];
  task.restoreSigmask = 0;
  return [task.savedLow, task.savedHigh];
}

/** No handler ran: the mask from before sigsuspend() is back (kernel: `restore_saved_sigmask()`). */
export function restoreSavedSigmask(): void {
  const task = TaskStruct.at(current());
  if (task.restoreSigmask === 0) return;
  task.restoreSigmask = 0;
  setBlocked(task.savedLow, task.savedHigh);
}

/** An ignored signal that is pending is gone (POSIX 3.3.1.3; kernel: `flush_sigqueue_mask()`). Under tasklist_lock. */
export function dropIgnored(task: TaskStruct, signal: number): void {
  if (!isIgnored(task, signal)) return;
  flushSignal(SignalStruct.at(task.signal).sharedPending, signal);
  for (const thread of allThreads(task.groupLeader)) flushSignal(TaskStruct.at(thread).pending, signal);
}

/** True when the process does not want to be asked about dead children: they vanish (POSIX: SIG_IGN or SA_NOCLDWAIT). */
export function ignoresChildren(leader: Ptr<"task_struct">): boolean {
  const { handler, flags } = actionOf(TaskStruct.at(leader), SIGCHLD);
  return handler === SIG_IGN || (flags & SA_NOCLDWAIT) !== 0;
}

/** Handlers go, and what is ignored stays ignored: another program runs (kernel: `flush_signal_handlers()`). */
export function flushSignalHandlers(task: TaskStruct): void {
  for (let signal = 1; signal <= NSIG; signal++) {
    const action = actionOf(task, signal);
    if (action.handler !== SIG_IGN && action.handler !== SIG_DFL) action.handler = SIG_DFL as VirtAddr; // a disposition
    action.flags = 0;
    action.restorer = NULL;
    action.maskLow = 0;
    action.maskHigh = 0;
  }
}

/** Every other thread of the running task's process is on its way to its end (kernel: `zap_other_threads()`). Under tasklist_lock. */
export function zapOtherThreads(code: number): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const shared = SignalStruct.at(task.signal);
  if (code >= 0) {
    shared.isGroupExit = 1;
    shared.groupExitCode = code;
  }
  for (const thread of allThreads(task.groupLeader)) {
    if (thread === pointer || TaskStruct.at(thread).exitState !== 0) continue;
    addPending(TaskStruct.at(thread).pending, SIGKILL, { code: SI_KERNEL });
    signalWakeUp(thread, true);
  }
}
