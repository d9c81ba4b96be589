// Interrupts from one CPU to another, through the x2APIC.
import { cpu, ICR_FIXED, ICR_NMI, MSR_X2APIC_ICR } from "../../hardware/index.ts";

/** Sends interrupt `vector` to CPU `target` (kernel: `__x2apic_send_IPI_dest()`). */
export function sendIpi(target: number, vector: number): void {
  cpu.writeMsr(MSR_X2APIC_ICR, ICR_FIXED | vector, target);
}

/** Sends an NMI to CPU `target`; it may be this one. */
export function sendNmi(target: number): void {
  cpu.writeMsr(MSR_X2APIC_ICR, ICR_NMI, target);
}
