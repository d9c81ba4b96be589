// GDT, TSS and IDT: segments, the stack on which each interrupt arrives, and which entry stub it goes to. SDM vol. 3, 3.4.5, 7.14, 8.7.
import {
  addVirt,
  assert,
  cpu,
  high32,
  low32,
  MSR_IA32_FRED_RSP0,
  PAGE_SIZE,
  u16,
  type VirtAddr,
  virtual,
  word,
} from "../../hardware/index.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { fredFeature, ptiFeature } from "../mitigations/feature-keys.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { getFreePages } from "../mm/page-alloc.ts";
import { ptiCloneRootEntry, ptiMapKernelRange } from "../mm/pti.ts";
import { staticBytes } from "../static-data.ts";
import { cpuEntryPage, cpuTss, entryStackTop, GDT_BYTES, gdtPage, setIstTop, TSS_BYTES } from "./entry-area.ts";
import { ENTRY_TEXT_END, ENTRY_TEXT_START } from "./entry-text.ts";
import { ESPFIX_BASE_ADDR } from "./espfix-layout.ts";
import { fpuInitCpu } from "./fpu-stubs.ts";
import { mcheckCpuInit } from "./machine-check.ts";
import { GDT_ENTRY_TSS, IST_INDEX_DB, IST_INDEX_DF, IST_INDEX_MCE, IST_INDEX_NMI } from "./vectors.ts";

const TSS_RSP0 = 4;
const TSS_IST1 = 36;
const TSS_IO_MAP_BASE = 102;
const IDT_BYTES = 256 * 16;

/** One IDT for all CPUs (kernel: idt_table). */
export const idtTable = staticBytes("idt_table", IDT_BYTES, 4096);

// Segment descriptors, high halves: present, DPL, type, long mode or granularity. Base 0, limit 0xfffff.
const DESC_KERNEL32_CS = 0x00cf9b00;
const DESC_KERNEL_CS = 0x00af9b00;
const DESC_KERNEL_DS = 0x00cf9300;
const DESC_USER32_CS = 0x00cffb00;
const DESC_USER_DS = 0x00cff300;
const DESC_USER_CS = 0x00affb00;
const DESC_LIMIT_LOW = 0x0000ffff;
/** Available 64-bit TSS, present. */
const TYPE_TSS = 0x89;

function writeGdt(): void {
  const gdt = gdtPage.here();
  const put = (selector: number, high: number): void => cpu.store64(addVirt(gdt, selector & ~7), DESC_LIMIT_LOW, high);
  put(0x08, DESC_KERNEL32_CS);
  put(0x10, DESC_KERNEL_CS);
  put(0x18, DESC_KERNEL_DS);
  put(0x20, DESC_USER32_CS);
  put(0x28, DESC_USER_DS);
  put(0x30, DESC_USER_CS);
  const base = cpuTss.here();
  const low = low32(base);
  const limitAndBase = (TSS_BYTES - 1) | ((low & 0xffff) << 16);
  const typeAndBase = ((low >>> 16) & 0xff) | (TYPE_TSS << 8) | (low & 0xff000000);
  cpu.store64(addVirt(gdt, GDT_ENTRY_TSS), limitAndBase >>> 0, typeAndBase >>> 0);
  cpu.store64(addVirt(gdt, GDT_ENTRY_TSS + 8), high32(base), 0);
}

/** A page of stack, which the user's tables have too: what arrives on it arrives before the tables are switched. @returns its top. */
function allocStack(): VirtAddr {
  const stack = getFreePages(GFP_KERNEL, 0);
  assert(stack !== 0, () => "out of memory at boot: interrupt stack");
  const address = stack as VirtAddr; // not 0
  ptiMapKernelRange(address, PAGE_SIZE);
  return addVirt(address, PAGE_SIZE);
}

/** What entries of all CPUs need in the user's tables: their text, the IDT, the espfix area (kernel: `pti_init()`). Boot CPU. */
export function ptiInit(): void {
  const start = symbolAddress(ENTRY_TEXT_START);
  ptiMapKernelRange(start, symbolAddress(ENTRY_TEXT_END) - start);
  ptiMapKernelRange(idtTable, IDT_BYTES);
  ptiCloneRootEntry(ESPFIX_BASE_ADDR);
}

/**
 * Stack on which interrupts from user mode arrive: the top of the running task's (kernel: `update_task_stack()`). With page-table
 * isolation it is the entry stack, always: the user's tables do not have the task's.
 */
export function loadSp0(top: VirtAddr): void {
  if (!ptiFeature.isEnabled()) word.set(addVirt(cpuTss.here(), TSS_RSP0), top);
  if (fredFeature.isEnabled()) cpu.writeMsr(MSR_IA32_FRED_RSP0, low32(top), high32(top));
}

/** Makes and loads this CPU's GDT and TSS (kernel: `cpu_init_exception_handling()`). The page allocator is up. */
export function cpuInitExceptionHandling(): void {
  const tss = cpuTss.here();
  // A CPU that comes online again has its stacks already.
  if (virtual.get(entryStackTop.here()) !== 0) {
    reloadDescriptorTables();
    return;
  }
  ptiMapKernelRange(cpuEntryPage.here(), PAGE_SIZE);
  for (const ist of [IST_INDEX_DF, IST_INDEX_NMI, IST_INDEX_DB, IST_INDEX_MCE]) {
    const top = allocStack();
    word.set(addVirt(tss, TSS_IST1 + 8 * (ist - 1)), top);
    setIstTop(ist, top);
  }
  const entryStack = allocStack();
  virtual.set(entryStackTop.here(), entryStack);
  if (ptiFeature.isEnabled()) word.set(addVirt(tss, TSS_RSP0), entryStack);
  u16.set(addVirt(tss, TSS_IO_MAP_BASE), TSS_BYTES);
  reloadDescriptorTables();
}

/** Loads this CPU's GDT, TSS and IDT: at its start, and when a sleep has forgotten them. The TSS's descriptor is written anew, not busy. */
export function reloadDescriptorTables(): void {
  writeGdt();
  cpu.loadTable("gdt", gdtPage.here(), GDT_BYTES - 1);
  cpu.callStub("reload_segments");
  cpu.loadTable("tr", GDT_ENTRY_TSS, 0);
  cpu.loadTable("idt", idtTable, IDT_BYTES - 1);
  fpuInitCpu();
  mcheckCpuInit();
}

/** Gate of the IDT: 64-bit interrupt gate, so that interrupts are off at the handler's first instruction. */
const GATE_INTERRUPT = 0x8e00;
const DPL3 = 0x6000;
const KERNEL_CS = 0x10;

/** Points `vector` to the code at `entry` (kernel: `set_intr_gate()`). `ist`: 0 for the task's stack. */
export function setGate(vector: number, entry: VirtAddr, ist: number, isForUser: boolean): void {
  const low = low32(entry);
  const gate = addVirt(idtTable, 16 * vector);
  const flags = GATE_INTERRUPT | (isForUser ? DPL3 : 0) | ist;
  cpu.store64(gate, ((low & 0xffff) | (KERNEL_CS << 16)) >>> 0, ((low & 0xffff0000) | flags) >>> 0);
  cpu.store64(addVirt(gate, 8), high32(entry), 0);
}
