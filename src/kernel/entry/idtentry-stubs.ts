// The entries of exceptions and interrupts that run on the task's stack, and the way back, in machine code: each saves the interrupted
// registers as struct pt_regs and traps to the TypeScript function that handles it. No register but RSP is live across a trap, so a task
// switch inside is just another RSP. Kernel: the idtentry macro, error_entry, error_return.

import { at, byte, gs, mem, rax, rbx, rcx, rdi, rdx, rsp } from "../../assembler/index.ts";
import { addVirt, cpu } from "../../hardware/index.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { topOfStack } from "../sched/current.ts";
import type { StubProgram } from "../stub-program.ts";
import { alternative, emitFenceSwapgsKernel, emitFenceSwapgsUser } from "./alternatives.ts";
import { popAllButRdi, popRegisters, pushAndClearRegisters, pushNoError, saveRegisters } from "./entry-registers.ts";
import {
  emitClearCpuBuffers,
  emitIbrsEnter,
  emitIbrsExit,
  emitSwitchToKernelCr3,
  emitSwitchToTaskStack,
  emitSwitchToUserTables,
  FRAME_AND_ERROR_BYTES,
  leaveByIret,
  stepIbrs,
  stepMoveToTaskStack,
  stepSwitchToKernelCr3,
} from "./entry-switches.ts";
import { PtRegs } from "./pt-regs.ts";

/** The IRET to user mode, which may fault where it stands: selectors and RIP are the user's (kernel: native_irq_return_iret). */
export const NATIVE_IRQ_RETURN_IRET = "native_irq_return_iret";

/** An interrupt or exception that runs on the task's stack. `handler`: name of the trap. */
export function idtEntryStub(symbol: string, handler: string, hasErrorCode: boolean, call: () => void): StubProgram {
  return {
    symbol,
    program: (a) => {
      if (!hasErrorCode) a.push(-1);
      a.test(byte(mem(rsp, 16)), 3)
        .jz(`${symbol}.kernel`)
        .swapgs();
      emitFenceSwapgsUser(a, symbol);
      emitSwitchToTaskStack(a, symbol);
      a.label(`${symbol}.user`);
      pushAndClearRegisters(a);
      emitIbrsEnter(a, symbol);
      a.trap(handler).jmp("error_return");
      a.label(`${symbol}.kernel`);
      emitFenceSwapgsKernel(a, symbol);
      if (hasErrorCode) {
        // A fault of the IRET to user mode is the user's: it is handled as if it had come from there (kernel: error_bad_iret).
        a.push(rax).lea(rax, at(NATIVE_IRQ_RETURN_IRET)).cmp(rax, mem(rsp, 16)).pop(rax).jz(`${symbol}.bad_iret`);
      }
      pushAndClearRegisters(a);
      a.trap(handler).jmp("error_return");
      if (!hasErrorCode) return;
      a.label(`${symbol}.bad_iret`).swapgs();
      emitFenceSwapgsUser(a, `${symbol}.bad_iret`);
      a.push(rdx);
      emitSwitchToKernelCr3(a, `${symbol}.bad_iret`, rdx);
      // The frame that IRET could not use goes to where a frame from user mode would be; often it is there already (fixup_bad_iret()).
      a.push(rcx).push(rbx).push(rax);
      a.mov(rbx, mem(rsp, 32))
        .mov(rcx, mem(rsp, 32 + 32))
        .mov(rdx, gs(topOfStack.offset))
        .sub(rdx, FRAME_AND_ERROR_BYTES);
      for (let i = 0; i < 40; i += 8) a.mov(rax, mem(rcx, i)).mov(mem(rdx, 8 + i), rax);
      a.mov(mem(rdx), rbx);
      a.pop(rax).pop(rbx).pop(rcx).xchg(mem(rsp), rdx).mov(rsp, mem(rsp));
      a.jmp(`${symbol}.user`);
    },
    effect: () => {
      const delivered = cpu.stackPointer();
      const isUser = (cpu.load(addVirt(delivered, hasErrorCode ? 16 : 8), 1) & 3) !== 0;
      let frame = hasErrorCode ? delivered : pushNoError();
      if (isUser && ptiFeature.isEnabled()) {
        stepSwitchToKernelCr3();
        frame = stepMoveToTaskStack(frame, FRAME_AND_ERROR_BYTES / 8);
      }
      saveRegisters(frame);
      if (isUser) stepIbrs(true);
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

/** Stack segment selectors of the LDT have this bit: IRET to them restores only 16 bits of RSP, the rest would be the kernel's. */
const SEGMENT_TI_MASK = 4;

/** Return from an interrupt or exception, to user or kernel mode (kernel: error_return, swapgs_restore_regs_and_return_to_usermode). */
const errorReturn: StubProgram = {
  symbol: "error_return",
  program: (a) => {
    a.test(byte(mem(rsp, PtRegs.offset.cs)), 3).jz("error_return.kernel");
    emitIbrsExit(a, "error_return");
    popAllButRdi(a);
    emitSwitchToUserTables(a, "error_return");
    a.pop(rdi).add(rsp, 8).swapgs();
    emitClearCpuBuffers(a, "error_return");
    a.test(byte(mem(rsp, 32)), SEGMENT_TI_MASK).jnz("native_irq_return_ldt");
    a.label(NATIVE_IRQ_RETURN_IRET).iretq();
    a.label("error_return.kernel");
    popRegisters(a);
    a.add(rsp, 8).iretq();
  },
  effect: leaveByIret,
  tail: leaveByIret,
};

/** First code of a new task, which __switch_to_asm returns to (kernel: ret_from_fork_asm). */
export function retFromForkStub(call: () => void): StubProgram {
  return {
    symbol: "ret_from_fork",
    program: (a) => {
      a.trap("ret_from_fork");
      alternative(a, "fred", "ret_from_fork", () => a.jmp("asm_fred_exit_user"));
      a.jmp("error_return");
    },
    effect: () => {
      call();
      return leaveByIret();
    },
    tail: leaveByIret,
  };
}

export const returnStubs: readonly StubProgram[] = [errorReturn];
