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

/** Entries of the return stack that are overwritten, whatever the CPU has (kernel: RSB_CLEAR_LOOPS). */
export const RSB_CLEAR_LOOPS = 32;
/** Bytes that the software L1D flush reads (kernel: PAGE_SIZE << L1D_CACHE_ORDER). */
export const L1D_FLUSH_BYTES = 65536;

/** Emits the fill: 32 calls whose return addresses are dropped; a prediction that uses one runs into INT3. Kernel: FILL_RETURN_BUFFER. */
export function emitFillReturnBuffer(a: Assembler, label: string): void {
  for (let i = 0; i < RSB_CLEAR_LOOPS; i++) a.call(`${label}.${i}`).int3().label(`${label}.${i}`);
  a.add(rsp, 8 * RSB_CLEAR_LOOPS).lfence();
}

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

/** VERW with a memory operand, which with MD_CLEAR overwrites fill and store buffers (kernel: mds_clear_cpu_buffers()). */
const clearCpuBuffers: StubProgram = {
  symbol: STUB_CLEAR_CPU_BUFFERS,
  program: (a) => {
    a.verw(word(at("clear_cpu_buffers.selector"))).ret();
    a.align(8).label("clear_cpu_buffers.selector").dw(__KERNEL_DS);
  },
  effect: () => 0,
};

export const flushStubs: readonly StubProgram[] = [fillReturnBuffer, l1dFlushSoftware, clearCpuBuffers];
