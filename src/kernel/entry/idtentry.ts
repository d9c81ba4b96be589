// What every interrupt and exception handler begins and ends with (kernel: DEFINE_IDTENTRY and its kin): the hooks of address space
// isolation outermost, then the way back to user mode if that is where it came from.
import { cpu, ptr } from "../../hardware/index.ts";
import { asiIntrEnter, asiIntrExit } from "../asi/asi-intr.ts";
import { exitToUserModePrepare } from "./exit-to-user.ts";
import { PtRegs, userMode } from "./pt-regs.ts";

/** A handler's own work. Interrupts are off. */
export type IdtentryBody = (regs: PtRegs) => void;

/** Kernel: DEFINE_IDTENTRY_SYSVEC, DEFINE_IDTENTRY. */
export function idtentry(body: IdtentryBody): () => void {
  return () => {
    asiIntrEnter();
    const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
    body(regs);
    irqentryExit(regs);
    asiIntrExit();
  };
}

/** Kernel: `irqentry_exit()`. The kernel is not preempted: only a return to user mode looks for work. */
export function irqentryExit(regs: PtRegs): void {
  if (userMode(regs)) exitToUserModePrepare(false);
}
