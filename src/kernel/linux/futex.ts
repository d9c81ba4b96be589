// Futexes (kernel/futex/): tasks that wait for a word of user memory. A bucket is a queue of tasks; a task's key is the word: for memory
// of one process its mm and address, for shared mappings the frame.
import {
  EAGAIN,
  EFAULT,
  EINVAL,
  ENOSYS,
  ETIMEDOUT,
  FUTEX_CLOCK_REALTIME,
  FUTEX_CMP_REQUEUE,
  FUTEX_PRIVATE_FLAG,
  FUTEX_REQUEUE,
  FUTEX_WAIT,
  FUTEX_WAIT_BITSET,
  FUTEX_WAKE,
  FUTEX_WAKE_BITSET,
  isErr,
} from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr, pageDown, pointer, ptr, struct, u32, type VirtAddr } from "../../hardware/index.ts";
import { Mm, VM_SHARED, VmArea } from "../mm/mm-struct.ts";
import { getUserPage, putUserPage } from "../mm/user-memory.ts";
import { findVma } from "../mm/vma.ts";
import { current } from "../sched/current.ts";
import { TASK_INTERRUPTIBLE, TaskStruct } from "../sched/task-struct.ts";
import { wakeUpProcess } from "../sched/wake-up.ts";
import { spinLock, spinlock, spinUnlock } from "../spinlock.ts";
import { staticBytes } from "../static-data.ts";
import { ERESTARTSYS, SLEEP } from "./syscall-results.ts";
import { signalPending } from "./syscall-sleep.ts";
import { deadlineOf } from "./time.ts";
import { userRange, withUserBytes } from "./user-arguments.ts";

const FUTEX_STATE_NONE = 0;
const FUTEX_STATE_QUEUED = 1;
const FUTEX_STATE_WOKEN = 2;
const MATCH_ANY = 0xffffffff;
/** Most tasks that one FUTEX_WAKE wakes. */
const ALL = 0x7fffffff;

const Bucket = struct("futex_hash_bucket", {
  lock: spinlock,
  padding: u32,
  head: pointer("task_struct"),
});
const BUCKETS = 64;
const buckets = staticBytes("futex_queues", BUCKETS * Bucket.bytes, 64);

interface Key {
  /** Address of the word, or its physical address. */
  readonly word: number;
  /** The mm, or 0 for shared memory. */
  readonly owner: number;
}

/** Kernel: `get_futex_key()`. @returns EFAULT; EINVAL: not aligned. */
function keyOf(address: number, isPrivate: boolean): Key | number {
  if (address % 4 !== 0) return EINVAL;
  const user = userRange(address, 4);
  if (isErr(user)) return EFAULT;
  const { mm } = TaskStruct.at(current());
  if (isPrivate) return { word: user, owner: mm };
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const vma = findVma(mm, user);
  const isShared = vma !== NULL && (VmArea.at(vma).flags & VM_SHARED) !== 0;
  spinUnlock(mmapLock);
  if (!isShared) return { word: user, owner: mm };
  const frame = getUserPage(mm, user, false);
  if (isErr(frame)) return EFAULT;
  putUserPage(frame);
  // Whether the frame comes with the offset or without: the same word in every mapping.
  return { word: pageDown(frame) + (user % 4096), owner: 0 };
}

function bucketOf(key: Key): ReturnType<typeof Bucket.at> {
  const index = Math.floor(Math.abs(key.word) / 4) % BUCKETS;
  return Bucket.at(ptr<"futex_hash_bucket">(addVirt(buckets, index * Bucket.bytes)));
}

function enqueue(bucket: ReturnType<typeof Bucket.at>, pointer: Ptr<"task_struct">): void {
  let at = bucket.head;
  if (at === NULL) bucket.head = pointer;
  else {
    for (let next = TaskStruct.at(at).waitNext; next !== NULL; next = TaskStruct.at(at).waitNext) at = next;
    TaskStruct.at(at).waitNext = pointer;
  }
  TaskStruct.at(pointer).waitNext = NULL;
}

function dequeue(bucket: ReturnType<typeof Bucket.at>, pointer: Ptr<"task_struct">): void {
  let previous: Ptr<"task_struct"> = NULL;
  for (let at = bucket.head; at !== NULL; at = TaskStruct.at(at).waitNext) {
    if (at === pointer) {
      const next = TaskStruct.at(at).waitNext;
      if (previous === NULL) bucket.head = next;
      else TaskStruct.at(previous).waitNext = next;
      TaskStruct.at(at).waitNext = NULL;
      return;
    }
    previous = at;
  }
}

/** First call of a wait: queued, if the word still holds `expected`. @returns SLEEP; EAGAIN; EFAULT. */
function beginWait(address: number, key: Key, expected: number, bitset: number): number {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const bucket = bucketOf(key);
  spinLock(bucket.lock);
  // A wake that comes after the word was read finds the task in the bucket.
  const value = withUserBytes(address, 4, (buffer) => cpu.load(buffer, 4));
  const isEqual = value === expected;
  if (isEqual) {
    task.futexState = FUTEX_STATE_QUEUED;
    task.futexBitset = bitset;
    task.futexKeyWord = key.word;
    task.futexKeyOwner = key.owner;
    task.state = TASK_INTERRUPTIBLE;
    enqueue(bucket, pointer);
  }
  spinUnlock(bucket.lock);
  if (isEqual) return SLEEP;
  return value < 0 ? value : EAGAIN;
}

/** Called again: woken, too late, interrupted, or none of it. */
function continueWait(task: TaskStruct): number {
  const key: Key = { word: task.futexKeyWord, owner: task.futexKeyOwner };
  const bucket = bucketOf(key);
  spinLock(bucket.lock);
  const isWoken = task.futexState === FUTEX_STATE_WOKEN;
  const deadline = task.waitDeadline;
  const isLate = deadline !== 0 && cpu.readTsc() >= deadline;
  const isOver = isWoken || isLate || signalPending();
  if (isOver) {
    if (!isWoken) dequeue(bucket, current());
    task.futexState = FUTEX_STATE_NONE;
    task.waitDeadline = 0;
  } else task.state = TASK_INTERRUPTIBLE;
  spinUnlock(bucket.lock);
  if (!isOver) {
    task.wakeTime = deadline;
    return SLEEP;
  }
  if (isWoken) return 0;
  return isLate ? ETIMEDOUT : ERESTARTSYS;
}

function futexWait(
  address: number,
  isPrivate: boolean,
  expected: number,
  timeoutAt: number,
  isAbsolute: boolean,
  isRealtime: boolean,
  bitset: number,
): number {
  const task = TaskStruct.at(current());
  if (task.futexState !== FUTEX_STATE_NONE) return continueWait(task);
  if (bitset === 0) return EINVAL;
  let deadline = 0;
  if (timeoutAt !== 0) {
    deadline = deadlineOf(timeoutAt, isAbsolute, isRealtime);
    if (deadline < 0) return deadline;
  }
  const key = keyOf(address, isPrivate);
  if (typeof key === "number") return key;
  const result = beginWait(address, key, expected >>> 0, bitset);
  if (result === SLEEP && deadline !== 0) {
    task.waitDeadline = deadline;
    task.wakeTime = deadline;
  }
  return result;
}

/** Wakes at most `count` waiters of a word whose bits meet `bitset` (kernel: `futex_wake()`). @returns how many. */
function wake(key: Key, count: number, bitset: number): number {
  const bucket = bucketOf(key);
  let woken = 0;
  spinLock(bucket.lock);
  let at = bucket.head;
  while (at !== NULL && woken < count) {
    const task = TaskStruct.at(at);
    const next = task.waitNext;
    if (isWaitingFor(task, key) && (task.futexBitset & bitset) !== 0) {
      dequeue(bucket, at);
      task.futexState = FUTEX_STATE_WOKEN;
      wakeUpProcess(at);
      woken++;
    }
    at = next;
  }
  spinUnlock(bucket.lock);
  return woken;
}

function isWaitingFor(task: TaskStruct, key: Key): boolean {
  return task.futexKeyWord === key.word && task.futexKeyOwner === key.owner;
}

/** Wakes at most `wakeCount` waiters and moves at most `moveCount` others to another word (kernel: `futex_requeue()`). */
function requeue(from: Key, to: Key, wakeCount: number, moveCount: number): number {
  const woken = wake(from, wakeCount, MATCH_ANY);
  const moved: Ptr<"task_struct">[] = [];
  const source = bucketOf(from);
  const target = bucketOf(to);
  const isSame = source.address === target.address;
  const [first, second] = source.address < target.address ? [source, target] : [target, source];
  spinLock(first.lock);
  if (!isSame) spinLock(second.lock);
  for (let at = source.head; at !== NULL && moved.length < moveCount; at = TaskStruct.at(at).waitNext) {
    if (isWaitingFor(TaskStruct.at(at), from)) moved.push(at);
  }
  for (const pointer of moved) {
    const task = TaskStruct.at(pointer);
    dequeue(source, pointer);
    task.futexKeyWord = to.word;
    task.futexKeyOwner = to.owner;
    enqueue(target, pointer);
  }
  if (!isSame) spinUnlock(second.lock);
  spinUnlock(first.lock);
  return woken + moved.length;
}

/** Wakes waiters of a private word of the running task's memory. */
export function wakeFutexAt(address: VirtAddr, count: number): void {
  const key = keyOf(address, false);
  if (typeof key !== "number") wake(key, count, MATCH_ANY);
}

/** Kernel: `do_futex()`. */
export function doFutex(address: number, op: number, value: number, timeout: number, second: number, third: number): number {
  const isPrivate = (op & FUTEX_PRIVATE_FLAG) !== 0;
  const isRealtime = (op & FUTEX_CLOCK_REALTIME) !== 0;
  const command = op & ~(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
  if (isRealtime && command !== FUTEX_WAIT_BITSET) return ENOSYS;
  switch (command) {
    case FUTEX_WAIT:
      return futexWait(address, isPrivate, value, timeout, false, false, MATCH_ANY);
    case FUTEX_WAIT_BITSET:
      return futexWait(address, isPrivate, value, timeout, true, isRealtime, third >>> 0);
    case FUTEX_WAKE:
    case FUTEX_WAKE_BITSET: {
      const key = keyOf(address, isPrivate);
      const bitset = command === FUTEX_WAKE ? MATCH_ANY : third >>> 0;
      if (bitset === 0) return EINVAL;
      // Kernel: at least one, however few were asked for.
      return typeof key === "number" ? key : wake(key, Math.max(1, value | 0), bitset);
    }
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
      return doRequeue(address, isPrivate, value | 0, timeout, second, command === FUTEX_CMP_REQUEUE ? third >>> 0 : undefined);
    default:
      return ENOSYS;
  }
}

function doRequeue(
  address: number,
  isPrivate: boolean,
  count: number,
  moveCount: number,
  second: number,
  expected: number | undefined,
): number {
  if (count < 0 || (moveCount | 0) < 0) return EINVAL;
  const from = keyOf(address, isPrivate);
  if (typeof from === "number") return from;
  const to = keyOf(second, isPrivate);
  if (typeof to === "number") return to;
  if (expected !== undefined) {
    const value = withUserBytes(address, 4, (buffer) => cpu.load(buffer, 4));
    if (value < 0) return value;
    if (value !== expected) return EAGAIN;
  }
  return requeue(from, to, count, Math.min(moveCount, ALL));
}
