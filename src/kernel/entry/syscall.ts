// System calls: from the trap in entry_SYSCALL_64 to the result in RAX and back, and what all kinds share.

import { ENOSYS } from "../../abi/index.ts";
import { cpu, ptr } from "../../hardware/index.ts";
import { asiRelax } from "../asi/asi-transition.ts";
import { RESULT_IN_REGS, SYSCALL_IS_OVER } from "../linux/syscall-results.ts";
import { finishSyscall } from "../linux/syscall-sleep.ts";
import { type Syscall, syscallTable } from "../linux/syscall-table.ts";
import { current } from "../sched/current.ts";
import { staticBytes } from "../static-data.ts";
import { TRACE_SYSCALL, trace } from "../trace.ts";
import { exitToUserModePrepare } from "./exit-to-user.ts";
import { PtRegs, taskPtRegs } from "./pt-regs.ts";
import { syscallTable32 } from "./syscall-table-32.ts";

/** Work of a real system call entry and exit beyond our steps (context tracking, audit checks, register clearing). Assumed. */
const SYSCALL_CYCLES = 120;
/** Data that a real entry and exit walk through beyond ours: context tracking, accounting, seccomp state. Assumed: 32 lines. */
const SYSCALL_TOUCHED_BYTES = 2048;
const syscallFootprint = staticBytes("syscall_footprint", SYSCALL_TOUCHED_BYTES, 4096);

/** In orig_rax, above the number: a call of the 32-bit table (what Linux keeps as TS_COMPAT). */
export const COMPAT_SYSCALL = 2 ** 32;

/** Calls the function of orig_rax with the arguments that it takes: each is a load from pt_regs. May be called again: SLEEP. */
export function dispatchSyscall(regs: PtRegs, number: number): number {
  if (number >= COMPAT_SYSCALL) return dispatch32(regs, number - COMPAT_SYSCALL);
  const call = syscallTable.get(number);
  if (call === undefined) return ENOSYS;
  const count = call.length;
  return call(
    count > 0 ? regs.rdi : 0,
    count > 1 ? regs.rsi : 0,
    count > 2 ? regs.rdx : 0,
    count > 3 ? regs.r10 : 0,
    count > 4 ? regs.r8 : 0,
    count > 5 ? regs.r9 : 0,
  );
}

/** Kernel: `do_syscall_32_irqs_on()`: arguments are the low halves of EBX, ECX, EDX, ESI, EDI, EBP. */
function dispatch32(regs: PtRegs, number: number): number {
  const call = syscallTable32.get(number);
  if (call === undefined) return ENOSYS;
  const count = call.length;
  return call(
    count > 0 ? regs.rbx >>> 0 : 0,
    count > 1 ? regs.rcx >>> 0 : 0,
    count > 2 ? regs.rdx >>> 0 : 0,
    count > 3 ? regs.rsi >>> 0 : 0,
    count > 4 ? regs.rdi >>> 0 : 0,
    count > 5 ? regs.rbp >>> 0 : 0,
  );
}

/** Costs of an entry, then interrupts on (kernel: `syscall_enter_from_user_mode()`). `isCompat`: of the 32-bit table. */
export function syscallEnterFromUserMode(number: number, isCompat: boolean): void {
  cpu.charge(SYSCALL_CYCLES);
  cpu.touch(syscallFootprint, SYSCALL_TOUCHED_BYTES);
  cpu.enableInterrupts();
  trace(TRACE_SYSCALL, number, isCompat ? 1 : 0);
}

/**
 * Kernel: `do_syscall_64()`. Interrupts are off on entry. `added`: a call that a run adds to the table under ADDED_SYSCALL, for what the
 * kernel does that no other call asks for.
 */
export function syscall64(added?: Syscall): () => void {
  return () => {
    // First of all: the process's critical section ends here, since the call may lead to another domain (KVM_RUN); the end of
    // syscallExit() begins the next (spec 2.15).
    asiRelax();
    const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
    const number = regs.origRax;
    syscallEnterFromUserMode(number, false);
    if (number === ADDED_SYSCALL && added !== undefined) {
      syscallExit(added(regs.rdi, regs.rsi, 0, 0, 0, 0));
      return;
    }
    // A user may say a number that would be taken for the other table's.
    syscallExit(number >= COMPAT_SYSCALL ? ENOSYS : finishSyscall(dispatchSyscall(regs, number)));
  };
}

/** Beyond the numbers of Linux. */
export const ADDED_SYSCALL = 0x7000;

/**
 * The end of a system call of the running task: also what a path that went on from a cut point ends with (kernel:
 * `syscall_exit_to_user_mode()`). `decide`: how to leave.
 */
export function syscallExit(result: number, decide?: () => void): void {
  if (result === SYSCALL_IS_OVER) return;
  if (result !== RESULT_IN_REGS) PtRegs.at(taskPtRegs(current())).rax = result;
  exitToUserModePrepare(true, decide);
}
