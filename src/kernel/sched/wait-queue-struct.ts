// A wait queue's data. Only declarations.
import { bytes, type Field, pointer, struct, u32, type View, type VirtAddr } from "../../hardware/index.ts";
import { spinlock } from "../spinlock.ts";

/** Kernel: struct wait_queue_head. The tasks are linked through their `waitNext`. */
export const WaitQueueHead = struct("wait_queue_head", {
  lock: spinlock,
  padding: u32,
  head: pointer("task_struct"),
  tail: pointer("task_struct"),
});
export type WaitQueueHead = View<typeof WaitQueueHead>;

/** A wait queue inside a structure; the property is its address. Zero bytes are an empty queue. */
export const waitQueueHead: Field<VirtAddr> = bytes(WaitQueueHead.bytes, 8);
