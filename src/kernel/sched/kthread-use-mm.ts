// Kernel code that works in a user address space for a while.
import { NULL } from "../../hardware/index.ts";
import { mmdrop, mmgrab } from "../mm/mm.ts";
import type { MmPtr } from "../mm/mm-struct.ts";
import { enterLazyTlb, switchMm } from "../mm/switch-mm.ts";
import { current } from "./current.ts";
import { TaskStruct } from "./task-struct.ts";

/** The running kernel thread uses `mm` (kernel: `kthread_use_mm()`). */
export function kthreadUseMm(mm: MmPtr): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const before = task.activeMm;
  mmgrab(mm);
  task.mm = mm;
  task.activeMm = mm;
  switchMm(before, mm, pointer);
  mmdrop(before);
}

/** ... and no longer, though its tables stay loaded, borrowed (kernel: `kthread_unuse_mm()`). */
export function kthreadUnuseMm(): void {
  const task = TaskStruct.at(current());
  task.mm = NULL;
  enterLazyTlb();
}
