// Frames of signal handlers (arch/x86/kernel/signal_64.c): what a handler of 64-bit code finds on its stack, and how the program goes on
// from it. The layouts are those of Linux (uapi asm/sigcontext.h, asm/ucontext.h).
import { EFAULT, type Errno, isErr, SA_ONSTACK, SA_RESTORER, SIGINFO_BYTES, SIGSEGV, SS_DISABLE, SS_ONSTACK } from "../../abi/index.ts";
import { addVirt, cpu, hex, RFLAGS_DF, RFLAGS_TF, type VirtAddr } from "../../hardware/index.ts";
import { type DeliveredSignal, forceSig, setBlocked, sigmaskToSave } from "../linux/signal.ts";
import { RESULT_IN_REGS } from "../linux/syscall-results.ts";
import { giveUserBytes, withUserBytes } from "../linux/user-arguments.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { FPREGS_BYTES, STUB_LOAD_FPREGS, STUB_SAVE_FPREGS } from "./fpu-stubs.ts";
import { PtRegs, taskPtRegs } from "./pt-regs.ts";
import { setupRtFrame32 } from "./signal-frame-32.ts";
import { __USER_CS, __USER_DS } from "./vectors.ts";

/** In sa_flags: the action was set by a 32-bit call (kernel: SA_IA32_ABI). */
export const SA_IA32_ABI = 0x02000000;

// struct rt_sigframe: return address, struct ucontext, siginfo.
const UC = 8;
const UC_STACK = UC + 16;
const UC_MCONTEXT = UC + 40;
const UC_SIGMASK = UC_MCONTEXT + 256;
const INFO = UC_SIGMASK + 8;
export const RT_SIGFRAME_BYTES = INFO + SIGINFO_BYTES;
/** UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS. */
const UC_FLAGS = 6;

// struct sigcontext: the registers in its order, then selectors and the rest.
const SIGCONTEXT_REGISTERS = [
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
  "rdi",
  "rsi",
  "rbp",
  "rbx",
  "rdx",
  "rax",
  "rcx",
  "rsp",
  "rip",
] as const;
const SC_RFLAGS = 8 * SIGCONTEXT_REGISTERS.length;
const SC_CS = SC_RFLAGS + 8;
const SC_SS = SC_CS + 6;
const SC_CR2 = SC_RFLAGS + 40;
const SC_FPSTATE = SC_RFLAGS + 48;

/** The area of FXSAVE: control words, MXCSR, and the vector registers. SDM vol. 1, table 10-2. */
const FXSAVE_BYTES = 512;
const FXSAVE_MXCSR = 24;
const FXSAVE_XMM = 160;
const FCW_DEFAULT = 0x37f;
const MXCSR_DEFAULT = 0x1f80;

/** Below RSP, and not to be overwritten: leaf functions use it. System V ABI, 3.2.2. */
const RED_ZONE_BYTES = 128;
/** Flags that sigreturn takes from the frame (kernel: FIX_EFLAGS): AC, RF, OF, DF, TF, SF, ZF, AF, PF, CF. */
export const FIX_EFLAGS = 0x50dd5;
const RFLAGS_RF = 0x10000;
const SELECTOR_RPL = 3;

/** Bytes of the alternate stack that the user's RSP is on; 0: it is not (kernel: `on_sig_stack()`). */
export function isOnSigStack(task: TaskStruct, sp: number): boolean {
  const { sasSp, sasBytes } = task;
  return sasBytes > 0 && sp > sasSp && sp - sasSp <= sasBytes;
}

/** Where the frame goes down from: the alternate stack, or the interrupted one without its red zone (kernel: `get_sigframe()`). */
export function frameTop(task: TaskStruct, delivered: DeliveredSignal, sp: number, redZone: number): number {
  if ((delivered.flags & SA_ONSTACK) !== 0 && task.sasBytes > 0 && !isOnSigStack(task, sp)) return task.sasSp + task.sasBytes;
  return sp - redZone;
}

/** A frame that would leave the alternate stack at its end is none: the program has overflowed it. */
export function isOffSigStack(task: TaskStruct, sp: number, frame: number): boolean {
  return isOnSigStack(task, sp) && !isOnSigStack(task, frame);
}

/** siginfo_t: number, errno, code, then the fields of its kind. */
export function storeSiginfo(at: VirtAddr, delivered: DeliveredSignal, isCompat: boolean): void {
  const { signal, info } = delivered;
  cpu.store(at, 4, signal);
  cpu.store(addVirt(at, 8), 4, info.code >>> 0);
  const fields = addVirt(at, isCompat ? 12 : 16);
  if (info.address !== undefined && info.pid === undefined) {
    if (isCompat) cpu.store(fields, 4, info.address >>> 0);
    else cpu.storeWord(fields, info.address);
    return;
  }
  cpu.store(fields, 4, (info.pid ?? 0) >>> 0);
  cpu.store(addVirt(fields, 8), 4, (info.status ?? 0) >>> 0);
}

/** Registers as 64-bit values: they may hold anything. */
function copy64(to: VirtAddr, from: VirtAddr): void {
  const low = cpu.load64(from);
  cpu.store64(to, low, cpu.high);
}

/** Makes the frame of `delivered` and the registers with which its handler begins (kernel: `setup_rt_frame()`). @returns EFAULT; ENOMEM. */
export function setupRtFrame(delivered: DeliveredSignal): 0 | Errno {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const regs = PtRegs.at(taskPtRegs(pointer));
  if ((delivered.flags & SA_IA32_ABI) !== 0) return setupRtFrame32(delivered, task, regs);
  if ((delivered.flags & SA_RESTORER) === 0) return EFAULT;
  const sp = regs.rsp;
  const top = frameTop(task, delivered, sp, RED_ZONE_BYTES);
  const fpstate = Math.floor((top - FXSAVE_BYTES) / 64) * 64;
  // As after a call: RSP + 8 is a multiple of 16 where the handler begins.
  const frame = Math.floor((fpstate - RT_SIGFRAME_BYTES) / 16) * 16 - 8;
  if (isOffSigStack(task, sp, frame)) return EFAULT;
  const error = giveUserBytes(frame, fpstate + FXSAVE_BYTES - frame, (buffer) => {
    cpu.fill(buffer, 0, fpstate + FXSAVE_BYTES - frame);
    cpu.storeWord(buffer, delivered.restorer);
    fillUcontext(buffer, task, regs, delivered, fpstate);
    storeSiginfo(addVirt(buffer, INFO), delivered, false);
    fillFpstate(addVirt(buffer, fpstate - frame));
  });
  if (error !== 0) return error;
  regs.rdi = delivered.signal;
  regs.rax = 0;
  regs.rsi = frame + INFO;
  regs.rdx = frame + UC;
  regs.rip = delivered.handler;
  regs.rsp = frame;
  regs.cs = __USER_CS;
  regs.ss = __USER_DS;
  regs.rflags &= ~(RFLAGS_DF | RFLAGS_RF | RFLAGS_TF);
  return 0;
}

function fillUcontext(frame: VirtAddr, task: TaskStruct, regs: PtRegs, delivered: DeliveredSignal, fpstate: number): void {
  cpu.storeWord(addVirt(frame, UC), UC_FLAGS);
  const stack = addVirt(frame, UC_STACK);
  cpu.storeWord(stack, task.sasSp);
  cpu.store(addVirt(stack, 8), 4, task.sasBytes === 0 ? SS_DISABLE : isOnSigStack(task, regs.rsp) ? SS_ONSTACK : 0);
  cpu.storeWord(addVirt(stack, 16), task.sasBytes);
  const context = addVirt(frame, UC_MCONTEXT);
  for (const [i, name] of SIGCONTEXT_REGISTERS.entries()) copy64(addVirt(context, 8 * i), addVirt(regs.address, PtRegs.offset[name]));
  cpu.storeWord(addVirt(context, SC_RFLAGS), regs.rflags);
  cpu.store(addVirt(context, SC_CS), 2, regs.cs);
  // With FRED the word holds more than the selector.
  cpu.store(addVirt(context, SC_SS), 2, cpu.load(addVirt(regs.address, PtRegs.offset.ss), 2));
  cpu.storeWord(addVirt(context, SC_CR2), delivered.info.address ?? 0);
  cpu.storeWord(addVirt(context, SC_FPSTATE), fpstate);
  const [low, high] = sigmaskToSave();
  cpu.store64(addVirt(frame, UC_SIGMASK), low, high);
}

export function fillFpstate(at: VirtAddr): void {
  cpu.store(at, 2, FCW_DEFAULT);
  cpu.store(addVirt(at, FXSAVE_MXCSR), 4, MXCSR_DEFAULT);
  cpu.callStub(STUB_SAVE_FPREGS, addVirt(at, FXSAVE_XMM));
}

/** The handler is done: everything is again as the frame says, which the program may have changed (kernel: `sys_rt_sigreturn()`). */
export function sysRtSigreturn(): number {
  const pointer = current();
  const task = TaskStruct.at(pointer);
  const regs = PtRegs.at(taskPtRegs(pointer));
  const frame = regs.rsp - 8;
  const fpstate = withUserBytes<number>(frame, INFO, (buffer) => restoreUcontext(buffer, task, regs));
  const isBad = isErr(fpstate) || (fpstate !== 0 && restoreFpstate(fpstate) !== 0);
  if (isBad) forceSig(SIGSEGV, `bad frame in rt_sigreturn at ${hex(frame)}`);
  return isBad ? 0 : RESULT_IN_REGS;
}

/** @returns the address of the vector registers' area, 0 for none. */
function restoreUcontext(frame: VirtAddr, task: TaskStruct, regs: PtRegs): number {
  const context = addVirt(frame, UC_MCONTEXT);
  for (const [i, name] of SIGCONTEXT_REGISTERS.entries()) copy64(addVirt(regs.address, PtRegs.offset[name]), addVirt(context, 8 * i));
  const flags = cpu.load(addVirt(context, SC_RFLAGS), 4);
  regs.rflags = ((regs.rflags & ~FIX_EFLAGS) | (flags & FIX_EFLAGS)) >>> 0;
  // User selectors, whatever the program wrote; a bad one faults at IRET, which is the user's fault then.
  regs.cs = cpu.load(addVirt(context, SC_CS), 2) | SELECTOR_RPL;
  regs.ss = cpu.load(addVirt(context, SC_SS), 2) | SELECTOR_RPL;
  // Not a system call any more: nothing is restarted.
  regs.origRax = -1;
  const low = cpu.load(addVirt(frame, UC_SIGMASK), 4);
  const high = cpu.load(addVirt(frame, UC_SIGMASK + 4), 4);
  restoreAltstack(
    task,
    cpu.loadWord(addVirt(frame, UC_STACK)),
    cpu.load(addVirt(frame, UC_STACK + 8), 4),
    cpu.loadWord(addVirt(frame, UC_STACK + 16)),
  );
  const fpstate = cpu.loadWord(addVirt(context, SC_FPSTATE));
  setBlocked(low, high);
  return fpstate;
}

/** Kernel: `restore_altstack()`: as sigaltstack(), but errors are ignored. */
export function restoreAltstack(task: TaskStruct, sp: number, flags: number, bytes: number): void {
  task.sasSp = (flags & SS_DISABLE) !== 0 ? 0 : sp;
  task.sasBytes = (flags & SS_DISABLE) !== 0 ? 0 : bytes;
}

export function restoreFpstate(at: number): 0 | Errno {
  return withUserBytes<0 | Errno>(at + FXSAVE_XMM, FPREGS_BYTES, (buffer) => {
    cpu.callStub(STUB_LOAD_FPREGS, 0, buffer);
    return 0;
  });
}
