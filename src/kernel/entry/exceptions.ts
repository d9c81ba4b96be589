// Exceptions other than page faults: a user task is killed by the signal Linux sends, the kernel stops.
import {
  addVirt,
  cpu,
  fail,
  hex,
  ptr,
  VECTOR_AC,
  VECTOR_BP,
  VECTOR_BR,
  VECTOR_DE,
  VECTOR_GP,
  VECTOR_MF,
  VECTOR_NM,
  VECTOR_NP,
  VECTOR_OF,
  VECTOR_PF,
  VECTOR_SS,
  VECTOR_TS,
  VECTOR_UD,
  VECTOR_XM,
  type VirtAddr,
  virtual,
} from "../../hardware/index.ts";
import { asiExit } from "../asi/asi-transition.ts";
import { symbolAddress } from "../boot/kernel-text.ts";
import { forceSig } from "../linux/signal.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { handlePageFault } from "../mm/fault.ts";
import { crashKexec } from "../power/kexec.ts";
import { topOfStack } from "../sched/current.ts";
import { EXIT_DOUBLE_FAULT } from "../trace.ts";
import { entryStackTop } from "./entry-area.ts";
import { FRAME_AND_ERROR_BYTES } from "./entry-switches.ts";
import { isEspfixAddress } from "./espfix-layout.ts";
import { idtentry } from "./idtentry.ts";
import { NATIVE_IRQ_RETURN_IRET } from "./idtentry-stubs.ts";
import { PtRegs, userMode } from "./pt-regs.ts";
import { SEGMENT_FIXUPS } from "./switch-stub.ts";

// Kernel: asm/signal.h.
const SIGILL = 4;
const SIGTRAP = 5;
const SIGBUS = 7;
const SIGFPE = 8;
const SIGSEGV = 11;

export interface Exception {
  readonly vector: number;
  readonly symbol: string;
  readonly handlerName: string;
  readonly hasErrorCode: boolean;
  /** User code may raise it with INT n (INT3, INTO). */
  readonly isForUser: boolean;
  readonly handler: () => void;
}

/** Stops the kernel: a bug of ours, or a machine that cannot go on (kernel: `panic()`, `die()`). */
function die(name: string, regs: PtRegs): never {
  crashKexec();
  return fail(`kernel ${name}: RIP ${hex(regs.rip)}, error code ${hex(regs.origRax)}, CR2 ${hex(cpu.readCr2())}, RSP ${hex(regs.rsp)}`);
}

/** A selector that could not be loaded at a task switch (kernel: ex_handler_clear_fs() and its kin). */
function fixupSegment(regs: PtRegs): boolean {
  const { rip } = regs;
  for (const [instruction, fixup] of SEGMENT_FIXUPS) {
    if (symbolAddress(instruction) !== rip) continue;
    regs.rip = symbolAddress(fixup);
    return true;
  }
  return false;
}

function signalling(name: string, signal: number): () => void {
  return idtentry((regs) => {
    if (!userMode(regs)) {
      if (!fixupSegment(regs)) die(name, regs);
      return;
    }
    forceSig(signal, `${name} at ${hex(regs.rip)}`);
  });
}

function exception(vector: number, name: string, hasErrorCode: boolean, signal: number, isForUser = false): Exception {
  return { vector, symbol: `asm_exc_${name}`, handlerName: `exc_${name}`, hasErrorCode, isForUser, handler: signalling(name, signal) };
}

/** Kernel: `exc_page_fault()`. CR2 first: a nested fault would overwrite it. */
const excPageFault = idtentry((regs) => {
  const address = cpu.readCr2();
  handlePageFault(regs, regs.origRax, address);
});

/**
 * Kernel: `exc_double_fault()`. Where the fault of an espfix return could not be delivered, because its stack is read-only, it becomes the
 * #GP that it was, on the task's stack, as from user mode; that may run restricted. Else the end.
 */
export function excDoubleFault(): void {
  const regs = PtRegs.at(ptr<"pt_regs">(cpu.stackPointer()));
  if (isEspfixAddress(regs.rsp) && regs.rip === symbolAddress(NATIVE_IRQ_RETURN_IRET) && !userMode(regs)) {
    // Where the processor would have pushed it: with PTI the entry stack, for the tables are the user's again.
    const top = virtual.get(ptiFeature.isEnabled() ? entryStackTop.here() : topOfStack.here());
    const faked = addVirt(top, -FRAME_AND_ERROR_BYTES);
    cpu.copy(addVirt(faked, 8), regs.rsp as VirtAddr, FRAME_AND_ERROR_BYTES - 8); // of the area, as was just asked
    cpu.storeWord(faked, 0);
    // The IRET below goes to the #GP entry, which finds there what the processor would have pushed from user mode, user GS included.
    regs.rip = symbolAddress("asm_exc_general_protection");
    regs.rsp = faked;
    return;
  }
  asiExit(EXIT_DOUBLE_FAULT);
  die("double fault", regs);
}

/**
 * Kernel: `exc_debug_kernel()`, `exc_debug_user()`. SYSENTER leaves TF as the user had it, so the first instructions of its entry are
 * stepped through; they clear it. Nothing else in the kernel is.
 */
export const excDebug = idtentry((regs) => {
  if (userMode(regs)) {
    forceSig(SIGTRAP, `debug at ${hex(regs.rip)}`);
    return;
  }
  const { rip } = regs;
  if (rip < symbolAddress("entry_SYSENTER_compat") || rip >= symbolAddress("__end_entry_SYSENTER_compat")) die("debug exception", regs);
});

/** Exceptions that run on the task's stack. */
export function exceptions(): readonly Exception[] {
  return [
    exception(VECTOR_DE, "divide_error", false, SIGFPE),
    exception(VECTOR_BP, "int3", false, SIGTRAP, true),
    exception(VECTOR_OF, "overflow", false, SIGSEGV, true),
    exception(VECTOR_BR, "bounds", false, SIGSEGV),
    exception(VECTOR_UD, "invalid_op", false, SIGILL),
    exception(VECTOR_NM, "device_not_available", false, SIGSEGV),
    exception(VECTOR_TS, "invalid_tss", true, SIGSEGV),
    exception(VECTOR_NP, "segment_not_present", true, SIGBUS),
    exception(VECTOR_SS, "stack_segment", true, SIGBUS),
    exception(VECTOR_GP, "general_protection", true, SIGSEGV),
    {
      vector: VECTOR_PF,
      symbol: "asm_exc_page_fault",
      handlerName: "exc_page_fault",
      hasErrorCode: true,
      isForUser: false,
      handler: excPageFault,
    },
    exception(VECTOR_MF, "coprocessor_error", false, SIGFPE),
    exception(VECTOR_AC, "alignment_check", true, SIGBUS),
    exception(VECTOR_XM, "simd_coprocessor_error", false, SIGFPE),
  ];
}
