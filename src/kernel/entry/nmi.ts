// Non-maskable interrupts. They arrive between any two steps, inside transitions too; the handler may touch anything, and the fault that
// a sensitive access then takes is ordinary.
import { cpu, ptr } from "../../hardware/index.ts";
import { asiIntrEnter, asiIntrExit, asiIntrNestDepth } from "../asi/asi-intr.ts";
import { asiEnabled } from "../asi/asi-state.ts";
import { crashNmi } from "../power/stop-cpus.ts";
import { TRACE_NMI, trace } from "../trace.ts";
import { PtRegs, userMode } from "./pt-regs.ts";

/** Kernel: `exc_nmi()`. `handler`: what NMIs are for here (kernel: the list of register_nmi_handler()). */
export function excNmi(handler: (() => void) | undefined): () => void {
  return () => {
    crashNmi();
    asiIntrEnter();
    const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
    // A page fault in here must not change what a page fault that was interrupted before it read CR2 will find there.
    const cr2 = cpu.readCr2();
    trace(TRACE_NMI, userMode(regs) ? 1 : 0, asiEnabled() ? asiIntrNestDepth() : 0, regs.rip);
    handler?.();
    if (cpu.readCr2() !== cr2) cpu.writeCr2(cr2);
    asiIntrExit();
  };
}
