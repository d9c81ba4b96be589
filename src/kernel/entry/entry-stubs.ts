// The entries of the kernel in machine code: each saves the interrupted registers as struct pt_regs on a kernel stack and traps to the
// TypeScript function that handles it. No register but RSP is live across a trap, so a task switch inside is just another RSP.
import {
  type Assembler,
  assemble,
  assembler,
  at,
  byte,
  eax,
  ebp,
  ebx,
  ecx,
  edi,
  edx,
  esi,
  gs,
  mem,
  qword,
  r8,
  r8d,
  r9,
  r9d,
  r10,
  r10d,
  r11,
  r11d,
  r12,
  r12d,
  r13,
  r13d,
  r14,
  r14d,
  r15,
  r15d,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from "../../assembler/index.ts";
import { addVirt, cpu, high32, LEAVE_IRETQ, low32, MSR_GS_BASE, perCpu, type VirtAddr, virtual, word } from "../../hardware/index.ts";
import { topOfStack } from "../sched/current.ts";
import { TaskStruct, ThreadStruct } from "../sched/task-struct.ts";
import type { StubProgram } from "../stub-program.ts";
import { PtRegs } from "./pt-regs.ts";
import { __USER_CS, __USER_DS } from "./vectors.ts";

/** User RSP between SYSCALL and the first push (kernel: cpu_tss_rw.sp2). */
const scratchRsp = perCpu("entry_scratch_rsp", virtual);

/** A general register that is restored in this order; the reverse is pushed. */
const RESTORE_ORDER = [r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi];
const CLEARED = [eax, ecx, edx, ebx, ebp, esi, edi, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];

/** Code that is the same wherever it lies, encoded when it is first wanted: every entry begins with the same thirty instructions. */
function encodedOnce(emit: (a: Assembler) => void): (a: Assembler) => void {
  let bytes: Uint8Array | undefined;
  return (a) => {
    if (bytes === undefined) {
      const alone = assembler();
      emit(alone);
      bytes = assemble(alone.program(), { origin: 0 }).bytes;
    }
    a.bytes(bytes);
  };
}

/** Saves and clears the general registers: values of the interrupted context must not steer speculation (PUSH_AND_CLEAR_REGS). */
const pushAndClearRegisters = encodedOnce((a) => {
  for (const register of [...RESTORE_ORDER].reverse()) a.push(register);
  for (const register of CLEARED) a.xor(register, register);
});

function popRegisters(a: Assembler): void {
  for (const register of RESTORE_ORDER) a.pop(register);
}

/** Restores, drops the error code and returns through the interrupt frame. */
function returnFromInterrupt(a: Assembler, swap: boolean): void {
  popRegisters(a);
  a.add(rsp, 8);
  if (swap) a.swapgs();
  a.iretq();
}

// General registers by their encoding, in RESTORE_ORDER.
const RESTORE_CODES = [15, 14, 13, 12, 5, 3, 11, 10, 9, 8, 0, 1, 2, 6, 7];
const RSP_CODE = 4;

function setStackPointer(value: number): void {
  cpu.writeRegister(RSP_CODE, low32(value), high32(value));
}

/** Stores the general registers below `frame`, where the error code is. RSP first, as a push does: an NMI uses what is below it. */
function saveRegisters(frame: VirtAddr): void {
  const regs = addVirt(frame, -8 * RESTORE_CODES.length);
  setStackPointer(regs);
  for (const [i, code] of RESTORE_CODES.entries()) {
    const low = cpu.readRegister(code);
    cpu.store64(addVirt(regs, 8 * i), low, cpu.high);
  }
}

/** What an entry without an error code pushes in its place. */
function pushNoError(delivered: VirtAddr): VirtAddr {
  const frame = addVirt(delivered, -8);
  setStackPointer(frame);
  cpu.storeWord(frame, -1);
  return frame;
}

/** What every entry program does after the handler, except SYSCALL's. */
function leaveByIret(): number {
  const regs = cpu.stackPointer();
  for (const [i, code] of RESTORE_CODES.entries()) {
    const low = cpu.load64(addVirt(regs, 8 * i));
    cpu.writeRegister(code, low, cpu.high);
  }
  setStackPointer(regs + PtRegs.offset.rip);
  return LEAVE_IRETQ;
}

/** An interrupt or exception that runs on the task's stack (kernel: the idtentry macro). `handler`: name of the trap. */
export function idtEntryStub(symbol: string, handler: string, hasErrorCode: boolean, call: () => void): StubProgram {
  return {
    symbol,
    program: (a) => {
      if (!hasErrorCode) a.push(-1);
      a.test(byte(mem(rsp, 16)), 3)
        .jz(`${symbol}.kernel`)
        .swapgs();
      a.label(`${symbol}.kernel`);
      pushAndClearRegisters(a);
      a.trap(handler).jmp("error_return");
    },
    effect: () => {
      const delivered = cpu.stackPointer();
      const frame = hasErrorCode ? delivered : pushNoError(delivered);
      saveRegisters(frame);
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** Return from an interrupt or exception, to user or kernel mode (kernel: error_return). */
const errorReturn: StubProgram = {
  symbol: "error_return",
  program: (a) => {
    a.test(byte(mem(rsp, PtRegs.offset.cs)), 3).jz("error_return.kernel");
    returnFromInterrupt(a, true);
    a.label("error_return.kernel");
    returnFromInterrupt(a, false);
  },
  effect: leaveByIret,
  tail: leaveByIret,
};

const TRAP_FLAG_OR_RESUME_FLAG = 0x10100;

/** SYSCALL (kernel: entry_SYSCALL_64). Interrupts are off: MSR_SYSCALL_MASK clears IF. */
function syscallEntry(call: () => void): StubProgram {
  return {
    symbol: "entry_SYSCALL_64",
    program: (a) => {
      a.swapgs().mov(gs(scratchRsp.offset), rsp).mov(rsp, gs(topOfStack.offset));
      a.label("entry_SYSCALL_64_safe_stack");
      a.push(__USER_DS)
        .push(qword(gs(scratchRsp.offset)))
        .push(r11)
        .push(__USER_CS)
        .push(rcx)
        .push(rax);
      pushAndClearRegisters(a);
      a.trap("do_syscall_64");
      // SYSRET restores RIP from RCX and RFLAGS from R11, and faults in kernel mode on a non-canonical RCX: else IRET.
      a.mov(rcx, mem(rsp, PtRegs.offset.rcx)).cmp(rcx, mem(rsp, PtRegs.offset.rip)).jnz("error_return");
      a.mov(r11, mem(rsp, PtRegs.offset.r11)).cmp(r11, mem(rsp, PtRegs.offset.rflags)).jnz("error_return");
      a.shr(rcx, 47).jnz("error_return");
      a.test(r11, TRAP_FLAG_OR_RESUME_FLAG).jnz("error_return");
      popRegisters(a);
      a.mov(rsp, mem(rsp, PtRegs.offset.rsp - PtRegs.offset.origRax));
      a.label("entry_SYSRETQ_unsafe_stack");
      a.swapgs().sysretq();
      a.label("entry_SYSRETQ_end");
    },
    effect: () => {
      scratchRsp.set(cpu.stackPointer());
      const frame = addVirt(topOfStack.get(), PtRegs.offset.origRax - PtRegs.bytes);
      saveRegisters(frame);
      const regs = addVirt(frame, -PtRegs.offset.origRax);
      const put = (offset: number, value: number): void => cpu.storeWord(addVirt(regs, offset), value);
      put(PtRegs.offset.ss, __USER_DS);
      put(PtRegs.offset.rsp, scratchRsp.get());
      put(PtRegs.offset.rflags, word.get(addVirt(regs, PtRegs.offset.r11)));
      put(PtRegs.offset.cs, __USER_CS);
      put(PtRegs.offset.rip, word.get(addVirt(regs, PtRegs.offset.rcx)));
      put(PtRegs.offset.origRax, word.get(addVirt(regs, PtRegs.offset.rax)));
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** In orig_rax of an NMI's pt_regs: what GS was. */
const KEEP_GS = -1;
const SWAP_GS_BACK = 1;
/** Bytes of the frame that the hardware pushes: RIP, CS, RFLAGS, RSP, SS. */
const FRAME_BYTES = 40;
/** RDX, RCX, RAX, RBX, pushed on the NMI stack while the frame is moved. */
const NMI_SAVED_BYTES = 32;

/**
 * NMI (kernel: asm_exc_nmi). It arrives on the NMI stack, which the next NMI uses again; and a page fault inside an NMI is ordinary
 * with ASI, and its IRET unblocks NMIs. So the frame is moved at once, while NMIs are still blocked, to the stack that was interrupted;
 * or to the task's stack, which is empty, if user code was interrupted, or the kernel where RSP is still or again the user's.
 */
function nmiEntry(call: () => void): StubProgram {
  return {
    symbol: "asm_exc_nmi",
    program: (a) => {
      a.test(byte(mem(rsp, 8)), 3).jz("asm_exc_nmi.kernel");
      a.swapgs().mov(gs(scratchRsp.offset), rdx).mov(rdx, rsp).mov(rsp, gs(topOfStack.offset));
      for (const offset of [32, 24, 16, 8, 0]) a.push(qword(mem(rdx, offset)));
      a.push(KEEP_GS).mov(rdx, gs(scratchRsp.offset));
      pushAndClearRegisters(a);
      a.trap("exc_nmi").jmp("error_return");
      a.label("asm_exc_nmi.kernel");
      a.push(rdx).push(rcx).push(rax).push(rbx);
      a.mov(ecx, MSR_GS_BASE).rdmsr().mov(rax, KEEP_GS).test(edx, edx).js("asm_exc_nmi.gs_ok");
      a.swapgs().mov(eax, SWAP_GS_BACK);
      a.label("asm_exc_nmi.gs_ok");
      a.mov(rdx, mem(rsp, NMI_SAVED_BYTES + 24)).mov(rcx, mem(rsp, NMI_SAVED_BYTES));
      // Where RSP is the user's in kernel mode: [entry, safe_stack) and [unsafe_stack, end).
      a.lea(rbx, at("entry_SYSCALL_64")).cmp(rcx, rbx).jb("asm_exc_nmi.stack_ok");
      a.lea(rbx, at("entry_SYSCALL_64_safe_stack")).cmp(rcx, rbx).jb("asm_exc_nmi.task_stack");
      a.lea(rbx, at("entry_SYSRETQ_unsafe_stack")).cmp(rcx, rbx).jb("asm_exc_nmi.stack_ok");
      a.lea(rbx, at("entry_SYSRETQ_end")).cmp(rcx, rbx).jae("asm_exc_nmi.stack_ok");
      a.label("asm_exc_nmi.task_stack").mov(rdx, gs(topOfStack.offset));
      a.label("asm_exc_nmi.stack_ok").and(rdx, -16);
      a.sub(rdx, FRAME_BYTES + 8).mov(mem(rdx), rax);
      for (let i = 0; i < FRAME_BYTES; i += 8) a.mov(rcx, mem(rsp, NMI_SAVED_BYTES + i)).mov(mem(rdx, 8 + i), rcx);
      a.pop(rbx).pop(rax).pop(rcx).xchg(mem(rsp), rdx).mov(rsp, mem(rsp));
      pushAndClearRegisters(a);
      a.trap("exc_nmi");
      a.cmp(qword(mem(rsp, PtRegs.offset.origRax)), SWAP_GS_BACK).jz("asm_exc_nmi.swap_back");
      returnFromInterrupt(a, false);
      a.label("asm_exc_nmi.swap_back");
      returnFromInterrupt(a, true);
    },
    effect: () => {
      const from = cpu.stackPointer();
      const isUser = (cpu.load(addVirt(from, 8), 1) & 3) !== 0;
      const interrupted = virtual.get(addVirt(from, 24));
      const stack = isUser || interrupted >= 0 ? topOfStack.get() : interrupted;
      const frame = addVirt((Math.floor(stack / 16) * 16) as VirtAddr, -FRAME_BYTES - 8); // rounded within the stack
      cpu.storeWord(frame, KEEP_GS);
      for (let i = 0; i < FRAME_BYTES; i += 8) cpu.storeWord(addVirt(frame, 8 + i), cpu.loadWord(addVirt(from, i)));
      saveRegisters(frame);
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** Double fault and machine check: fatal, on their own stacks. GS may be the user's. */
function fatalEntry(symbol: string, handler: string, hasErrorCode: boolean, call: () => void): StubProgram {
  return {
    symbol,
    program: (a) => {
      if (!hasErrorCode) a.push(-1);
      pushAndClearRegisters(a);
      a.mov(ecx, MSR_GS_BASE).rdmsr().test(edx, edx).js(`${symbol}.gs_ok`).swapgs();
      a.label(`${symbol}.gs_ok`).trap(handler).jmp("error_return");
    },
    effect: () => {
      const delivered = cpu.stackPointer();
      const frame = hasErrorCode ? delivered : pushNoError(delivered);
      saveRegisters(frame);
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** First code of a new task, which __switch_to_asm returns to (kernel: ret_from_fork_asm). */
function retFromFork(call: () => void): StubProgram {
  return {
    symbol: "ret_from_fork",
    program: (a) => {
      a.trap("ret_from_fork").jmp("error_return");
    },
    effect: () => {
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

const THREAD_SP = TaskStruct.offset.thread + ThreadStruct.offset.sp;
/** Registers that __switch_to_asm keeps on the sleeping task's stack (kernel: struct inactive_task_frame). */
export const INACTIVE_FRAME_REGISTERS = 6;

/**
 * Switches kernel stacks: RDI = prev, RSI = next (kernel: __switch_to_asm). It returns on next's stack. Without RSB_CTXSW: the return
 * stack stays as it is.
 */
const switchToAsm: StubProgram = {
  symbol: "__switch_to_asm",
  program: (a) => {
    a.push(rbp).push(rbx).push(r12).push(r13).push(r14).push(r15);
    a.mov(mem(rdi, THREAD_SP), rsp).mov(rsp, mem(rsi, THREAD_SP));
    a.pop(r15).pop(r14).pop(r13).pop(r12).pop(rbx).pop(rbp).ret();
  },
  effect: (prev, next) => {
    const previous = prev as VirtAddr; // task addresses, from the caller
    const following = next as VirtAddr;
    const stack = addVirt(cpu.stackPointer(), -8 * INACTIVE_FRAME_REGISTERS);
    cpu.storeWord(addVirt(previous, THREAD_SP), stack);
    setStackPointer(virtual.get(addVirt(following, THREAD_SP)) + 8 * INACTIVE_FRAME_REGISTERS);
    return 0;
  },
};

export interface EntryHandlers {
  readonly doSyscall64: () => void;
  readonly excNmi: () => void;
  readonly excDoubleFault: () => void;
  readonly excMachineCheck: () => void;
  readonly retFromFork: () => void;
}

/** The entries that are not plain exceptions or interrupts. */
export function specialEntryStubs(handlers: EntryHandlers): readonly StubProgram[] {
  return [
    syscallEntry(handlers.doSyscall64),
    nmiEntry(handlers.excNmi),
    fatalEntry("asm_exc_double_fault", "exc_double_fault", true, handlers.excDoubleFault),
    fatalEntry("asm_exc_machine_check", "exc_machine_check", false, handlers.excMachineCheck),
    retFromFork(handlers.retFromFork),
    errorReturn,
    switchToAsm,
  ];
}
