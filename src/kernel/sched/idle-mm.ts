// What an idle task does before it lets go of a borrowed address space: where the CPU goes down, and where nobody may keep one alive.
import { mmdrop, mmgrab } from "../mm/mm.ts";
import { initMm } from "../mm/mm-struct.ts";
import { switchMm } from "../mm/switch-mm.ts";
import { current } from "./current.ts";
import { TaskStruct } from "./task-struct.ts";

/** The running idle task goes to the kernel's own tables (kernel: `idle_task_exit()`). */
export function idleTaskExit(): void {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const borrowed = task.activeMm;
  if (borrowed === initMm) return;
  mmgrab(initMm);
  task.activeMm = initMm;
  switchMm(borrowed, initMm, pointer);
  mmdrop(borrowed);
}
