// Exceptions other than page faults: a user task is killed by the signal Linux sends, the kernel stops.
import {
  cpu,
  fail,
  hex,
  ptr,
  VECTOR_AC,
  VECTOR_BP,
  VECTOR_BR,
  VECTOR_DB,
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
} from "../../hardware/index.ts";
import { asiExit } from "../asi/asi-transition.ts";
import { forceSig } from "../linux/signal.ts";
import { handlePageFault } from "../mm/fault.ts";
import { EXIT_DOUBLE_FAULT } from "../trace.ts";
import { idtentry } from "./idtentry.ts";
import { PtRegs, userMode } from "./pt-regs.ts";

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
  return fail(`kernel ${name}: RIP ${hex(regs.rip)}, error code ${hex(regs.origRax)}, CR2 ${hex(cpu.readCr2())}, RSP ${hex(regs.rsp)}`);
}

function signalling(name: string, signal: number): () => void {
  return idtentry((regs) => {
    if (!userMode(regs)) die(name, regs);
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

/** Kernel: `exc_double_fault()`, without the espfix case. */
export function excDoubleFault(): void {
  asiExit(EXIT_DOUBLE_FAULT);
  die("double fault", PtRegs.at(ptr<"pt_regs">(cpu.stackPointer())));
}

/** Kernel: `exc_machine_check()`. */
export function excMachineCheck(): void {
  die("machine check", PtRegs.at(ptr<"pt_regs">(cpu.stackPointer())));
}

/** Exceptions that run on the task's stack. */
export function exceptions(): readonly Exception[] {
  return [
    exception(VECTOR_DE, "divide_error", false, SIGFPE),
    exception(VECTOR_DB, "debug", false, SIGTRAP),
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
