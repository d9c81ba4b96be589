// The entries that may come between any two instructions, those of other entries included: NMI, machine check, debug exception, double
// fault. Each has an interrupt stack of its own, and finds out by itself whose tables, GS base and IBRS are there (kernel: paranoid_entry,
// asm_exc_nmi, idtentry_mce_db).

import { type Assembler, at, byte, gs, mem, rbx, rcx, rdi, rdx, rsi, rsp } from "../../assembler/index.ts";
import { addVirt, cpu, type VirtAddr, virtual, word } from "../../hardware/index.ts";
import type { StubProgram } from "../stub-program.ts";
import { emitFenceSwapgsUser } from "./alternatives.ts";
import { entryStackTop } from "./entry-area.ts";
import { popRegisters, pushAndClearRegisters, pushNoError, saveRegisters, setStackPointer } from "./entry-registers.ts";
import {
  emitIbrsEnter,
  emitMoveToTaskStack,
  emitParanoidReturn,
  emitParanoidSave,
  emitSwitchToKernelCr3,
  FRAME_AND_ERROR_BYTES,
  leaveParanoid,
  stepIbrs,
  stepMoveToTaskStack,
  stepParanoidSave,
  stepSwitchToKernelCr3,
} from "./entry-switches.ts";
import { ESPFIX_TOP_BITS, ESPFIX_TOP_SHIFT } from "./espfix-layout.ts";
import { PtRegs } from "./pt-regs.ts";
import { USER_STACK_WINDOWS } from "./syscall-stubs.ts";

/** On an interrupt stack, six words on it, from user mode: the kernel's tables, and everything on the task's stack, as any entry. */
function emitFromUser(a: Assembler, symbol: string, handler: string): void {
  a.swapgs();
  emitFenceSwapgsUser(a, `${symbol}.user`);
  a.push(rdx);
  emitSwitchToKernelCr3(a, `${symbol}.user`, rdx);
  emitMoveToTaskStack(a);
  pushAndClearRegisters(a);
  emitIbrsEnter(a, `${symbol}.user`);
  a.trap(handler).jmp("error_return");
}

function stepFromUser(frame: VirtAddr): void {
  stepSwitchToKernelCr3();
  saveRegisters(stepMoveToTaskStack(frame, FRAME_AND_ERROR_BYTES / 8));
  stepIbrs(true);
}

function isFromUser(frame: VirtAddr): boolean {
  return (cpu.load(addVirt(frame, 16), 1) & 3) !== 0;
}

/**
 * NMI (kernel: asm_exc_nmi). It arrives on the NMI stack, which the next NMI uses again; and a page fault inside an NMI is ordinary
 * with ASI, and its IRET unblocks NMIs. So everything is moved at once, while NMIs are still blocked, to the stack that was interrupted;
 * or, if user code was interrupted, to the task's, which is empty; or to the entry stack where RSP is still or again the user's, or is the
 * read-only stack of an espfix return.
 */
function nmiEntry(call: () => void): StubProgram {
  const symbol = "asm_exc_nmi";
  return {
    symbol,
    program: (a) => {
      a.push(-1)
        .test(byte(mem(rsp, 16)), 3)
        .jz("asm_exc_nmi.kernel");
      emitFromUser(a, symbol, "exc_nmi");
      a.label("asm_exc_nmi.kernel");
      pushAndClearRegisters(a);
      emitParanoidSave(a, symbol);
      a.mov(rdx, mem(rsp, PtRegs.offset.rsp)).mov(rcx, mem(rsp, PtRegs.offset.rip));
      for (const [i, [from, to]] of USER_STACK_WINDOWS.entries()) {
        a.lea(rbx, at(from)).cmp(rcx, rbx).jb(`asm_exc_nmi.not${i}`);
        a.lea(rbx, at(to)).cmp(rcx, rbx).jb("asm_exc_nmi.entry_stack");
        a.label(`asm_exc_nmi.not${i}`);
      }
      a.mov(rbx, rdx).sar(rbx, ESPFIX_TOP_SHIFT).cmp(rbx, ESPFIX_TOP_BITS).jnz("asm_exc_nmi.stack_ok");
      a.label("asm_exc_nmi.entry_stack").mov(rdx, gs(entryStackTop.offset));
      a.label("asm_exc_nmi.stack_ok").and(rdx, -16);
      a.sub(rdx, PtRegs.bytes)
        .mov(rdi, rdx)
        .mov(rsi, rsp)
        .mov(rcx, PtRegs.bytes / 8)
        .rep()
        .movsq();
      a.mov(rsp, rdx).trap("exc_nmi");
      emitParanoidReturn(a, symbol, popRegisters);
    },
    effect: () => {
      const frame = pushNoError();
      if (isFromUser(frame)) stepFromUser(frame);
      else {
        saveRegisters(frame);
        const flags = stepParanoidSave();
        const from = cpu.stackPointer();
        const interrupted = virtual.get(addVirt(from, PtRegs.offset.rsp));
        const stack = interrupted >= 0 ? virtual.get(entryStackTop.here()) : interrupted;
        const to = addVirt((Math.floor(stack / 16) * 16) as VirtAddr, -PtRegs.bytes); // rounded within the stack
        cpu.copy(to, from, PtRegs.bytes);
        word.set(addVirt(to, PtRegs.offset.origRax), flags);
        setStackPointer(to);
      }
      call();
      return leaveParanoid();
    },
    tail: leaveParanoid,
  };
}

/** Machine check and debug exception: from user mode as any exception, from the kernel on the stack of their own. */
function istEntry(symbol: string, handler: string, call: () => void): StubProgram {
  return {
    symbol,
    program: (a) => {
      a.push(-1)
        .test(byte(mem(rsp, 16)), 3)
        .jz(`${symbol}.kernel`);
      emitFromUser(a, symbol, handler);
      a.label(`${symbol}.kernel`);
      pushAndClearRegisters(a);
      emitParanoidSave(a, symbol);
      a.trap(handler);
      emitParanoidReturn(a, symbol, popRegisters);
    },
    effect: () => {
      const frame = pushNoError();
      if (isFromUser(frame)) stepFromUser(frame);
      else {
        saveRegisters(frame);
        word.set(addVirt(cpu.stackPointer(), PtRegs.offset.origRax), stepParanoidSave());
      }
      call();
      return leaveParanoid();
    },
    tail: leaveParanoid,
  };
}

/** Double fault: fatal, or the fault of an espfix return (kernel: asm_exc_double_fault). It has an error code, which is always 0. */
function doubleFaultEntry(call: () => void): StubProgram {
  const symbol = "asm_exc_double_fault";
  return {
    symbol,
    program: (a) => {
      pushAndClearRegisters(a);
      emitParanoidSave(a, symbol);
      a.trap("exc_double_fault");
      emitParanoidReturn(a, symbol, popRegisters);
    },
    effect: () => {
      saveRegisters(cpu.stackPointer());
      word.set(addVirt(cpu.stackPointer(), PtRegs.offset.origRax), stepParanoidSave());
      call();
      return leaveParanoid();
    },
    tail: leaveParanoid,
  };
}

export interface ParanoidHandlers {
  readonly excNmi: () => void;
  readonly excDebug: () => void;
  readonly excMachineCheck: () => void;
  readonly excDoubleFault: () => void;
}

export function paranoidStubs(handlers: ParanoidHandlers): readonly StubProgram[] {
  return [
    nmiEntry(handlers.excNmi),
    istEntry("asm_exc_debug", "exc_debug", handlers.excDebug),
    istEntry("asm_exc_machine_check", "exc_machine_check", handlers.excMachineCheck),
    doubleFaultEntry(handlers.excDoubleFault),
  ];
}
