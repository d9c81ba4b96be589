// Machine checks (arch/x86/kernel/cpu/mce/core.c), as far as one error in one bank goes: the processor says whether what it interrupted can
// go on. They may arrive anywhere, inside a transition of address spaces too: the handler begins and ends as every other.
import {
  CR4_MCE,
  cpu,
  fail,
  hex,
  MCG_STATUS_RIPV,
  MSR_IA32_MC0_ADDR,
  MSR_IA32_MC0_STATUS,
  MSR_IA32_MCG_STATUS,
  ptr,
} from "../../hardware/index.ts";
import { forceSig } from "../linux/signal.ts";
import { printk } from "../trace.ts";
import { idtentry } from "./idtentry.ts";
import { PtRegs, userMode } from "./pt-regs.ts";

/** Kernel: SIGBUS, and si_code BUS_MCEERR_AR: the access that failed was the program's. */
const SIGBUS = 7;
const BUS_MCEERR_AR = 4;

/** Machine checks are delivered, instead of shutting the processor down (kernel: `mcheck_cpu_init()`). */
export function mcheckCpuInit(): void {
  cpu.writeCr4(cpu.readCr4() | CR4_MCE);
}

/** Another one may come from here on; until here it shuts the processor down. SDM vol. 3, 17.3.1.2. */
function machineCheckOver(): void {
  cpu.writeMsr(MSR_IA32_MCG_STATUS, 0, 0);
}

/** Kernel: `do_machine_check()`. `isUsers`: what failed was a program's access, or a guest's, and a signal ends it; the next one may then come. */
function doMachineCheck(rip: number, isUsers: boolean): void {
  const canGoOn = (cpu.readMsr(MSR_IA32_MCG_STATUS) & MCG_STATUS_RIPV) !== 0;
  const code = cpu.readMsr(MSR_IA32_MC0_STATUS) & 0xffff;
  const low = cpu.readMsr(MSR_IA32_MC0_ADDR);
  const address = cpu.high * 2 ** 32 + low;
  printk(`mce: [Hardware Error]: CPU ${cpu.id}: machine check, code ${hex(code)}, address ${hex(address)}, RIP ${hex(rip)}`);
  if (!canGoOn && !isUsers) fail(`kernel panic: fatal machine check: RIP ${hex(rip)}, address ${hex(address)}`);
  if (!canGoOn) forceSig(SIGBUS, `machine check at ${hex(rip)}`, { code: BUS_MCEERR_AR, address });
  cpu.writeMsr(MSR_IA32_MC0_STATUS, 0, 0);
  if (isUsers) machineCheckOver();
}

const machineCheck = idtentry((regs) => doMachineCheck(regs.rip, userMode(regs)));

/** A machine check made a guest exit, instead of coming through its gate (kernel: `kvm_machine_check()`). `rip`: the guest's. */
export function kvmMachineCheck(rip: number): void {
  doMachineCheck(rip, true);
}

/**
 * Kernel: `exc_machine_check()`, `do_machine_check()`. From the kernel it runs on the stack that the next one begins to use at its top, so
 * the next may come only when all is done, the way back into a restricted address space with its flushes included (the series left that
 * behind the point where MCIP is cleared). From user mode it runs on the task's stack, and may not come back.
 */
export function excMachineCheck(): void {
  const isFromUser = userMode(PtRegs.at(ptr<"pt_regs">(cpu.stackPointer())));
  machineCheck();
  if (!isFromUser) machineCheckOver();
}
