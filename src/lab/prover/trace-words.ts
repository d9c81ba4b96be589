// The kernel's trace events in words, for stories.
import { SYS } from "../../abi/index.ts";
import { EXIT_REASON, hex } from "../../hardware/index.ts";
import {
  EXIT_PAGE_FAULT,
  EXIT_REASONS,
  FAULT_OUTCOMES,
  FLUSH_KINDS,
  TRACE_ASI_ENTER,
  TRACE_ASI_ENTER_NOOP,
  TRACE_ASI_EXIT,
  TRACE_ASI_FAULT,
  TRACE_ASI_RELAX,
  TRACE_CONTEXT_SWITCH,
  TRACE_EVENTS,
  TRACE_FLUSH,
  TRACE_IRQ,
  TRACE_NMI,
  TRACE_PAGE_FAULT,
  TRACE_PROCESS_EXIT,
  TRACE_PROCESS_FORK,
  TRACE_SWITCH_MM,
  TRACE_SYSCALL,
  TRACE_UNMAPPED,
  TRACE_VM_EXIT,
  TRACE_WARN,
  WARNINGS,
} from "../../kernel/index.ts";
import { type KernelNames, taintList } from "./kernel-names.ts";

const VM_EXITS: ReadonlyMap<number, string> = new Map(Object.entries(EXIT_REASON).map(([name, number]) => [number, name]));
const CALLS: ReadonlyMap<number, string> = new Map(Object.entries(SYS).map(([name, number]) => [number, name]));
/** The basic reason. SDM vol. 3, 26.9.1. */
const BASIC_REASON = 0xffff;

function named(taints: number): string {
  return taintList(taints).join(", ") || "nothing";
}

/** One event in words; a, b, c as TRACE_EVENTS says. */
export function traceWords(names: KernelNames, event: number, a: number, b: number, c: number): string {
  switch (event) {
    case TRACE_ASI_ENTER:
      return `asi_enter: into the ${names.domain(b)}`;
    case TRACE_ASI_ENTER_NOOP:
      return `asi_enter: already in the ${names.domain(b)}, nothing owed`;
    case TRACE_ASI_EXIT:
      return `asi_exit: ${EXIT_REASONS[a] ?? `reason ${a}`}${a === EXIT_PAGE_FAULT ? ` at ${hex(b)}` : ""}`;
    case TRACE_FLUSH:
      return `flush of ${FLUSH_KINDS[a] ?? a} on ${c === 1 ? "entering" : "leaving"}, owed to ${named(b)}`;
    case TRACE_ASI_RELAX:
      return "asi_relax: the critical section ends";
    case TRACE_SWITCH_MM:
      return `switch_mm: from ${names.mm(a)} to ${names.mm(b)}, ASID ${c}`;
    case TRACE_IRQ:
      return `interrupt, vector ${hex(a)}${b === 1 ? ", from user mode" : ""}, nesting depth ${c}`;
    case TRACE_NMI:
      return `NMI${a === 1 ? ", from user mode" : ""}, nesting depth ${b}`;
    case TRACE_SYSCALL:
      return `system call ${CALLS.get(a) ?? a}`;
    case TRACE_PAGE_FAULT:
      return `page fault at ${hex(a)}, error code ${hex(b)}: ${FAULT_OUTCOMES[c] ?? c}`;
    case TRACE_CONTEXT_SWITCH:
      return `context switch from ${names.taskOfPid(a)} to ${names.taskOfPid(b)}`;
    case TRACE_VM_EXIT:
      return `VM exit: ${VM_EXITS.get(a & BASIC_REASON) ?? `reason ${a & BASIC_REASON}`}`;
    case TRACE_PROCESS_FORK:
      return `fork: ${names.taskOfPid(a)} has the child ${b}`;
    case TRACE_PROCESS_EXIT:
      return `exit of ${names.taskOfPid(a)}, status ${b}`;
    case TRACE_WARN:
      return `the kernel warns: ${WARNINGS[a] ?? a}`;
    case TRACE_UNMAPPED:
      return `${hex(b)} to ${hex(c)} of ${names.mm(a)} is taken away`;
    case TRACE_ASI_FAULT:
      return `ASI fault at ${hex(a)}`;
    default:
      return TRACE_EVENTS.get(event)?.name ?? `trace event ${event}`;
  }
}
