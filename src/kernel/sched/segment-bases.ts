// The user's FS and GS bases (arch/x86/kernel/process_64.c). User code cannot change them but by system calls, so the task holds what the
// MSRs held, and a switch writes an MSR only when it must change. A user task that loads a selector into FS loses its base, as on Intel.
import { cpu, high32, low32, MSR_FS_BASE, MSR_KERNEL_GS_BASE, perCpu, word } from "../../hardware/index.ts";
import type { TaskStruct } from "./task-struct.ts";

/** What this CPU's MSRs hold. */
const loadedFsbase = perCpu("loaded_fsbase", word);
const loadedGsbase = perCpu("loaded_gsbase", word);

/** The bases of the user task that runs next on this CPU (kernel: `x86_fsgsbase_load()`). Interrupts off. */
export function loadSegmentBases(task: TaskStruct): void {
  const { fsbase, gsbase } = task.thread;
  if (loadedFsbase.get() !== fsbase) {
    loadedFsbase.set(fsbase);
    cpu.writeMsr(MSR_FS_BASE, low32(fsbase), high32(fsbase));
  }
  // While the kernel runs the user's GS base is in the MSR that SWAPGS exchanges.
  if (loadedGsbase.get() !== gsbase) {
    loadedGsbase.set(gsbase);
    cpu.writeMsr(MSR_KERNEL_GS_BASE, low32(gsbase), high32(gsbase));
  }
}
