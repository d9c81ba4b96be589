// What must be done with interrupts off and one CPU left, just before the machine sleeps or is handed to another kernel, and undone first
// thing when it is back (kernel: drivers/base/syscore.c).
import { asiShutdownHook } from "../asi/asi-options.ts";
import { asiSuspend } from "../asi/asi-suspend.ts";
import { vmxDisableVirtualizationCpu } from "../kvm/vmx/hardware.ts";

interface SyscoreOps {
  readonly name: string;
  readonly suspend?: () => void;
  readonly resume?: () => void;
  readonly shutdown?: () => void;
}

/** In the order of registration: suspended from the last to the first, resumed from the first to the last. */
const SYSCORE_OPS: readonly SyscoreOps[] = [
  // As posted there is no shutdown hook: a plain kexec writes CR3 and never comes back. As an option it leaves all the same.
  {
    name: "asi",
    suspend: asiSuspend,
    shutdown: () => {
      if (asiShutdownHook.key.isEnabled()) asiSuspend();
    },
  },
  // On resume a CPU goes back into VMX operation when it first loads a vCPU.
  { name: "kvm", suspend: vmxDisableVirtualizationCpu, shutdown: vmxDisableVirtualizationCpu },
];

/** Interrupts off, the other CPUs stopped (kernel: `syscore_suspend()`). */
export function syscoreSuspend(): void {
  for (const ops of [...SYSCORE_OPS].reverse()) ops.suspend?.();
}

/** Kernel: `syscore_resume()`. */
export function syscoreResume(): void {
  for (const ops of SYSCORE_OPS) ops.resume?.();
}

/** Kernel: `syscore_shutdown()`. */
export function syscoreShutdown(): void {
  for (const ops of [...SYSCORE_OPS].reverse()) ops.shutdown?.();
}
