// What a CPU holds that the memory does not, for the time that firmware or another kernel has it (kernel: arch/x86/power/cpu.c). The
// general registers and the stack are the business of the machine code that leaves and comes back.
import {
  array,
  type Cr3,
  cpu,
  embedded,
  MSR_CSTAR,
  MSR_EFER,
  MSR_FS_BASE,
  MSR_GS_BASE,
  MSR_IA32_CR_PAT,
  MSR_IA32_MISC_ENABLE,
  MSR_IA32_SYSENTER_CS,
  MSR_IA32_SYSENTER_EIP,
  MSR_IA32_SYSENTER_ESP,
  MSR_KERNEL_GS_BASE,
  MSR_LSTAR,
  MSR_STAR,
  MSR_SYSCALL_MASK,
  MSR_TSC_AUX,
  MSR_X2APIC_LVTT,
  MSR_X2APIC_SIVR,
  struct,
  u32,
  word,
} from "../../hardware/index.ts";
import { reloadDescriptorTables } from "../entry/descriptor-tables.ts";
import { mitigationsInitCpu } from "../mitigations/select.ts";
import { readCr3, writeCr3Raw } from "../mm/cr3.ts";
import { staticStruct } from "../static-data.ts";

/** Registers that are saved and loaded as they are. */
const SAVED_MSRS = [
  MSR_EFER,
  MSR_STAR,
  MSR_LSTAR,
  MSR_CSTAR,
  MSR_SYSCALL_MASK,
  MSR_IA32_SYSENTER_CS,
  MSR_IA32_SYSENTER_ESP,
  MSR_IA32_SYSENTER_EIP,
  MSR_IA32_CR_PAT,
  MSR_IA32_MISC_ENABLE,
  MSR_TSC_AUX,
  MSR_FS_BASE,
  MSR_KERNEL_GS_BASE,
  MSR_GS_BASE,
  MSR_X2APIC_SIVR,
  MSR_X2APIC_LVTT,
] as const;

const MsrHalves = struct("saved_msr", { low: u32, high: u32 });
/** Kernel: struct saved_context. */
const SavedContext = struct("saved_context", {
  cr0: u32,
  cr4: u32,
  cr3: word,
  msrs: array(embedded(MsrHalves), SAVED_MSRS.length),
});
const savedContext = staticStruct("saved_context", SavedContext);

/** Kernel: `save_processor_state()`. Interrupts off, unrestricted. */
export function saveProcessorState(): void {
  const context = SavedContext.at(savedContext);
  context.cr0 = cpu.readCr0();
  context.cr4 = cpu.readCr4();
  context.cr3 = readCr3();
  for (const [i, msr] of SAVED_MSRS.entries()) {
    const low = cpu.readMsr(msr);
    const { high } = cpu;
    const slot = context.msrs.get(i);
    slot.low = low;
    slot.high = high;
  }
}

/**
 * Kernel: `restore_processor_state()`. Interrupts off. CR4 with PCIDE before CR3 with a process-context identifier, and CR3's was 0 until
 * then. What is selected against the CPU's bugs is written anew: a sleep forgets it.
 */
export function restoreProcessorState(): void {
  const context = SavedContext.at(savedContext);
  cpu.writeCr0(context.cr0);
  cpu.writeCr4(context.cr4);
  writeCr3Raw(context.cr3 as Cr3, false); // as it was read
  for (const [i, msr] of SAVED_MSRS.entries()) {
    const slot = context.msrs.get(i);
    const { low } = slot;
    cpu.writeMsr(msr, low, slot.high);
  }
  reloadDescriptorTables();
  mitigationsInitCpu();
}
