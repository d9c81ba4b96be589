// Switching kernel stacks, in machine code (kernel: __switch_to_asm).
import { mem, r12, r13, r14, r15, rbp, rbx, rdi, rsi, rsp } from "../../assembler/index.ts";
import { addVirt, cpu, STUB_FILL_RETURN_BUFFER, type VirtAddr, virtual } from "../../hardware/index.ts";
import { rsbCtxsw } from "../mitigations/feature-keys.ts";
import { emitFillReturnBuffer } from "../mitigations/flush-stubs.ts";
import { TaskStruct, ThreadStruct } from "../sched/task-struct.ts";
import type { StubProgram } from "../stub-program.ts";
import { alternative } from "./alternatives.ts";
import { setStackPointer } from "./entry-registers.ts";
import { emitLoadFpregs, emitSaveFpregs } from "./fpu-stubs.ts";

const THREAD_FPU = TaskStruct.offset.thread + ThreadStruct.offset.fpu;
const THREAD_SP = TaskStruct.offset.thread + ThreadStruct.offset.sp;
/** Registers that __switch_to_asm keeps on the sleeping task's stack (kernel: struct inactive_task_frame). */
export const INACTIVE_FRAME_REGISTERS = 6;

/**
 * Switches kernel stacks and vector registers: RDI = prev, RSI = next. It returns on next's stack; with RSB_CTXSW the return stack is overwritten before
 * that: its entries are of prev's calls, or of what prev ran in user mode.
 */
export const switchToAsm: StubProgram = {
  symbol: "__switch_to_asm",
  program: (a) => {
    a.push(rbp).push(rbx).push(r12).push(r13).push(r14).push(r15);
    emitSaveFpregs(a, THREAD_FPU);
    emitLoadFpregs(a, THREAD_FPU);
    a.mov(mem(rdi, THREAD_SP), rsp).mov(rsp, mem(rsi, THREAD_SP));
    alternative(a, "rsb_ctxsw", "__switch_to_asm", () => emitFillReturnBuffer(a, "__switch_to_asm.fill"));
    a.pop(r15).pop(r14).pop(r13).pop(r12).pop(rbx).pop(rbp).ret();
  },
  effect: (prev, next) => {
    if (rsbCtxsw.isEnabled()) cpu.callStub(STUB_FILL_RETURN_BUFFER);
    const previous = prev as VirtAddr; // task addresses, from the caller
    const following = next as VirtAddr;
    const stack = addVirt(cpu.stackPointer(), -8 * INACTIVE_FRAME_REGISTERS);
    cpu.storeWord(addVirt(previous, THREAD_SP), stack);
    setStackPointer(virtual.get(addVirt(following, THREAD_SP)) + 8 * INACTIVE_FRAME_REGISTERS);
    return 0;
  },
};
