// What entry code may touch before it has the kernel's page tables, and after it gave them up: per CPU one page with GDT, TSS and the
// scratch words, the interrupt stacks and the entry stack; for all CPUs the entry text and the IDT (kernel: struct cpu_entry_area).
// With page-table isolation the user tables map this and nothing else of the kernel.
import { addVirt, bytes, PAGE_SIZE, perCpu, type VirtAddr, virtual, word } from "../../hardware/index.ts";

/** Bytes of the GDT: the selectors of vectors.ts. */
export const GDT_BYTES = 0x80;
export const TSS_BYTES = 104;
const TSS_AT = GDT_BYTES;
const SCRATCH_AT = TSS_AT + 128;

/** One page of this CPU: GDT, TSS, scratch words. */
export const cpuEntryPage = perCpu("cpu_entry_area", bytes(PAGE_SIZE, PAGE_SIZE));

/** An object inside the page, with the interface of a per-CPU variable as far as it is used. */
export interface EntryObject {
  readonly offset: number;
  here(): VirtAddr;
  at(base: VirtAddr): VirtAddr;
}

function inside(offset: number): EntryObject {
  return {
    offset: cpuEntryPage.offset + offset,
    here: () => addVirt(cpuEntryPage.here(), offset),
    at: (base) => addVirt(cpuEntryPage.at(base), offset),
  };
}

/** This CPU's GDT (kernel: gdt_page). */
export const gdtPage = inside(0);
/** This CPU's task state segment (kernel: cpu_tss_rw). */
export const cpuTss = inside(TSS_AT);
/** User RSP between SYSCALL and the first push (kernel: cpu_tss_rw.sp2). */
export const scratchRsp = inside(SCRATCH_AT);
/** Top of this CPU's entry stack (kernel: cpu_tss_rw.sp0). */
export const entryStackTop = inside(SCRATCH_AT + 8);
/** 1 when a 32-bit system call may end with SYSRET. Written by its handler with interrupts off, read by the stub right behind it. */
export const sysret32Allowed = inside(SCRATCH_AT + 16);

/** Interrupt stacks of this CPU by IST index (from 1): their tops, for whoever asks whether an address is on one. */
export const istTops = perCpu("exception_stacks", bytes(8 * 8, 8));

export function setIstTop(ist: number, top: VirtAddr): void {
  virtual.set(addVirt(istTops.here(), 8 * ist), top);
}

export function istTop(ist: number): VirtAddr {
  return virtual.get(addVirt(istTops.here(), 8 * ist));
}

export function writeEntryWord(object: EntryObject, value: number): void {
  word.set(object.here(), value);
}
