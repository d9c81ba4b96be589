// A lock whose waiters sleep: a u32 in simulated memory, 0 free, 1 held, 2 held and somebody waits (Drepper, "Futexes Are Tricky", mutex 3;
// kernel: struct mutex). The waiters of a lock are on one of a few queues that locks share (kernel: bit_waitqueue()).
import { addVirt, cpu, type VirtAddr } from "../../hardware/index.ts";
import { staticBytes } from "../static-data.ts";
import { schedule } from "./schedule.ts";
import { TASK_UNINTERRUPTIBLE } from "./task-struct.ts";
import { finishWait, prepareToWait, wakeUp } from "./wait-queue.ts";
import { WaitQueueHead } from "./wait-queue-struct.ts";

const QUEUES = 16;
const queues = staticBytes("mutex_wait_table", QUEUES * WaitQueueHead.bytes, 64);
/** Locks lie in objects of at least this size. */
const LOCK_DISTANCE = 64;

function queueOf(lock: VirtAddr): VirtAddr {
  return addVirt(queues, (Math.floor(Math.abs(lock) / LOCK_DISTANCE) % QUEUES) * WaitQueueHead.bytes);
}

/** Kernel: `mutex_lock()`. Process context, interrupts on. */
export function mutexLock(lock: VirtAddr): void {
  if (cpu.compareExchange(lock, 4, 0, 1)) return;
  for (;;) {
    prepareToWait(queueOf(lock), TASK_UNINTERRUPTIBLE);
    // Marked as waited for before it is given up: whoever unlocks from here on wakes the queue.
    const isFree = cpu.rmw("exchange", lock, 4, 2) === 0;
    if (!isFree) schedule();
    finishWait();
    if (isFree) return;
  }
}

/** Kernel: `mutex_unlock()`. */
export function mutexUnlock(lock: VirtAddr): void {
  if (cpu.rmw("exchange", lock, 4, 0) === 2) wakeUp(queueOf(lock));
}
