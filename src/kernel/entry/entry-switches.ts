// What entries and exits do besides registers, where a mitigation is selected: page tables (PTI), IBRS, VERW, branch history. Each in
// machine code, for the place where it stands, and in steps. Orders: spec of mitigations, 5.1 and 5.4.
import {
  type Assembler,
  at,
  cr3,
  dword,
  eax,
  ecx,
  edi,
  edx,
  gs,
  mem,
  qword,
  type Reg,
  rax,
  rdi,
  rdx,
  rsp,
  word,
} from "../../assembler/index.ts";
import {
  addVirt,
  type Cr3,
  cpu,
  LEAVE_IRETQ,
  MSR_GS_BASE,
  MSR_IA32_SPEC_CTRL,
  SPEC_CTRL_IBRS,
  STUB_CLEAR_CPU_BUFFERS,
  type VirtAddr,
  virtual,
  word as wordField,
} from "../../hardware/index.ts";
import { clearBhbLoop, clearCpuBuf, kernelIbrs, ptiFeature } from "../mitigations/feature-keys.ts";
import { STUB_CLEAR_BRANCH_HISTORY } from "../mitigations/flush-stubs.ts";
import { x86SpecCtrlCurrent } from "../mitigations/spec-ctrl.ts";
import { hasPcid } from "../mm/cr3.ts";
import { userPcidFlushMask } from "../mm/tlb-struct.ts";
import { topOfStack } from "../sched/current.ts";
import type { StubProgram } from "../stub-program.ts";
import { alternative, emitFenceSwapgsKernel } from "./alternatives.ts";
import { entryStackTop } from "./entry-area.ts";
import { restoreRegisters, setStackPointer } from "./entry-registers.ts";
import { PtRegs } from "./pt-regs.ts";
import { __KERNEL_DS } from "./vectors.ts";

/** The user tables are the page behind the kernel's root; their PCID has bit 11 (kernel: PTI_USER_PGTABLE_AND_PCID_MASK). */
export const PTI_USER_PGTABLE_BIT = 1 << 12;
export const PTI_USER_PCID_BIT = 1 << 11;
const PTI_USER_MASK = PTI_USER_PGTABLE_BIT | PTI_USER_PCID_BIT;
/** Bit 63 of what is written to CR3: keep the PCID's translations. */
const NOFLUSH_BIT = 63;
/** Bits of a kernel PCID under PTI that number the address space (kernel: ADJUST_KERNEL_ASID's counterpart). */
const ASID_MASK = 0x1f;

/** Hardware frame and error code or number: SS, RSP, RFLAGS, CS, RIP, ORIG_RAX. */
export const FRAME_AND_ERROR_BYTES = 48;

// ---------------------------------------------------------------- entry

/** After SWAPGS, on the entry stack with six words on it: the kernel's tables, and the six words moved to the task's stack. RDX is kept. */
export function emitSwitchToTaskStack(a: Assembler, site: string): void {
  alternative(a, "pti", `${site}.in1`, () => a.push(rdx).mov(rdx, cr3));
  alternative(a, "pti_pcid", `${site}.in`, () => a.bts(rdx, NOFLUSH_BIT));
  alternative(a, "pti", `${site}.in2`, () => {
    a.and(rdx, ~PTI_USER_MASK).mov(cr3, rdx);
    emitMoveToTaskStack(a);
  });
}

/** RDX is on top of the stack, six words behind it: they go to the task's stack, RDX comes back. */
export function emitMoveToTaskStack(a: Assembler): void {
  a.mov(rdx, rsp).mov(rsp, gs(topOfStack.offset));
  for (let offset = FRAME_AND_ERROR_BYTES; offset > 0; offset -= 8) a.push(qword(mem(rdx, offset)));
  a.mov(rdx, mem(rdx));
}

/** The kernel's tables; `scratch` is lost. */
export function emitSwitchToKernelCr3(a: Assembler, site: string, scratch: Reg): void {
  alternative(a, "pti", `${site}.cr3a`, () => a.mov(scratch, cr3));
  alternative(a, "pti_pcid", `${site}.cr3`, () => a.bts(scratch, NOFLUSH_BIT));
  alternative(a, "pti", `${site}.cr3b`, () => a.and(scratch, ~PTI_USER_MASK).mov(cr3, scratch));
}

/** Registers are saved: EAX, ECX, EDX are free. */
export function emitIbrsEnter(a: Assembler, site: string): void {
  alternative(a, "ibrs", `${site}.enter`, () => {
    a.mov(ecx, MSR_IA32_SPEC_CTRL)
      .mov(eax, gs(dword(mem(x86SpecCtrlCurrent.offset))))
      .xor(edx, edx);
    a.or(eax, SPEC_CTRL_IBRS).wrmsr().xor(eax, eax).xor(ecx, ecx).xor(edx, edx);
  });
}

/** On system call entries only. */
export function emitClearBhb(a: Assembler, site: string): void {
  alternative(a, "bhb", site, () => a.call(STUB_CLEAR_BRANCH_HISTORY));
}

// ---------------------------------------------------------------- exit

/** Before the registers are restored. */
export function emitIbrsExit(a: Assembler, site: string): void {
  alternative(a, "ibrs", `${site}.exit`, () => {
    a.mov(ecx, MSR_IA32_SPEC_CTRL)
      .mov(eax, gs(dword(mem(x86SpecCtrlCurrent.offset))))
      .xor(edx, edx);
    a.and(eax, ~SPEC_CTRL_IBRS).wrmsr();
  });
}

/**
 * Only RDI is still to be restored, RSP points to it: with PTI what is left of pt_regs goes to the entry stack, then come the user's
 * tables, flushed if somebody asked for it.
 */
export function emitSwitchToUserTables(a: Assembler, site: string): void {
  const rest = PtRegs.bytes - PtRegs.offset.rdi - 8;
  alternative(a, "pti", `${site}.out1`, () => {
    a.mov(rdi, rsp).mov(rsp, gs(entryStackTop.offset));
    for (let offset = rest; offset >= 0; offset -= 8) a.push(qword(mem(rdi, offset)));
    a.push(rax).push(rdx).mov(rax, cr3);
  });
  alternative(a, "pti_pcid", `${site}.out`, () => {
    a.mov(edx, eax)
      .and(edx, ASID_MASK)
      .bt(gs(dword(mem(userPcidFlushMask.offset))), edx)
      .jnc(`${site}.noflush`);
    a.btr(gs(dword(mem(userPcidFlushMask.offset))), edx).jmp(`${site}.write`);
    a.label(`${site}.noflush`).bts(rax, NOFLUSH_BIT);
  });
  alternative(a, "pti", `${site}.out2`, () => {
    a.label(`${site}.write`).or(rax, PTI_USER_MASK).mov(cr3, rax).pop(rdx).pop(rax);
  });
}

/** Label of the data segment selector that VERW reads: entry text, because the user's tables have that. */
const VERW_SELECTOR = "mds_verw_sel";

/** The last access to memory before user mode (kernel: CLEAR_CPU_BUFFERS). */
export function emitClearCpuBuffers(a: Assembler, site: string): void {
  alternative(a, "verw", site, () => a.verw(word(at(VERW_SELECTOR))));
}

// ---------------------------------------------------------------- paranoid entries: what the kernel was interrupted in may be an entry

/** Bits of what a paranoid entry changed and its exit changes back; kept inverted, hence negative, where the error code would be. */
export const PARANOID_SWAPGS = 1;
export const PARANOID_CR3 = 2;
export const PARANOID_IBRS = 4;

/** Registers are saved at RSP. Brings tables, GS base and IBRS to the kernel's, notes in orig_rax what was changed. */
export function emitParanoidSave(a: Assembler, site: string): void {
  a.mov(rdi, -1);
  alternative(a, "pti", `${site}.save1`, () =>
    a.mov(rax, cr3).test(eax, PTI_USER_PGTABLE_BIT).jz(`${site}.save_cr3_ok`).and(rdi, ~PARANOID_CR3),
  );
  alternative(a, "pti_pcid", `${site}.save`, () => a.bts(rax, NOFLUSH_BIT));
  alternative(a, "pti", `${site}.save2`, () => a.and(rax, ~PTI_USER_MASK).mov(cr3, rax).label(`${site}.save_cr3_ok`));
  a.mov(ecx, MSR_GS_BASE).rdmsr().test(edx, edx).js(`${site}.gs_ok`).swapgs().and(rdi, ~PARANOID_SWAPGS).label(`${site}.gs_ok`);
  emitFenceSwapgsKernel(a, `${site}.save`);
  alternative(a, "ibrs", `${site}.save`, () => {
    a.mov(ecx, MSR_IA32_SPEC_CTRL).rdmsr().test(eax, SPEC_CTRL_IBRS).jnz(`${site}.ibrs_ok`);
    a.or(eax, SPEC_CTRL_IBRS).wrmsr().and(rdi, ~PARANOID_IBRS).label(`${site}.ibrs_ok`);
  });
  a.mov(mem(rsp, PtRegs.offset.origRax), rdi);
}

/** The reverse, and the return to the interrupted kernel code. */
export function emitParanoidReturn(a: Assembler, site: string, popAll: (a: Assembler) => void): void {
  a.mov(rdi, mem(rsp, PtRegs.offset.origRax));
  alternative(a, "ibrs", `${site}.back`, () => {
    a.test(edi, PARANOID_IBRS).jnz(`${site}.back_ibrs`);
    a.mov(ecx, MSR_IA32_SPEC_CTRL).rdmsr().and(eax, ~SPEC_CTRL_IBRS).wrmsr().label(`${site}.back_ibrs`);
  });
  a.test(edi, PARANOID_SWAPGS).jnz(`${site}.back_gs`).swapgs().label(`${site}.back_gs`);
  alternative(a, "pti", `${site}.back1`, () => a.test(edi, PARANOID_CR3).jnz(`${site}.back_cr3`).mov(rax, cr3));
  alternative(a, "pti_pcid", `${site}.back`, () => a.bts(rax, NOFLUSH_BIT));
  alternative(a, "pti", `${site}.back2`, () => a.or(rax, PTI_USER_MASK).mov(cr3, rax).label(`${site}.back_cr3`));
  popAll(a);
  a.add(rsp, 8).iretq();
}

// ---------------------------------------------------------------- the same in steps, for machines without instructions

const PCID_AND_ROOT_BITS = 8192;

function switchCr3(change: (low: number) => number, noflush: boolean): void {
  const now = cpu.readCr3();
  const low = now % PCID_AND_ROOT_BITS;
  cpu.writeCr3((now - low + change(low)) as Cr3, noflush); // both roots lie in one pair of pages
}

/** Kernel tables; without PTI nothing. */
export function stepSwitchToKernelCr3(): void {
  if (ptiFeature.isEnabled()) switchCr3((low) => low & ~PTI_USER_MASK, hasPcid());
}

/** Copies `words` words of the frame at `from` to the top of the task's stack. @returns where they are now. */
export function stepMoveToTaskStack(from: VirtAddr, words: number): VirtAddr {
  const to = addVirt(virtual.get(topOfStack.here()), -8 * words);
  for (let i = words - 1; i >= 0; i--) {
    const low = cpu.load64(addVirt(from, 8 * i));
    cpu.store64(addVirt(to, 8 * i), low, cpu.high);
  }
  return to;
}

export function stepIbrs(isSet: boolean): void {
  if (!kernelIbrs.isEnabled()) return;
  const value = x86SpecCtrlCurrent.get();
  cpu.writeMsr(MSR_IA32_SPEC_CTRL, isSet ? value | SPEC_CTRL_IBRS : value & ~SPEC_CTRL_IBRS, 0);
}

export function stepClearBhb(): void {
  if (clearBhbLoop.isEnabled()) cpu.callStub(STUB_CLEAR_BRANCH_HISTORY);
}

/** The end of a return to user mode: registers restored, RSP still the kernel's, at the frame of IRET. */
export function stepLeaveKernel(frame: VirtAddr): VirtAddr {
  if (!ptiFeature.isEnabled()) return frame;
  const to = addVirt(virtual.get(entryStackTop.here()), -IRET_FRAME_BYTES);
  for (let offset = 0; offset < IRET_FRAME_BYTES; offset += 8) {
    const low = cpu.load64(addVirt(frame, offset));
    cpu.store64(addVirt(to, offset), low, cpu.high);
  }
  setStackPointer(to);
  const asid = (cpu.readCr3() % PCID_AND_ROOT_BITS) & ASID_MASK;
  const isFlushed = hasPcid() && (userPcidFlushMask.get() & (1 << asid)) !== 0;
  if (isFlushed) userPcidFlushMask.and(~(1 << asid));
  switchCr3((low) => low | PTI_USER_MASK, hasPcid() && !isFlushed);
  return to;
}

const IRET_FRAME_BYTES = 40;

/** What every entry program does after the handler: the way back through the frame of an interrupt. */
export function leaveByIret(): number {
  const regs = cpu.stackPointer();
  const isUser = (cpu.load(addVirt(regs, PtRegs.offset.cs), 1) & 3) !== 0;
  if (isUser) {
    stepIbrs(false);
    // A call of a stub takes registers: it comes before they are restored, and what is read then is nobody's secret.
    if (clearCpuBuf.isEnabled()) cpu.callStub(STUB_CLEAR_CPU_BUFFERS);
  }
  restoreRegisters(regs);
  const frame = addVirt(regs, PtRegs.offset.rip);
  setStackPointer(isUser ? stepLeaveKernel(frame) : frame);
  return LEAVE_IRETQ;
}

/** Brings tables and IBRS to the kernel's; @returns what leaveParanoid() shall bring back. */
export function stepParanoidSave(): number {
  let flags = -1;
  if (ptiFeature.isEnabled() && ((cpu.readCr3() % PCID_AND_ROOT_BITS) & PTI_USER_PGTABLE_BIT) !== 0) {
    stepSwitchToKernelCr3();
    flags &= ~PARANOID_CR3;
  }
  if (kernelIbrs.isEnabled()) {
    const low = cpu.readMsr(MSR_IA32_SPEC_CTRL);
    if ((low & SPEC_CTRL_IBRS) === 0) {
      cpu.writeMsr(MSR_IA32_SPEC_CTRL, low | SPEC_CTRL_IBRS, cpu.high);
      flags &= ~PARANOID_IBRS;
    }
  }
  return flags;
}

/** The return of a paranoid entry; from user mode it is everybody's. */
export function leaveParanoid(): number {
  const regs = cpu.stackPointer();
  if ((cpu.load(addVirt(regs, PtRegs.offset.cs), 1) & 3) !== 0) return leaveByIret();
  const flags = wordField.get(addVirt(regs, PtRegs.offset.origRax));
  restoreRegisters(regs);
  setStackPointer(regs + PtRegs.offset.rip);
  if ((flags & PARANOID_IBRS) === 0) {
    const low = cpu.readMsr(MSR_IA32_SPEC_CTRL);
    cpu.writeMsr(MSR_IA32_SPEC_CTRL, low & ~SPEC_CTRL_IBRS, cpu.high);
  }
  if ((flags & PARANOID_CR3) === 0) switchCr3((low) => low | PTI_USER_MASK, hasPcid());
  return LEAVE_IRETQ;
}

// ---------------------------------------------------------------- stubs of their own

/** What VERW reads: the selector of a writable data segment, the fastest form. */
const verwSelector: StubProgram = {
  symbol: VERW_SELECTOR,
  program: (a) => {
    a.dw(__KERNEL_DS);
  },
  effect: () => 0,
};

export const switchStubs: readonly StubProgram[] = [verwSelector];
