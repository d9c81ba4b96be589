// How a process handles signals belongs to one program: a table that others share is left to them (fs/exec.c: unshare_sighand()).
import { ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type Ptr } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { current } from "../sched/current.ts";
import { SighandStruct } from "../sched/signal-struct.ts";
import { TaskStruct } from "../sched/task-struct.ts";

/** The running task has a table of its own from now on. @returns 0; ENOMEM. */
export function copySighand(): 0 | Errno {
  const task = TaskStruct.at(current());
  const old = task.sighand;
  if (SighandStruct.at(old).count === 1) return 0;
  const copy = kzalloc(SighandStruct.bytes, GFP_KERNEL) as Ptr<"sighand_struct">; // just allocated
  if (copy === NULL) return ENOMEM;
  const { actions } = SighandStruct.offset;
  SighandStruct.at(copy).count = 1;
  cpu.copy(addVirt(copy, actions), addVirt(old, actions), SighandStruct.bytes - actions);
  task.sighand = copy;
  if (cpu.rmw("add", addVirt(old, SighandStruct.offset.count), 4, 0xffffffff) === 1) kfree(old);
  return 0;
}
