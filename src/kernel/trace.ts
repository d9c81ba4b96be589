// The kernel's trace points: numbered events with up to three values, told to the machine's observer while the path is live. They
// never act and cost no time. The names and the meaning of the values stand in TRACE_EVENTS, for ledgers and reports.
import { cpu } from "../hardware/index.ts";

/** Why the restricted address space was left. */
export const EXIT_REASONS = [
  "page fault",
  "context switch",
  "switch_mm",
  "end of KVM_RUN",
  "CR3 access",
  "TLB flush",
  "double fault",
  "domain destroyed",
  "requested",
  "return to user mode without a domain",
  "suspend",
] as const;
export const EXIT_PAGE_FAULT = 0;
export const EXIT_CONTEXT_SWITCH = 1;
export const EXIT_SWITCH_MM = 2;
export const EXIT_VCPU_RUN = 3;
export const EXIT_CR3_ACCESS = 4;
export const EXIT_TLB_FLUSH = 5;
export const EXIT_DOUBLE_FAULT = 6;
export const EXIT_DESTROY = 7;
export const EXIT_REQUESTED = 8;
export const EXIT_USER_RETURN = 9;
export const EXIT_SUSPEND = 10;
export type ExitReason =
  | typeof EXIT_PAGE_FAULT
  | typeof EXIT_CONTEXT_SWITCH
  | typeof EXIT_SWITCH_MM
  | typeof EXIT_VCPU_RUN
  | typeof EXIT_CR3_ACCESS
  | typeof EXIT_TLB_FLUSH
  | typeof EXIT_DOUBLE_FAULT
  | typeof EXIT_DESTROY
  | typeof EXIT_REQUESTED
  | typeof EXIT_USER_RETURN
  | typeof EXIT_SUSPEND;

export const FLUSH_CONTROL = 0;
export const FLUSH_DATA = 1;
/** What was flushed. */
export const FLUSH_KINDS = ["control (IBPB, return stack)", "data (L1D)"] as const;

/** How a page fault ended. */
export const FAULT_RETRY_AFTER_ASI = 0;
export const FAULT_USER_PAGE = 1;
export const FAULT_FIXED_UP = 2;
export const FAULT_OOPS = 3;
export const FAULT_OUTCOMES = ["accessible after asi_exit", "user page made present", "fixed up (-EFAULT)", "oops"] as const;

export const TRACE_ASI_ENTER_NOOP = 1;
export const TRACE_ASI_ENTER = 2;
export const TRACE_ASI_EXIT = 3;
export const TRACE_FLUSH = 4;
export const TRACE_ASI_RELAX = 5;
export const TRACE_SWITCH_MM = 6;
export const TRACE_IRQ = 7;
export const TRACE_NMI = 8;
export const TRACE_SYSCALL = 9;
export const TRACE_PAGE_FAULT = 10;
export const TRACE_CONTEXT_SWITCH = 11;
export const TRACE_BOOT_DONE = 12;
export const TRACE_VM_ENTRY = 13;
export const TRACE_VM_EXIT = 14;
export const TRACE_PROCESS_EXIT = 15;
export const TRACE_WARN = 16;
export const TRACE_USER_RETURN = 17;
export const TRACE_ASI_FAULT = 18;
export const TRACE_TLB_KEPT = 19;
export const TRACE_RETURN_STACK_FILLED = 20;
export const TRACE_PROCESS_NOT_STARTED = 21;
export const TRACE_PROCESS_FORK = 22;
/** What took a range of addresses away is done: no translation made before may be used from here on (S8). */
export const TRACE_UNMAPPED = 30;
export const TRACE_L1D_FLUSH = 40;

export interface TraceEvent {
  readonly name: string;
  /** What the three values are; unused ones are 0. */
  readonly values: readonly string[];
}

/** Every event by its number. */
export const TRACE_EVENTS: ReadonlyMap<number, TraceEvent> = new Map([
  [TRACE_ASI_ENTER_NOOP, { name: "asi_enter (already there)", values: ["unused", "domain"] }],
  [TRACE_ASI_ENTER, { name: "asi_enter", values: ["class", "domain"] }],
  [TRACE_ASI_EXIT, { name: "asi_exit", values: ["reason (EXIT_REASONS)", "address (page fault)", "RIP (page fault)"] }],
  [TRACE_FLUSH, { name: "flush", values: ["kind (FLUSH_KINDS)", "taints that asked for it", "1 on entering, 0 on leaving a domain"] }],
  [TRACE_ASI_RELAX, { name: "asi_relax", values: [] }],
  [TRACE_SWITCH_MM, { name: "switch_mm", values: ["previous mm", "next mm", "ASID"] }],
  [TRACE_IRQ, { name: "interrupt", values: ["vector", "1 from user mode", "nesting depth"] }],
  [TRACE_NMI, { name: "NMI", values: ["1 from user mode", "nesting depth", "interrupted RIP"] }],
  [TRACE_SYSCALL, { name: "system call", values: ["number"] }],
  [TRACE_PAGE_FAULT, { name: "page fault", values: ["address", "error code", "outcome (FAULT_OUTCOMES)"] }],
  [TRACE_CONTEXT_SWITCH, { name: "context switch", values: ["previous pid", "next pid"] }],
  [TRACE_BOOT_DONE, { name: "boot done", values: ["cpus"] }],
  [TRACE_VM_ENTRY, { name: "VM entry", values: ["vcpu"] }],
  [TRACE_VM_EXIT, { name: "VM exit", values: ["exit reason"] }],
  [TRACE_PROCESS_FORK, { name: "fork", values: ["pid", "pid of the child"] }],
  [TRACE_PROCESS_NOT_STARTED, { name: "process not started", values: ["index in the configuration", "error"] }],
  [TRACE_PROCESS_EXIT, { name: "process exit", values: ["pid", "exit code"] }],
  [TRACE_WARN, { name: "warning", values: ["number (WARNINGS)"] }],
  [TRACE_UNMAPPED, { name: "addresses taken away", values: ["mm (0: kernel addresses)", "start", "end"] }],
  [TRACE_L1D_FLUSH, { name: "KVM's L1D flush", values: ["mode (VMENTER_L1D_FLUSH_*)"] }],
  [TRACE_USER_RETURN, { name: "return to user mode", values: [] }],
  [TRACE_ASI_FAULT, { name: "ASI fault", values: ["address", "RIP", "pid"] }],
  [TRACE_RETURN_STACK_FILLED, { name: "return stack filled by a control flush", values: [] }],
  [TRACE_TLB_KEPT, { name: "transition that keeps translations", values: ["1 on entering, 0 on leaving a domain"] }],
]);

/** The kernel's own complaints (kernel: WARN_ON_ONCE and its kin): each is a broken rule that the kernel survives. */
export const WARNINGS = [
  "asi_exit() inside a critical section",
  "asi_enter() without asi_relax() before",
  "asi_init() of a class that is not initialised",
  "asi_destroy() of a class that is not initialised",
  "asi_map() or asi_unmap() inside a critical section",
  "asi_map(): a larger leaf maps another frame",
  "sensitive access inside a critical section",
  "TLB flush inside a critical section",
  "asi_init_class(): a policy bit outside its mask",
  "asi_enter() or asi_relax() in an interrupt handler",
] as const;
export const WARN_EXIT_IN_CRITICAL = 0;
export const WARN_ENTER_TWICE = 1;
export const WARN_INIT_NO_CLASS = 2;
export const WARN_DESTROY_NO_CLASS = 3;
export const WARN_MAP_IN_CRITICAL = 4;
export const WARN_MAP_CONFLICT = 5;
export const WARN_SENSITIVE_IN_CRITICAL = 6;
export const WARN_FLUSH_IN_CRITICAL = 7;
export const WARN_POLICY = 8;
export const WARN_ENTER_IN_INTERRUPT = 9;

/** Emits an event. Silent during a replay. */
export function trace(event: number, a = 0, b = 0, c = 0): void {
  if (cpu.isLive) cpu.observer.trace(event, a, b, c);
}

/** Reports a broken rule. `warning`: WARN_*, an index into WARNINGS. */
export function warn(warning: number): void {
  if (!cpu.isLive) return;
  cpu.observer.trace(TRACE_WARN, warning, 0, 0);
  cpu.observer.print(`WARNING: ${WARNINGS[warning] ?? warning}`);
}

/** Writes a line to the kernel log (kernel: `printk()`). */
export function printk(text: string): void {
  if (cpu.isLive) cpu.observer.print(text);
}
