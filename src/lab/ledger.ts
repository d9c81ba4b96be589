// The ledger: what the kernel's trace points told, counted. It answers which transitions, which flushes and why; it listens and never
// acts. Insertion order never reaches the result: rows are sorted by count, then by name.
import { EXIT_REASON, hex, PAGE_SIZE } from "../hardware/index.ts";
import {
  ASI_TAINT_NAMES,
  EXIT_CONTEXT_SWITCH,
  EXIT_REASONS,
  EXIT_VCPU_RUN,
  FLUSH_KINDS,
  kernelCallers,
  TRACE_ASI_ENTER,
  TRACE_ASI_ENTER_NOOP,
  TRACE_ASI_EXIT,
  TRACE_CONTEXT_SWITCH,
  TRACE_FLUSH,
  TRACE_IRQ,
  TRACE_NMI,
  TRACE_PAGE_FAULT,
  TRACE_SWITCH_MM,
  TRACE_SYSCALL,
  TRACE_VM_ENTRY,
  TRACE_VM_EXIT,
  TRACE_WARN,
  WARNINGS,
} from "../kernel/index.ts";

export interface LedgerRow {
  readonly what: string;
  readonly count: number;
}

/** One cause of an exit. For page faults: the page that the kernel function touched, what lives there, and who allocated it. */
export interface ExitRow {
  readonly reason: string;
  readonly function: string;
  /** Name and pid of the running task. */
  readonly task: string;
  readonly address: string;
  readonly what: string;
  readonly allocatedBy: string;
  readonly count: number;
}

/** Says what lives at a kernel address, and which task runs. */
export interface Explainer {
  explain(address: number): { readonly what: string; readonly allocatedBy: string };
  currentTask(): string;
}

/** The ledger as data: `docs/ledger.schema.json` describes the file that `--ledger` writes. */
export interface LedgerReport {
  readonly enters: { readonly alreadyThere: number; readonly switched: number };
  readonly exits: readonly ExitRow[];
  readonly flushes: readonly LedgerRow[];
  readonly vmEntries: number;
  readonly vmExits: readonly LedgerRow[];
  readonly interrupts: number;
  readonly nmis: number;
  readonly systemCalls: number;
  readonly pageFaults: number;
  readonly contextSwitches: number;
  readonly mmSwitches: number;
  readonly warnings: readonly LedgerRow[];
}

const VM_EXIT_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(EXIT_REASON).map(([name, number]) => [number, name]));

/** The taints of a byte by name. */
export function taintNames(taints: number): string {
  const names = ASI_TAINT_NAMES.filter((_, bit) => (taints & (1 << bit)) !== 0);
  return names.length === 0 ? "none" : names.join("+");
}

/** Who asks for an exit of this reason, where it is always the same. */
const EXIT_FUNCTIONS: ReadonlyMap<number, string> = new Map([
  [EXIT_CONTEXT_SWITCH, "context_switch"],
  [EXIT_VCPU_RUN, "kvm_arch_vcpu_ioctl_run"],
]);

class Tally<K extends string> {
  private readonly counts = new Map<K, number>();

  add(key: K): void {
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
  }

  total(): number {
    let sum = 0;
    for (const count of this.counts.values()) sum += count;
    return sum;
  }

  sorted(): (readonly [K, number])[] {
    return [...this.counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  }

  rows(): LedgerRow[] {
    return this.sorted().map(([what, count]) => ({ what, count }));
  }
}

export class Ledger {
  private readonly explainer: Explainer;
  private readonly events = new Map<number, number>();
  private readonly exits = new Tally<string>();
  private readonly flushes = new Tally<string>();
  private readonly vmExits = new Tally<string>();
  private readonly warnings = new Tally<string>();

  constructor(explainer: Explainer) {
    this.explainer = explainer;
  }

  /** To be called from the machine's observer, for every trace event. */
  trace(event: number, a: number, b: number, c: number): void {
    this.events.set(event, (this.events.get(event) ?? 0) + 1);
    if (event === TRACE_ASI_EXIT) this.addExit(a, b);
    else if (event === TRACE_FLUSH)
      this.flushes.add(`${FLUSH_KINDS[a] ?? a}, ${c === 1 ? "entering" : "leaving"}, owed to ${taintNames(b)}`);
    else if (event === TRACE_VM_EXIT) this.vmExits.add(VM_EXIT_NAMES.get(a & 0xffff) ?? `reason ${a & 0xffff}`);
    else if (event === TRACE_WARN) this.warnings.add(WARNINGS[a] ?? `warning ${a}`);
  }

  report(): LedgerReport {
    return {
      enters: { alreadyThere: this.count(TRACE_ASI_ENTER_NOOP), switched: this.count(TRACE_ASI_ENTER) },
      exits: this.exits.sorted().map(([key, count]) => {
        const [reason = "", name = "", task = "", address = "", what = "", allocatedBy = ""] = key.split("|");
        return { reason, function: name, task, address, what, allocatedBy, count };
      }),
      flushes: this.flushes.rows(),
      vmEntries: this.count(TRACE_VM_ENTRY),
      vmExits: this.vmExits.rows(),
      interrupts: this.count(TRACE_IRQ),
      nmis: this.count(TRACE_NMI),
      systemCalls: this.count(TRACE_SYSCALL),
      pageFaults: this.count(TRACE_PAGE_FAULT),
      contextSwitches: this.count(TRACE_CONTEXT_SWITCH),
      mmSwitches: this.count(TRACE_SWITCH_MM),
      warnings: this.warnings.rows(),
    };
  }

  /** Flushes of one kind so far, for both directions. */
  flushCount(kind: number): number {
    const name = FLUSH_KINDS[kind] ?? "";
    return this.flushes.sorted().reduce((sum, [key, count]) => (key.startsWith(name) ? sum + count : sum), 0);
  }

  get exitCount(): number {
    return this.exits.total();
  }

  private count(event: number): number {
    return this.events.get(event) ?? 0;
  }

  private addExit(reason: number, address: number): void {
    const isFault = EXIT_REASONS[reason] === "page fault";
    const { what, allocatedBy } = isFault ? this.explainer.explain(address) : { what: "", allocatedBy: "" };
    const page = isFault ? hex(Math.floor(address / PAGE_SIZE) * PAGE_SIZE) : "";
    // Reading the host's stack is slow: only where the reason does not say it.
    const name = EXIT_FUNCTIONS.get(reason) ?? kernelCallers(1)[0] ?? "";
    this.exits.add([EXIT_REASONS[reason] ?? `reason ${reason}`, name, this.explainer.currentTask(), page, what, allocatedBy].join("|"));
  }
}
