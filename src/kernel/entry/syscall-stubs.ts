// The entries of system calls in machine code: SYSCALL from 64-bit code, and the three ways of 32-bit code, SYSENTER, SYSCALL (AMD) and
// INT 0x80. Kernel: arch/x86/entry/entry_64.S and entry_64_compat.S.
import { type Assembler, byte, dword, ecx, gs, mem, qword, r11, rax, rcx, rdi, rsp } from "../../assembler/index.ts";
import { addVirt, cpu, RFLAGS_AC, RFLAGS_FIXED, RFLAGS_NT, RFLAGS_TF, virtual, word } from "../../hardware/index.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { topOfStack } from "../sched/current.ts";
import type { StubProgram } from "../stub-program.ts";
import { scratchRsp, sysret32Allowed } from "./entry-area.ts";
import { popAllButRdi, pushAndClearRegisters, saveRegisters, setStackPointer } from "./entry-registers.ts";
import {
  emitClearBhb,
  emitClearCpuBuffers,
  emitIbrsEnter,
  emitIbrsExit,
  emitSwitchToKernelCr3,
  emitSwitchToTaskStack,
  emitSwitchToUserTables,
  FRAME_AND_ERROR_BYTES,
  leaveByIret,
  stepClearBhb,
  stepIbrs,
  stepMoveToTaskStack,
  stepSwitchToKernelCr3,
} from "./entry-switches.ts";
import { PtRegs } from "./pt-regs.ts";
import { __USER_CS, __USER_DS, __USER32_CS } from "./vectors.ts";

/** Where RSP is the user's in kernel mode: from the first label up to, not including, the second. NMIs must not use it there. */
export const USER_STACK_WINDOWS = [
  ["entry_SYSCALL_64", "entry_SYSCALL_64_safe_stack"],
  ["entry_SYSRETQ_unsafe_stack", "entry_SYSRETQ_end"],
  ["entry_SYSCALL_compat", "entry_SYSCALL_compat_safe_stack"],
  ["entry_SYSRETL_compat_unsafe_stack", "entry_SYSRETL_compat_end"],
] as const;

const RFLAGS_RF = 0x10000;
const TRAP_FLAG_OR_RESUME_FLAG = RFLAGS_TF | RFLAGS_RF;
/** From RDI's place in pt_regs, to which RSP points when RDI is the last to be restored, behind it, to the user's RSP. */
const USER_RSP_BEHIND_RDI = PtRegs.offset.rsp - PtRegs.offset.origRax;

/** Everything is restored but RDI and RSP; the last instructions before `leave`. */
function emitSysret(a: Assembler, site: string, unsafe: string, leave: () => void): void {
  popAllButRdi(a);
  emitSwitchToUserTables(a, site);
  a.pop(rdi).mov(rsp, mem(rsp, USER_RSP_BEHIND_RDI));
  a.label(`${unsafe}_unsafe_stack`).swapgs();
  emitClearCpuBuffers(a, site);
  leave();
  a.label(`${unsafe}_end`);
}

/** In steps: the frame of SYSCALL on the task's stack, from the registers that the instruction left. */
function stepSyscallFrame(cs: number, rip: number, rflags: number, rsp: number): void {
  const frame = addVirt(virtual.get(topOfStack.here()), PtRegs.offset.origRax - PtRegs.bytes);
  saveRegisters(frame);
  const regs = addVirt(frame, -PtRegs.offset.origRax);
  const put = (offset: number, value: number): void => cpu.storeWord(addVirt(regs, offset), value);
  put(PtRegs.offset.ss, __USER_DS);
  put(PtRegs.offset.rsp, rsp);
  put(PtRegs.offset.rflags, rflags);
  put(PtRegs.offset.cs, cs);
  put(PtRegs.offset.rip, rip);
  put(PtRegs.offset.origRax, word.get(addVirt(regs, PtRegs.offset.rax)));
}

const RCX_CODE = 1;
const R11_CODE = 11;

function registerWord(code: number): number {
  const low = cpu.readRegister(code);
  return low + (cpu.high | 0) * 2 ** 32;
}

/** SYSCALL (kernel: entry_SYSCALL_64). Interrupts are off: MSR_SYSCALL_MASK clears IF. */
function syscallEntry(call: () => void): StubProgram {
  return {
    symbol: "entry_SYSCALL_64",
    program: (a) => {
      a.swapgs().mov(gs(scratchRsp.offset), rsp);
      emitSwitchToKernelCr3(a, "entry_SYSCALL_64", rsp);
      a.mov(rsp, gs(topOfStack.offset));
      a.label("entry_SYSCALL_64_safe_stack");
      a.push(__USER_DS)
        .push(qword(gs(scratchRsp.offset)))
        .push(r11)
        .push(__USER_CS)
        .push(rcx)
        .push(rax);
      pushAndClearRegisters(a);
      emitIbrsEnter(a, "entry_SYSCALL_64");
      emitClearBhb(a, "entry_SYSCALL_64");
      a.trap("do_syscall_64");
      // SYSRET restores RIP from RCX and RFLAGS from R11, and faults in kernel mode on a non-canonical RCX: else IRET.
      a.mov(rcx, mem(rsp, PtRegs.offset.rcx)).cmp(rcx, mem(rsp, PtRegs.offset.rip)).jnz("error_return");
      a.mov(r11, mem(rsp, PtRegs.offset.r11)).cmp(r11, mem(rsp, PtRegs.offset.rflags)).jnz("error_return");
      a.cmp(qword(mem(rsp, PtRegs.offset.cs)), __USER_CS).jnz("error_return");
      a.shr(rcx, 47).jnz("error_return");
      a.test(r11, TRAP_FLAG_OR_RESUME_FLAG).jnz("error_return");
      a.cmp(qword(mem(rsp, PtRegs.offset.ss)), __USER_DS).jnz("error_return");
      emitIbrsExit(a, "entry_SYSCALL_64");
      emitSysret(a, "entry_SYSCALL_64", "entry_SYSRETQ", () => a.sysretq());
    },
    effect: () => {
      const rsp = cpu.stackPointer();
      virtual.set(scratchRsp.here(), rsp);
      stepSwitchToKernelCr3();
      stepSyscallFrame(__USER_CS, registerWord(RCX_CODE), registerWord(R11_CODE), rsp);
      stepIbrs(true);
      stepClearBhb();
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** SYSRET to 32-bit code: without REX.W. */
function emitSysretl(a: Assembler): void {
  a.db(0x0f, 0x07);
}

/** The end of the two fast 32-bit calls: SYSRETL where the handler found it possible. */
function emitCompatReturn(a: Assembler): void {
  // Asked once: the word is 0 again for the next.
  a.xor(ecx, ecx)
    .xchg(gs(dword(mem(sysret32Allowed.offset))), ecx)
    .test(ecx, ecx)
    .jz("error_return")
    .jmp("sysret32_from_system_call");
}

/** Kernel: sysret32_from_system_call. EIP comes from ECX, EFLAGS from R11: both are given up, as their callers know. */
const sysret32: StubProgram = {
  symbol: "sysret32_from_system_call",
  program: (a) => {
    emitIbrsExit(a, "sysret32");
    a.mov(rcx, mem(rsp, PtRegs.offset.rip)).mov(mem(rsp, PtRegs.offset.rcx), rcx);
    a.mov(r11, mem(rsp, PtRegs.offset.rflags)).mov(mem(rsp, PtRegs.offset.r11), r11);
    // 64-bit registers that 32-bit code cannot see must not keep kernel values: they were cleared, or are the user's.
    emitSysret(a, "sysret32", "entry_SYSRETL_compat", () => emitSysretl(a));
  },
  effect: leaveByIret,
  tail: leaveByIret,
};

/**
 * SYSENTER from 32-bit code (kernel: entry_SYSENTER_compat). It saves nothing: RSP is the entry stack's top, the user's ESP is in EBP,
 * the way back is known. Flags are the user's, but IF and VM: TF single-steps the kernel up to where it is cleared.
 */
function sysenterEntry(call: () => void): StubProgram {
  return {
    symbol: "entry_SYSENTER_compat",
    program: (a) => {
      a.swapgs().push(rax);
      emitSwitchToKernelCr3(a, "entry_SYSENTER_compat", rax);
      a.pop(rax).mov(rsp, gs(topOfStack.offset));
      a.push(__USER_DS).push(0).pushfq().push(__USER32_CS).push(0).push(rax);
      pushAndClearRegisters(a);
      a.test(dword(mem(rsp, PtRegs.offset.rflags)), RFLAGS_NT | RFLAGS_AC | RFLAGS_TF).jz("entry_SYSENTER_compat.flags_fixed");
      a.push(RFLAGS_FIXED).popfq();
      a.label("entry_SYSENTER_compat.flags_fixed");
      a.label("__end_entry_SYSENTER_compat");
      emitIbrsEnter(a, "entry_SYSENTER_compat");
      emitClearBhb(a, "entry_SYSENTER_compat");
      a.trap("do_SYSENTER_32");
      emitCompatReturn(a);
    },
    effect: () => {
      stepSwitchToKernelCr3();
      stepSyscallFrame(__USER32_CS, 0, cpu.readFlags(), 0);
      stepIbrs(true);
      stepClearBhb();
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** SYSCALL from 32-bit code, on AMD only (kernel: entry_SYSCALL_compat). ECX holds the return address; the argument is in EBP. */
function syscallCompatEntry(call: () => void): StubProgram {
  return {
    symbol: "entry_SYSCALL_compat",
    program: (a) => {
      a.swapgs().mov(gs(scratchRsp.offset), rsp);
      emitSwitchToKernelCr3(a, "entry_SYSCALL_compat", rsp);
      a.mov(rsp, gs(topOfStack.offset));
      a.label("entry_SYSCALL_compat_safe_stack");
      a.push(__USER_DS)
        .push(qword(gs(scratchRsp.offset)))
        .push(r11)
        .push(__USER32_CS)
        .push(rcx)
        .push(rax);
      pushAndClearRegisters(a);
      a.mov(rcx, mem(rsp, PtRegs.offset.rbp)).mov(mem(rsp, PtRegs.offset.rcx), rcx).xor(rcx, rcx);
      emitIbrsEnter(a, "entry_SYSCALL_compat");
      emitClearBhb(a, "entry_SYSCALL_compat");
      a.trap("do_fast_syscall_32");
      emitCompatReturn(a);
    },
    effect: () => {
      const rsp = cpu.stackPointer();
      virtual.set(scratchRsp.here(), rsp);
      stepSwitchToKernelCr3();
      stepSyscallFrame(__USER32_CS, registerWord(RCX_CODE), registerWord(R11_CODE), rsp);
      const regs = cpu.stackPointer();
      word.set(addVirt(regs, PtRegs.offset.rcx), word.get(addVirt(regs, PtRegs.offset.rbp)));
      stepIbrs(true);
      stepClearBhb();
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** INT 0x80 (kernel: entry_INT80_compat, asm_int80_emulation). Any code may use it, 64-bit code too. */
function int80Entry(call: () => void): StubProgram {
  const symbol = "asm_int80_emulation";
  return {
    symbol,
    program: (a) => {
      a.push(rax);
      a.test(byte(mem(rsp, 16)), 3)
        .jz(`${symbol}.kernel`)
        .swapgs();
      emitSwitchToTaskStack(a, symbol);
      a.label(`${symbol}.kernel`);
      pushAndClearRegisters(a);
      emitIbrsEnter(a, symbol);
      emitClearBhb(a, symbol);
      a.trap("do_int80_emulation").jmp("error_return");
    },
    effect: () => {
      let frame = addVirt(cpu.stackPointer(), -8);
      setStackPointer(frame);
      const low = cpu.readRegister(0);
      cpu.store64(frame, low, cpu.high);
      if (ptiFeature.isEnabled()) {
        stepSwitchToKernelCr3();
        frame = stepMoveToTaskStack(frame, FRAME_AND_ERROR_BYTES / 8);
      }
      saveRegisters(frame);
      stepIbrs(true);
      stepClearBhb();
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

export interface SyscallHandlers {
  readonly doSyscall64: () => void;
  readonly doSysenter32: () => void;
  readonly doFastSyscall32: () => void;
  readonly doInt80Emulation: () => void;
}

export function syscallStubs(handlers: SyscallHandlers): readonly StubProgram[] {
  return [
    syscallEntry(handlers.doSyscall64),
    sysenterEntry(handlers.doSysenter32),
    syscallCompatEntry(handlers.doFastSyscall32),
    int80Entry(handlers.doInt80Emulation),
    sysret32,
  ];
}
