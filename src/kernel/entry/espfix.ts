// Returns to 16-bit stack segments: the area of read-only stacks, and the code that goes through it (kernel: espfix_64.c,
// native_irq_return_ldt). See espfix-layout.ts for the reason.
import { cr3, eax, gs, mem, rax, rdi, rdx, rsp } from "../../assembler/index.ts";
import {
  addVirt,
  assert,
  cpu,
  PAGE_SIZE,
  type PhysAddr,
  PTE_ACCESSED,
  PTE_NX_HIGH,
  PTE_PRESENT,
  PTE_WRITE,
  tableIndex,
  type VirtAddr,
  virtual,
} from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { pa, va } from "../mm/layout.ts";
import { initMm, Mm } from "../mm/mm-struct.ts";
import { getFreePages } from "../mm/page-alloc.ts";
import { staticBytes } from "../static-data.ts";
import type { StubProgram } from "../stub-program.ts";
import { alternative } from "./alternatives.ts";
import { emitClearCpuBuffers, emitSwitchToKernelCr3, PTI_USER_PCID_BIT, PTI_USER_PGTABLE_BIT } from "./entry-switches.ts";
import { ESPFIX_BASE_ADDR, ESPFIX_STACK_BYTES, ESPFIX_STACKS_PER_PAGE, espfixStack, espfixWaddr } from "./espfix-layout.ts";
import { NATIVE_IRQ_RETURN_IRET } from "./idtentry-stubs.ts";

/** Direct-map address of the page with the stacks of all CPUs; 64 CPUs share one, more are not supported. */
const stackPage = staticBytes("espfix_pages", 8, 8);

const TABLE = PTE_PRESENT | PTE_ACCESSED | PTE_WRITE; // the leaf forbids writing
const READ_ONLY = PTE_PRESENT | PTE_ACCESSED;
/** Addresses that differ in bits 31:16 show the same bytes: of each table of pages every 16th entry, all large regions of 4 GiB alike. */
const PAGES_PER_64K = 16;
const PUD_CLONES = 4;

function newTable(): VirtAddr {
  const table = getFreePages(GFP_KERNEL, 0);
  assert(table !== 0, () => "out of memory at boot: espfix area");
  const address = table as VirtAddr; // not 0
  cpu.fill(address, 0, PAGE_SIZE);
  return address;
}

function put(table: VirtAddr, index: number, target: PhysAddr, flags: number, high: number): void {
  cpu.store64(addVirt(table, 8 * index), (target % 2 ** 32) + flags, Math.floor(target / 2 ** 32) + high);
}

/**
 * Makes the area: one root entry, one table of each level below, all of whose entries that can be reached lead to one page (kernel:
 * `init_espfix_bsp()`). Boot CPU, before any mm copies the kernel's root entries.
 */
export function initEspfixArea(): void {
  const pages = newTable();
  const ptes = newTable();
  const pmds = newTable();
  const puds = newTable();
  virtual.set(stackPage, pages);
  for (let i = 0; i < 512; i += PAGES_PER_64K) put(ptes, i, pa(pages), READ_ONLY, PTE_NX_HIGH);
  for (let i = 0; i < 512; i++) put(pmds, i, pa(ptes), TABLE, 0);
  for (let i = 0; i < PUD_CLONES; i++) put(puds, i, pa(pmds), TABLE, 0);
  put(va(Mm.at(initMm).pgd), tableIndex(ESPFIX_BASE_ADDR, 4), pa(puds), TABLE, 0);
}

/** This CPU's stack (kernel: `init_espfix_ap()`). */
export function initEspfixCpu(): void {
  assert(cpu.id < ESPFIX_STACKS_PER_PAGE, () => `espfix: CPU ${cpu.id} has no stack`);
  const offset = cpu.id * ESPFIX_STACK_BYTES;
  espfixStack.set(addVirt(ESPFIX_BASE_ADDR, offset));
  espfixWaddr.set(addVirt(virtual.get(stackPage), offset));
}

/** The label from which RSP is in the area. */
export const ESPFIX_UNSAFE_LABEL = "native_irq_return_ldt.espfix_stack";

/** RSP at the frame of an IRET whose SS is of the LDT; GS and tables are the user's. */
const nativeIrqReturnLdt: StubProgram = {
  symbol: "native_irq_return_ldt",
  program: (a) => {
    const site = "native_irq_return_ldt";
    a.push(rdi).swapgs();
    emitSwitchToKernelCr3(a, site, rdi);
    a.mov(rdi, gs(espfixWaddr.offset)).mov(mem(rdi), rax);
    for (const offset of [8, 16, 24, 40, 32]) a.mov(rax, mem(rsp, offset)).mov(mem(rdi, offset), rax);
    // RAX is the user's RSP.
    a.and(eax, -65536).pop(rdi).or(rax, gs(espfixStack.offset));
    alternative(a, "pti", `${site}.back1`, () => a.push(rdx).mov(rdx, cr3));
    alternative(a, "pti_pcid", `${site}.back`, () => a.bts(rdx, 63));
    alternative(a, "pti", `${site}.back2`, () =>
      a
        .or(rdx, PTI_USER_PGTABLE_BIT | PTI_USER_PCID_BIT)
        .mov(cr3, rdx)
        .pop(rdx),
    );
    a.swapgs().mov(rsp, rax).label(ESPFIX_UNSAFE_LABEL).pop(rax);
    emitClearCpuBuffers(a, site);
    a.jmp(NATIVE_IRQ_RETURN_IRET);
  },
  effect: () => 0,
};

export const espfixStubs: readonly StubProgram[] = [nativeIrqReturnLdt];
