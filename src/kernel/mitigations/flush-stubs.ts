// Sequences that clear what the core remembers, in machine code: a return-stack fill, the software L1D flush, VERW. What they do is done
// in structures of the core, so their effects in steps are empty: machines without instructions know them by name.
import { type Assembler, at, eax, ecx, memIndexed, rax, rbx, rdi, rsp, word } from "../../assembler/index.ts";
import {
  cpu,
  PAGE_SIZE,
  STUB_CLEAR_CPU_BUFFERS,
  STUB_FILL_RETURN_BUFFER,
  STUB_L1D_FLUSH_SOFTWARE,
  type VirtAddr,
} from "../../hardware/index.ts";
import { __KERNEL_DS } from "../entry/vectors.ts";
import type { StubProgram } from "../stub-program.ts";

/** Clears the branch history by branches (kernel: clear_bhb_loop). */
export const STUB_CLEAR_BRANCH_HISTORY = "clear_bhb_loop";

/** Entries of the return stack that are overwritten, whatever the CPU has (kernel: RSB_CLEAR_LOOPS). */
export const RSB_CLEAR_LOOPS = 32;
/** Bytes that the software L1D flush reads (kernel: PAGE_SIZE << L1D_CACHE_ORDER). */
export const L1D_FLUSH_BYTES = 65536;

/** Emits the fill: 32 calls whose return addresses are dropped; a prediction that uses one runs into INT3. Kernel: FILL_RETURN_BUFFER. */
export function emitFillReturnBuffer(a: Assembler, label: string): void {
  for (let i = 0; i < RSB_CLEAR_LOOPS; i++) a.call(`${label}.${i}`).int3().label(`${label}.${i}`);
  a.add(rsp, 8 * RSB_CLEAR_LOOPS).lfence();
}

/** One CALL that retires and an LFENCE: then nothing is predicted from the entry that a VM exit may have left (RSB_VMEXIT_LITE). */
export function emitRetireOneCall(a: Assembler, label: string): void {
  a.call(`${label}.once`).int3().label(`${label}.once`).add(rsp, 8).lfence();
}

/** Rounds of the clearing of branch history, and jumps of each: more taken branches than the history of these parts holds (29). */
const BHB_CLEAR_ROUNDS = 5;
const BHB_CLEAR_JUMPS = 5;

/** Replaces the branch history by branches of the kernel's own (kernel: clear_bhb_loop). Uses EAX and ECX. */
export function emitClearBranchHistory(a: Assembler, label: string): void {
  const local = (name: string): string => `${label}.${name}`;
  a.mov(ecx, BHB_CLEAR_ROUNDS).label(local("round")).call(local("jumps")).dec(ecx).jnz(local("round")).jmp(local("done"));
  a.int3().align(64).label(local("jumps")).mov(eax, BHB_CLEAR_JUMPS);
  a.label(local("jump")).jmp(local("next")).int3().label(local("next")).dec(eax).jnz(local("jump")).ret().int3();
  a.label(local("done")).lfence();
}

/** The same as a function, for transitions of address spaces. */
const clearBranchHistory: StubProgram = {
  symbol: STUB_CLEAR_BRANCH_HISTORY,
  program: (a) => {
    emitClearBranchHistory(a, "clear_bhb_loop.body");
    a.ret();
  },
  effect: () => {
    cpu.charge(BHB_CLEAR_ROUNDS * (2 * BHB_CLEAR_JUMPS + 3));
    return 0;
  },
};

/** Kernel: fill_return_buffer (spec, patch 27). */
const fillReturnBuffer: StubProgram = {
  symbol: STUB_FILL_RETURN_BUFFER,
  program: (a) => {
    emitFillReturnBuffer(a, STUB_FILL_RETURN_BUFFER);
    a.ret();
  },
  effect: () => {
    cpu.charge(RSB_CLEAR_LOOPS);
    return 0;
  },
};

/**
 * RDI: 16 pages that nothing else uses. Touches each page, so that the reads below miss no translation, serialises, reads all lines
 * (kernel: l1tf_flush() without the MSR).
 */
const l1dFlushSoftware: StubProgram = {
  symbol: STUB_L1D_FLUSH_SOFTWARE,
  program: (a) => {
    a.push(rbx).xor(eax, eax);
    a.label("l1d_flush_software.pages").mov(ecx, memIndexed(rdi, rax)).add(rax, PAGE_SIZE);
    a.cmp(eax, L1D_FLUSH_BYTES).jnz("l1d_flush_software.pages");
    a.xor(eax, eax).cpuid().xor(eax, eax);
    a.label("l1d_flush_software.lines").mov(ecx, memIndexed(rdi, rax)).add(rax, 64);
    a.cmp(eax, L1D_FLUSH_BYTES).jnz("l1d_flush_software.lines");
    a.lfence().pop(rbx).ret();
  },
  effect: (pages) => {
    cpu.touch(pages as VirtAddr, L1D_FLUSH_BYTES); // the address the caller gave;
    return 0;
  },
};

/** Where VERW's selector lies, in kernel text: reachable in every address space that the kernel runs in (kernel: mds_verw_sel). */
export const VERW_SELECTOR = "clear_cpu_buffers.selector";

/** VERW with a memory operand, which with MD_CLEAR overwrites fill and store buffers (kernel: mds_clear_cpu_buffers()). */
const clearCpuBuffers: StubProgram = {
  symbol: STUB_CLEAR_CPU_BUFFERS,
  program: (a) => {
    a.verw(word(at(VERW_SELECTOR))).ret();
    a.align(8).label(VERW_SELECTOR).dw(__KERNEL_DS);
  },
  effect: () => 0,
};

export const flushStubs: readonly StubProgram[] = [fillReturnBuffer, l1dFlushSoftware, clearCpuBuffers, clearBranchHistory];
