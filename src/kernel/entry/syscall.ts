// System calls: from the trap in entry_SYSCALL_64 to the result in RAX and back.

import { ENOSYS } from "../../abi/index.ts";
import { cpu } from "../../hardware/index.ts";
import { asiRelax } from "../asi/asi-transition.ts";
import { finishSyscall } from "../linux/syscall-sleep.ts";
import { syscallTable } from "../linux/syscall-table.ts";
import { current } from "../sched/current.ts";
import { staticBytes } from "../static-data.ts";
import { TRACE_SYSCALL, trace } from "../trace.ts";
import { exitToUserModePrepare } from "./exit-to-user.ts";
import { PtRegs, taskPtRegs } from "./pt-regs.ts";

/** Work of a real system call entry and exit beyond our steps (context tracking, audit checks, register clearing). Assumed. */
const SYSCALL_CYCLES = 120;
/** Data that a real entry and exit walk through beyond ours: context tracking, accounting, seccomp state. Assumed: 32 lines. */
const SYSCALL_TOUCHED_BYTES = 2048;
const syscallFootprint = staticBytes("syscall_footprint", SYSCALL_TOUCHED_BYTES, 4096);

/** Calls system call `number` with the arguments that its function takes: each is a load from pt_regs. */
export function dispatch64(regs: PtRegs, number: number): number {
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

/**
 * Kernel: `do_syscall_64()`. Interrupts are off on entry. The process's critical section ends here, since the call may lead to another
 * domain (KVM_RUN); the end of syscallExit() begins the next (spec 2.15).
 */
export function doSyscall64(): void {
  asiRelax();
  const regs = PtRegs.at(taskPtRegs(current()));
  const number = regs.origRax;
  cpu.charge(SYSCALL_CYCLES);
  cpu.touch(syscallFootprint, SYSCALL_TOUCHED_BYTES);
  cpu.enableInterrupts();
  trace(TRACE_SYSCALL, number);
  syscallExit(finishSyscall(dispatch64(regs, number)));
}

/**
 * The end of a system call of the running task: also what a path that went on from a cut point ends with (kernel:
 * `syscall_exit_to_user_mode()`).
 */
export function syscallExit(result: number): void {
  PtRegs.at(taskPtRegs(current())).rax = result;
  exitToUserModePrepare(true);
}
