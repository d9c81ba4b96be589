// The machine code that leaves this kernel for another (kernel: relocate_kernel_64.S). It is copied to a page that no segment covers and
// runs there, mapped to itself, because what it moves may lie where this kernel is. CR3 is written past everything that knows of address
// spaces: with a plain kexec nobody comes back, and with preserved context isolation has been left before (spec 2.11).
import {
  type Assembler,
  cr3,
  cr4,
  eax,
  ebp,
  ebx,
  ecx,
  edi,
  edx,
  esi,
  mem,
  r8,
  r8d,
  r9d,
  r10,
  r10d,
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
import { addVirt, CR4_PCIDE, CR4_PGE, type Cr3, cpu, PAGE_SIZE, virtAddr, word } from "../../hardware/index.ts";
import type { StubProgram } from "../stub-program.ts";
import { CONTROL, CONTROL_CODE, IND_DESTINATION, IND_DONE, IND_INDIRECTION, IND_SOURCE } from "./power-struct.ts";

/** RDI: the control page. Returns only if the image was loaded with preserved context. */
export const RELOCATE_KERNEL = "relocate_kernel";
/** The part that is copied: from here to RELOCATE_KERNEL_END. */
export const RELOCATE_KERNEL_CODE = "relocate_kernel.identity_mapped";
export const RELOCATE_KERNEL_END = "relocate_kernel.end";
/** Where preserved context comes back to, in kernel text. */
export const RELOCATE_KERNEL_BACK = "relocate_kernel.virtual_mapped";

const CALLEE_SAVED = [rbx, rbp, r12, r13, r14, r15] as const;
const PAGE_MASK = -PAGE_SIZE;
const WORDS_PER_PAGE = PAGE_SIZE / 8;

/** Swaps every source page of the list at RBX with its destination; the same again undoes it. */
function emitSwapPages(a: Assembler): void {
  const local = (name: string): string => `relocate_kernel.swap.${name}`;
  a.label(local("pages")).mov(rcx, rbx).jmp(local("entry"));
  a.label(local("next")).mov(rcx, mem(r12)).add(r12, 8);
  a.label(local("entry")).test(ecx, IND_DESTINATION).jz(local("not_destination"));
  a.mov(rdi, rcx).and(rdi, PAGE_MASK).jmp(local("next"));
  a.label(local("not_destination")).test(ecx, IND_INDIRECTION).jz(local("not_indirection"));
  a.mov(r12, rcx).and(r12, PAGE_MASK).jmp(local("next"));
  a.label(local("not_indirection")).test(ecx, IND_DONE).jz(local("not_done")).ret();
  a.label(local("not_done")).test(ecx, IND_SOURCE).jz(local("next"));
  a.mov(r10, rcx).and(r10, PAGE_MASK).mov(r9d, WORDS_PER_PAGE);
  a.label(local("word")).mov(rax, mem(r10)).mov(r14, mem(rdi)).mov(mem(rdi), rax).mov(mem(r10), r14);
  a.add(r10, 8).add(rdi, 8).dec(r9d).jnz(local("word")).jmp(local("next"));
}

const relocateKernel: StubProgram = {
  symbol: RELOCATE_KERNEL,
  program: (a) => {
    for (const register of CALLEE_SAVED) a.push(register);
    a.pushfq();
    a.mov(rsi, mem(rdi, CONTROL.self))
      .mov(rdx, mem(rdi, CONTROL.start))
      .mov(r13, mem(rdi, CONTROL.preserve))
      .mov(rbx, mem(rdi, CONTROL.head));
    a.mov(rax, mem(rdi, CONTROL.pgd)).mov(mem(rdi, CONTROL.rsp), rsp);
    a.mov(rcx, cr3).mov(mem(rdi, CONTROL.cr3), rcx).mov(rcx, cr4).mov(mem(rdi, CONTROL.cr4), rcx);
    a.add(rsi, CONTROL_CODE).mov(r8, rsi).sub(rsi, CONTROL_CODE);
    a.mov(cr3, rax).jmp(r8);

    // Back from a kernel that returned, in this kernel's text again: its tables, its stack.
    a.label(RELOCATE_KERNEL_BACK).mov(rdi, mem(rsi, CONTROL.virtual)).mov(cr3, rcx).mov(rsp, mem(rdi, CONTROL.rsp)).popfq();
    for (const register of [...CALLEE_SAVED].reverse()) a.pop(register);
    a.xor(eax, eax).ret();

    a.align(16).label(RELOCATE_KERNEL_CODE);
    a.mov(rsp, rsi).add(rsp, PAGE_SIZE);
    a.mov(rcx, cr4)
      .and(rcx, ~(CR4_PGE | CR4_PCIDE))
      .mov(cr4, rcx);
    a.push(rsi).push(rdx).call("relocate_kernel.swap.pages").pop(rdx).pop(rsi);
    a.test(r13d, r13d).jnz("relocate_kernel.call");
    a.push(rdx);
    for (const register of [eax, ebx, ecx, edx, ebp, esi, edi, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d]) a.xor(register, register);
    a.ret();
    a.label("relocate_kernel.call").push(rsi).push(rbx).call(rdx).pop(rbx).pop(rsi);
    a.push(rsi).call("relocate_kernel.swap.pages").pop(rsi);
    a.mov(rcx, mem(rsi, CONTROL.cr4)).mov(cr4, rcx).mov(rcx, mem(rsi, CONTROL.cr3)).mov(rax, mem(rsi, CONTROL.back)).jmp(rax);
    emitSwapPages(a);
    a.label(RELOCATE_KERNEL_END);
  },
  // Without instructions there is no other kernel to run: one that returns does so at once; one that does not ends the simulation.
  effect: (control) => {
    const page = virtAddr(control);
    const back = cpu.readCr3();
    cpu.writeCr3(word.get(addVirt(page, CONTROL.pgd)) as Cr3, false); // a root with process-context identifier 0
    if (word.get(addVirt(page, CONTROL.preserve)) === 0) cpu.park();
    cpu.writeCr3(back, false);
    return 0;
  },
};

export const KEXEC_STUBS: readonly StubProgram[] = [relocateKernel];
