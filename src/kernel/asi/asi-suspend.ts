// What suspend-like operations do: they save CR3 and write it back much later, when the domain may be gone and curr_asi says otherwise.
import { EXIT_SUSPEND } from "../trace.ts";
import { asiExit } from "./asi-transition.ts";

/**
 * The syscore suspend callback: of suspend, hibernation and kexec with preserve_context (kernel: `asi_suspend()`, asi_syscore_ops). Interrupts
 * off, the last CPU. Plain and crash kexec need none: their CR3 is never restored.
 */
export function asiSuspend(): void {
  asiExit(EXIT_SUSPEND);
}
