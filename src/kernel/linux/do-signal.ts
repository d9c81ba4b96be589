// Signals on the way to user mode (arch/x86/kernel/signal.c): a system call that a signal interrupted is restarted or ends with EINTR, and
// the program's handler gets its frame.
import { EINTR, SA_RESTART, SIGSEGV } from "../../abi/index.ts";
import { PtRegs, taskPtRegs } from "../entry/pt-regs.ts";
import { current } from "../sched/current.ts";
import { type DeliveredSignal, forceSig, getSignal, restoreSavedSigmask } from "./signal.ts";
import { ERESTARTNOHAND, ERESTARTSYS } from "./syscall-sleep.ts";

/** SYSCALL and INT 0x80 are two bytes. */
const SYSCALL_INSTRUCTION_BYTES = 2;

/** The call is made again when user code goes on. */
function restart(regs: PtRegs): void {
  regs.rax = regs.origRax;
  regs.rip -= SYSCALL_INSTRUCTION_BYTES;
}

/** Takes the signals of the running task (kernel: `arch_do_signal_or_restart()`). Interrupts on. `isSyscall`: on the way out of one. */
export function archDoSignalOrRestart(isSyscall: boolean): void {
  const regs = PtRegs.at(taskPtRegs(current()));
  const delivered = getSignal();
  const result = isSyscall ? regs.rax : 0;
  const isInterrupted = result === ERESTARTSYS || result === ERESTARTNOHAND;
  if (delivered === undefined) {
    if (isInterrupted) restart(regs);
    restoreSavedSigmask();
    return;
  }
  if (isInterrupted) {
    if (result === ERESTARTSYS && (delivered.flags & SA_RESTART) !== 0) restart(regs);
    else regs.rax = EINTR;
  }
  handleSignal(delivered);
}

/** A handler gets no frame yet: the process ends instead. */
function handleSignal(delivered: DeliveredSignal): void {
  forceSig(SIGSEGV, `no frame for signal ${delivered.signal}`);
}
