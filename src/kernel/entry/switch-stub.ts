// Switching kernel stacks, in machine code (kernel: __switch_to_asm).
import { ds, eax, edi, es, mem, r12, r13, r14, r15, rbp, rbx, rdi, rsi, rsp, word } from "../../assembler/index.ts";
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
const THREAD_DS = TaskStruct.offset.thread + ThreadStruct.offset.ds;
const THREAD_ES = TaskStruct.offset.thread + ThreadStruct.offset.es;
const LOAD_DS = "__switch_to_asm.load_ds";
const LOAD_ES = "__switch_to_asm.load_es";
const BAD_DS = "__switch_to_asm.bad_ds";
const BAD_ES = "__switch_to_asm.bad_es";
/** Instructions of the switch that may fault, and where it goes on then. */
export const SEGMENT_FIXUPS = [
  [LOAD_DS, BAD_DS],
  [LOAD_ES, BAD_ES],
] as const;

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
    a.mov(word(mem(rdi, THREAD_DS)), ds).mov(word(mem(rdi, THREAD_ES)), es);
    a.label(LOAD_DS)
      .mov(ds, word(mem(rsi, THREAD_DS)))
      .label("__switch_to_asm.ds_done");
    a.label(LOAD_ES)
      .mov(es, word(mem(rsi, THREAD_ES)))
      .label("__switch_to_asm.es_done");
    emitSaveFpregs(a, THREAD_FPU);
    emitLoadFpregs(a, THREAD_FPU);
    a.mov(mem(rdi, THREAD_SP), rsp).mov(rsp, mem(rsi, THREAD_SP));
    alternative(a, "rsb_ctxsw", "__switch_to_asm", () => emitFillReturnBuffer(a, "__switch_to_asm.fill"));
    a.pop(r15).pop(r14).pop(r13).pop(r12).pop(rbx).pop(rbp).ret();
    // A selector of the LDT that is no more: the null selector takes its place (kernel: the fixup of loadsegment()).
    a.label(BAD_DS).xor(eax, eax).mov(ds, eax).jmp("__switch_to_asm.ds_done");
    a.label(BAD_ES).xor(eax, eax).mov(es, eax).jmp("__switch_to_asm.es_done");
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

/** Loads the selector in the first argument into DS and ES (kernel: start_thread_common()). */
export const STUB_LOAD_DATA_SEGMENTS = "load_data_segments";
/** Stores DS and ES of the running task to the task of the first argument. */
export const STUB_SAVE_DATA_SEGMENTS = "save_data_segments";

/** Of user code alone: a machine without instructions has no segments. */
export const segmentStubs: readonly StubProgram[] = [
  {
    symbol: STUB_LOAD_DATA_SEGMENTS,
    program: (a) => {
      a.mov(ds, edi).mov(es, edi).ret();
    },
    effect: () => 0,
  },
  {
    symbol: STUB_SAVE_DATA_SEGMENTS,
    program: (a) => {
      a.mov(word(mem(rdi, THREAD_DS)), ds)
        .mov(word(mem(rdi, THREAD_ES)), es)
        .ret();
    },
    effect: () => 0,
  },
];
