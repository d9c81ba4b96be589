// Page faults (arch/x86/mm/fault.c), with the rule of address space isolation: a fault in kernel mode leaves the restricted address
// space, and if the access can now succeed it is simply tried again (spec 2.13).
import { BUS_ADRERR, EIO, ENOMEM, SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL } from "../../abi/index.ts";
import {
  CR4_SMEP,
  type Cr3,
  cpu,
  cr3Root,
  fail,
  hex,
  isKernelAddress,
  NULL,
  PF_INSTR,
  PF_PROT,
  PF_RSVD,
  PF_WRITE,
  type PhysAddr,
  PTE_NX_HIGH,
  PTE_USER,
  PTE_WRITE,
  RFLAGS_IF,
  type VirtAddr,
} from "../../hardware/index.ts";
import { asiEnabled, asiRfcV2 } from "../asi/asi-state.ts";
import { Asi } from "../asi/asi-struct.ts";
import { asiExit } from "../asi/asi-transition.ts";
import { type PtRegs, userMode } from "../entry/pt-regs.ts";
import { forceSig } from "../linux/signal.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { spinLock, spinUnlock } from "../spinlock.ts";
import {
  EXIT_PAGE_FAULT,
  FAULT_FIXED_UP,
  FAULT_OOPS,
  FAULT_RETRY_AFTER_ASI,
  FAULT_USER_PAGE,
  printk,
  TRACE_ASI_FAULT,
  TRACE_PAGE_FAULT,
  trace,
  WARN_SENSITIVE_IN_CRITICAL,
  warn,
} from "../trace.ts";
import { readCr3Raw } from "./cr3.ts";
import { Mm, VmArea } from "./mm-struct.ts";
import { isPresent, lookupAddress } from "./page-table.ts";
import { searchExceptionTables } from "./uaccess.ts";
import { type Access, handleMmFault } from "./user-memory.ts";
import { findVma } from "./vma.ts";

/** Kernel: SIGBUS, SIGKILL, SIGSEGV. */
const SIGBUS = 7;
const SIGKILL = 9;
const SIGSEGV = 11;

/**
 * A page fault at `address` with the hardware's error code (kernel: `exc_page_fault()`, `handle_page_fault()`). Interrupts off, on
 * return too. Faults of user mode are handled in whatever address space the CPU is in; their own sensitive accesses fault again.
 */
export function handlePageFault(regs: PtRegs, errorCode: number, address: VirtAddr): void {
  if (!userMode(regs)) {
    const rip = regs.rip;
    // Perhaps a NOP: an NMI may have left already, and the fault was the restricted tables' all the same.
    asiExit(EXIT_PAGE_FAULT, address, rip);
    if (asiEnabled() && kernelAccessOk(errorCode, address, readCr3Raw())) {
      warnIfBadAsiPf(address);
      traceAsiFault(address, rip);
      trace(TRACE_PAGE_FAULT, address, errorCode, FAULT_RETRY_AFTER_ASI);
      return;
    }
  }
  if (isKernelAddress(address)) doKernAddrFault(regs, errorCode, address);
  else doUserAddrFault(regs, errorCode, address);
}

/**
 * True when the tables allow the access that faulted, so that it may be tried again (kernel: `kernel_access_ok()`). Beyond the posted
 * series, what the tables cannot allow is told apart, or it would be tried for ever (S6): reserved bits; a read that a present mapping
 * refused (SMAP); a fetch from a user page (SMEP).
 */
export function kernelAccessOk(errorCode: number, address: VirtAddr, cr3: Cr3): boolean {
  const isPosted = asiRfcV2.isEnabled();
  if ((errorCode & PF_RSVD) !== 0 && !isPosted) return false;
  if ((errorCode & (PF_PROT | PF_WRITE | PF_INSTR)) === PF_PROT && !isPosted) return false;
  const found = lookupAddress(cr3Root(cr3), address);
  if (!isPresent(found)) return false;
  if ((errorCode & PF_WRITE) !== 0) return (found.low & PTE_WRITE) !== 0;
  if ((errorCode & PF_INSTR) === 0) return true;
  if ((found.high & PTE_NX_HIGH) !== 0) return false;
  return isPosted || (found.low & PTE_USER) === 0 || (cpu.readCr4() & CR4_SMEP) === 0;
}

/** Kernel: the trace point of ASI faults: who touched what is not mapped in restricted address spaces, in which task. */
function traceAsiFault(address: VirtAddr, rip: number): void {
  trace(TRACE_ASI_FAULT, address, rip, TaskStruct.at(current()).pid);
}

/** The access was the critical section's own, and the domain does not map it: a bug of that code (kernel: `warn_if_bad_asi_pf()`). */
function warnIfBadAsiPf(address: VirtAddr): void {
  const { target, intrNestDepth } = TaskStruct.at(current()).thread.asiState;
  // Depth 1 is this fault itself; more, and it was an interrupt handler's access, which may touch what it likes.
  if (target === NULL || intrNestDepth !== 1) return;
  const pgd: PhysAddr = Asi.at(target).pgd;
  if (!isPresent(lookupAddress(pgd, address))) warn(WARN_SENSITIVE_IN_CRITICAL);
}

/** Kernel: `do_kern_addr_fault()`. */
function doKernAddrFault(regs: PtRegs, errorCode: number, address: VirtAddr): void {
  if (userMode(regs)) {
    badArea(regs, errorCode, address);
    return;
  }
  // A TLB that is behind a relaxed permission (kernel: spurious_kernel_fault()).
  if ((errorCode & PF_PROT) !== 0 && kernelAccessOk(errorCode, address, readCr3Raw())) return;
  badArea(regs, errorCode, address);
}

/** Kernel: `do_user_addr_fault()`. */
function doUserAddrFault(regs: PtRegs, errorCode: number, address: VirtAddr): void {
  const { mm } = TaskStruct.at(current());
  const isKernel = !userMode(regs);
  // Reserved bits are never set by us; the kernel does not run user code; a kernel thread has no user memory.
  if ((errorCode & PF_RSVD) !== 0 || mm === NULL || (isKernel && (errorCode & PF_INSTR) !== 0)) {
    badArea(regs, errorCode, address);
    return;
  }
  const hadInterrupts = (regs.rflags & RFLAGS_IF) !== 0;
  if (hadInterrupts) cpu.enableInterrupts();
  const access: Access = (errorCode & PF_WRITE) !== 0 ? "write" : (errorCode & PF_INSTR) !== 0 ? "execute" : "read";
  const error = handleMmFault(mm, address, access);
  // No page of the file there; no memory, where Linux would look for a process to end; no area.
  if (error !== 0) badArea(regs, errorCode, address, error === EIO ? SIGBUS : error === ENOMEM ? SIGKILL : SIGSEGV);
  else trace(TRACE_PAGE_FAULT, address, errorCode, FAULT_USER_PAGE);
  if (hadInterrupts) cpu.disableInterrupts();
}

/** What the handler of a fault's signal is told (kernel: si_code). */
function faultCode(signal: number, address: VirtAddr): number {
  if (signal === SIGBUS) return BUS_ADRERR;
  if (signal !== SIGSEGV) return SI_KERNEL;
  const { mm } = TaskStruct.at(current());
  if (isKernelAddress(address) || mm === NULL) return SEGV_MAPERR;
  const { mmapLock } = Mm.at(mm);
  spinLock(mmapLock);
  const vma = findVma(mm, address);
  const isInside = vma !== NULL && VmArea.at(vma).start <= address;
  spinUnlock(mmapLock);
  return isInside ? SEGV_ACCERR : SEGV_MAPERR;
}

/** Nothing can be mapped there: the user's signal, the kernel's fixup, or the end (kernel: `bad_area_nosemaphore()`, `page_fault_oops()`). */
function badArea(regs: PtRegs, errorCode: number, address: VirtAddr, signal = SIGSEGV): void {
  if (userMode(regs)) {
    const why = `segfault at ${hex(address)} ip ${hex(regs.rip)} error ${errorCode}`;
    forceSig(signal, why, { code: faultCode(signal, address), address: isKernelAddress(address) ? 0 : address });
    return;
  }
  const rip = regs.rip;
  const fixup = searchExceptionTables(rip as VirtAddr); // an address: RIP is canonical
  if (fixup !== 0) {
    regs.rip = fixup;
    trace(TRACE_PAGE_FAULT, address, errorCode, FAULT_FIXED_UP);
    return;
  }
  trace(TRACE_PAGE_FAULT, address, errorCode, FAULT_OOPS);
  printk(`BUG: unable to handle page fault for address: ${hex(address)}`);
  fail(`kernel oops: page fault at ${hex(address)}, error code ${errorCode}, RIP ${hex(rip)}, CPU ${cpu.id}, CR3 ${hex(readCr3Raw())}`);
}
