// Frames of signal handlers of 32-bit code (arch/x86/ia32/ia32_signal.c): always the larger, "real-time" one. Layouts: uapi
// asm/sigcontext.h, asm-generic/compat.h.
import { EFAULT, type Errno, isErr, SA_RESTORER, SIGINFO_BYTES, SIGSEGV, SS_DISABLE, SS_ONSTACK } from "../../abi/index.ts";
import { addVirt, cpu, hex, RFLAGS_DF, RFLAGS_TF, type VirtAddr } from "../../hardware/index.ts";
import { type DeliveredSignal, forceSig, setBlocked, sigmaskToSave } from "../linux/signal.ts";
import { RESULT_IN_REGS } from "../linux/syscall-results.ts";
import { giveUserBytes, withUserBytes } from "../linux/user-arguments.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { PtRegs, taskPtRegs } from "./pt-regs.ts";
import { FIX_EFLAGS, frameTop, isOffSigStack, isOnSigStack, restoreAltstack, storeSiginfo } from "./signal-frame.ts";
import { vdso32SigreturnAddress } from "./vdso-32.ts";
import { __USER_DS, __USER32_CS } from "./vectors.ts";

// struct rt_sigframe_ia32: return address, number, pointers to the next two, siginfo, ucontext, code that nothing runs.
const PINFO = 8;
const PUC = 12;
const INFO = 16;
const UC = INFO + SIGINFO_BYTES;
const UC_STACK = UC + 8;
const UC_MCONTEXT = UC + 20;
const UC_SIGMASK = UC_MCONTEXT + 88;
const RETCODE = UC_SIGMASK + 8;
const FRAME_BYTES = RETCODE + 8;

// struct sigcontext_32: four segment registers, then the general ones in its order, then the rest.
const SEGMENTS = [0, 0, __USER_DS, __USER_DS];
const SC_REGISTERS = ["rdi", "rsi", "rbp", "rsp", "rbx", "rdx", "rcx", "rax"] as const;
const SC_FIRST_REGISTER = 16;
const SC_IP = SC_FIRST_REGISTER + 4 * SC_REGISTERS.length + 8;
const SC_CS = SC_IP + 4;
const SC_FLAGS = SC_IP + 8;
const SC_SP_AT_SIGNAL = SC_IP + 12;
const SC_SS = SC_IP + 16;
const SC_CR2 = SC_IP + 28;

const RFLAGS_RF = 0x10000;
const SELECTOR_RPL = 3;

/** Kernel: `ia32_setup_rt_frame()`. @returns EFAULT; ENOMEM. */
export function setupRtFrame32(delivered: DeliveredSignal, task: TaskStruct, regs: PtRegs): 0 | Errno {
  const sp = regs.rsp;
  const top = frameTop(task, delivered, sp, 0);
  const frame = Math.floor((top - FRAME_BYTES + 4) / 16) * 16 - 4;
  if (frame < 0 || isOffSigStack(task, sp, frame)) return EFAULT;
  const restorer = (delivered.flags & SA_RESTORER) !== 0 ? delivered.restorer : vdso32SigreturnAddress();
  const error = giveUserBytes(frame, FRAME_BYTES, (buffer) => {
    const put = (offset: number, value: number): void => cpu.store(addVirt(buffer, offset), 4, value >>> 0);
    cpu.fill(buffer, 0, FRAME_BYTES);
    put(0, restorer);
    put(4, delivered.signal);
    put(PINFO, frame + INFO);
    put(PUC, frame + UC);
    storeSiginfo(addVirt(buffer, INFO), delivered, true);
    put(UC_STACK, task.sasSp);
    put(UC_STACK + 4, task.sasBytes === 0 ? SS_DISABLE : isOnSigStack(task, sp) ? SS_ONSTACK : 0);
    put(UC_STACK + 8, task.sasBytes);
    fillContext(addVirt(buffer, UC_MCONTEXT), regs, delivered);
    const [low, high] = sigmaskToSave();
    cpu.store64(addVirt(buffer, UC_SIGMASK), low, high);
  });
  if (error !== 0) return error;
  regs.rsp = frame;
  regs.rip = delivered.handler;
  regs.rax = delivered.signal;
  regs.rdx = frame + INFO;
  regs.rcx = frame + UC;
  regs.cs = __USER32_CS;
  regs.ss = __USER_DS;
  regs.rflags &= ~(RFLAGS_DF | RFLAGS_RF | RFLAGS_TF);
  return 0;
}

function fillContext(context: VirtAddr, regs: PtRegs, delivered: DeliveredSignal): void {
  const put = (offset: number, value: number): void => cpu.store(addVirt(context, offset), 4, value >>> 0);
  for (const [i, selector] of SEGMENTS.entries()) put(4 * i, selector);
  for (const [i, name] of SC_REGISTERS.entries()) put(SC_FIRST_REGISTER + 4 * i, cpu.load(addVirt(regs.address, PtRegs.offset[name]), 4));
  put(SC_IP, regs.rip);
  put(SC_CS, regs.cs);
  put(SC_FLAGS, regs.rflags);
  put(SC_SP_AT_SIGNAL, regs.rsp);
  put(SC_SS, cpu.load(addVirt(regs.address, PtRegs.offset.ss), 2));
  put(SC_CR2, delivered.info.address ?? 0);
}

/** Kernel: `compat_sys_rt_sigreturn()`. The restorer popped nothing but its own address. */
export function sysRtSigreturn32(): number {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const regs = PtRegs.at(taskPtRegs(pointer));
  const frame = regs.rsp - 4;
  const error = withUserBytes<number>(frame, FRAME_BYTES, (buffer) => {
    const take = (offset: number): number => cpu.load(addVirt(buffer, offset), 4);
    for (const [i, name] of SC_REGISTERS.entries())
      cpu.store64(addVirt(regs.address, PtRegs.offset[name]), take(UC_MCONTEXT + SC_FIRST_REGISTER + 4 * i), 0);
    regs.rip = take(UC_MCONTEXT + SC_IP);
    regs.cs = (take(UC_MCONTEXT + SC_CS) & 0xffff) | SELECTOR_RPL;
    regs.ss = (take(UC_MCONTEXT + SC_SS) & 0xffff) | SELECTOR_RPL;
    regs.rflags = ((regs.rflags & ~FIX_EFLAGS) | (take(UC_MCONTEXT + SC_FLAGS) & FIX_EFLAGS)) >>> 0;
    regs.origRax = -1;
    restoreAltstack(task, take(UC_STACK), take(UC_STACK + 4), take(UC_STACK + 8));
    setBlocked(take(UC_SIGMASK), take(UC_SIGMASK + 4));
    return 0;
  });
  if (!isErr(error)) return RESULT_IN_REGS;
  forceSig(SIGSEGV, `bad frame in rt_sigreturn at ${hex(frame)}`);
  return 0;
}
