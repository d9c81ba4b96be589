// What a CPU does when there is nothing to do.
import { cpu, STUB_CLEAR_CPU_BUFFERS } from "../../hardware/index.ts";
import { asiRelax } from "../asi/asi-transition.ts";
import { siblingsEnterQuiet } from "../asi/sibling-wait.ts";
import { siblingsApart } from "../asi/siblings.ts";
import { cpuBufIdleClear } from "../mitigations/feature-keys.ts";
import { isCpuDying, playDead } from "../power/play-dead.ts";
import { needResched, schedule } from "./schedule.ts";
import { reapDeadTasks } from "./task.ts";

/** The end of a CPU's boot (kernel: `cpu_startup_entry()`). Does not return. */
export function cpuStartupEntry(): void {
  doIdle();
}

/** Kernel: `do_idle()`, for ever. Each round is a cut point: nothing of the rounds before is needed. */
function doIdle(): void {
  for (;;) {
    cpu.cutPoint(doIdle);
    reapDeadTasks();
    cpu.disableInterrupts();
    if (needResched()) {
      cpu.enableInterrupts();
      schedule();
    } else {
      if (isCpuDying()) playDead();
      if (cpuBufIdleClear.isEnabled()) cpu.callStub(STUB_CLEAR_CPU_BUFFERS);
      siblingsEnterQuiet();
      // STI takes effect after the next instruction: no interrupt comes between the question and HLT.
      cpu.halt();
      if (siblingsApart.isEnabled()) asiRelax();
    }
  }
}
