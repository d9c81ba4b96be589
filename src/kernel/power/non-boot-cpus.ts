// The other CPUs leave while the machine sleeps, and come back (kernel: suspend_disable_secondary_cpus()).
import { EBUSY, type Errno } from "../../abi/index.ts";
import { cpu } from "../../hardware/index.ts";
import { onlineCpus } from "../mm/percpu.ts";

/** Takes all CPUs but this one offline (kernel: `freeze_secondary_cpus()`). @returns 0; EBUSY: another CPU is online, and cannot leave. */
export function suspendSecondaryCpus(): 0 | Errno {
  return (onlineCpus() & ~(1 << cpu.id)) === 0 ? 0 : EBUSY;
}

/** Kernel: `thaw_secondary_cpus()`. */
export function resumeSecondaryCpus(): void {
  // None has left.
}
