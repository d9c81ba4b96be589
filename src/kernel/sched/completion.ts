// Completions (kernel/sched/completion.c): one waits until another says that something is done.
import { addVirt, bytes, cpu, type Field, type VirtAddr } from "../../hardware/index.ts";
import { waitEvent, wakeUp } from "./wait-queue.ts";
import { WaitQueueHead } from "./wait-queue-struct.ts";

const DONE = WaitQueueHead.bytes;

/** A completion inside a structure; the property is its address. Zero bytes: not done. */
export const completion: Field<VirtAddr> = bytes(WaitQueueHead.bytes + 8, 8);

/** Kernel: `complete_all()`. */
export function complete(at: VirtAddr): void {
  cpu.store(addVirt(at, DONE), 4, 1);
  wakeUp(at);
}

/** Kernel: `completion_done()`. */
export function isComplete(at: VirtAddr): boolean {
  return cpu.load(addVirt(at, DONE), 4) !== 0;
}

/** Kernel: `wait_for_completion()`. Process context. */
export function waitForCompletion(at: VirtAddr): void {
  waitEvent(at, () => isComplete(at));
}
