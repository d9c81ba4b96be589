// Interrupts: the timer, and what CPUs send one another.
import { cpu, MSR_X2APIC_EOI } from "../../hardware/index.ts";
import { asiEvictInterrupt } from "../asi/asi-evict.ts";
import { asiIntrNestDepth } from "../asi/asi-intr.ts";
import { asiEnabled } from "../asi/asi-state.ts";
import { kvmCpuL1tfFlushL1d } from "../kvm/kvm-struct.ts";
import { vmclearInterrupt } from "../kvm/vmx/hardware.ts";
import { flushTlbInterrupt } from "../mm/tlb.ts";
import { rebootInterrupt } from "../power/stop-cpus.ts";
import { timerInterrupt } from "../sched/tick.ts";
import { TRACE_IRQ, trace } from "../trace.ts";
import { idtentry } from "./idtentry.ts";
import { type PtRegs, userMode } from "./pt-regs.ts";
import {
  CALL_FUNCTION_VECTOR,
  IRQ_WORK_VECTOR,
  LOCAL_TIMER_VECTOR,
  REBOOT_VECTOR,
  RESCHEDULE_VECTOR,
  SPURIOUS_APIC_VECTOR,
} from "./vectors.ts";

/** Bookkeeping of a real interrupt (irq_enter, statistics, irq_exit), beyond our steps. Assumed. */
const INTERRUPT_CYCLES = 300;

/** Kernel: DEFINE_IDTENTRY_SYSVEC: acknowledged first, and remembered: the handler may bring secrets into L1D (KVM's flush mode cond). */
function sysvec(vector: number, work: () => void): () => void {
  return idtentry((regs: PtRegs) => {
    trace(TRACE_IRQ, vector, userMode(regs) ? 1 : 0, asiEnabled() ? asiIntrNestDepth() : 0);
    kvmCpuL1tfFlushL1d.set(1);
    cpu.charge(INTERRUPT_CYCLES);
    cpu.writeMsr(MSR_X2APIC_EOI, 0, 0);
    work();
  });
}

/** What other CPUs ask of this one: flushes, VMCSs that they want to load, domains that go. */
function callFunctionInterrupt(): void {
  flushTlbInterrupt();
  vmclearInterrupt();
  asiEvictInterrupt();
}

/** The effect is on the way out, or that a halted CPU goes on. */
const nothing = (): void => undefined;

export interface Interrupt {
  readonly vector: number;
  readonly symbol: string;
  readonly handlerName: string;
  readonly handler: () => void;
}

/** All interrupts; `irqWork` is what runs for IRQ_WORK_VECTOR (kernel: irq_work_run()). */
export function interrupts(irqWork: (() => void) | undefined): readonly Interrupt[] {
  const make = (vector: number, name: string, work: () => void): Interrupt => ({
    vector,
    symbol: `asm_${name}`,
    handlerName: name,
    handler: sysvec(vector, work),
  });
  return [
    make(LOCAL_TIMER_VECTOR, "sysvec_apic_timer_interrupt", timerInterrupt),
    make(RESCHEDULE_VECTOR, "sysvec_reschedule_ipi", nothing),
    make(CALL_FUNCTION_VECTOR, "sysvec_call_function", callFunctionInterrupt),
    make(REBOOT_VECTOR, "sysvec_reboot", rebootInterrupt),
    make(IRQ_WORK_VECTOR, "sysvec_irq_work", irqWork ?? nothing),
    {
      vector: SPURIOUS_APIC_VECTOR,
      symbol: "asm_spurious_interrupt",
      handlerName: "spurious_interrupt",
      // Not acknowledged. SDM vol. 3, 12.9.
      handler: idtentry(nothing),
    },
  ];
}
