// The ledger as text, for people.
import type { GuestRun, LedgerRow } from "../lab/index.ts";
import { table } from "./table.ts";

/** Causes of exits that are printed; the file holds all. */
const MAX_EXIT_ROWS = 25;
const EXIT_COLUMNS = ["reason", "kernel function", "task", "page", "what lives there", "allocated by", "count"];

function section(title: string, rows: readonly LedgerRow[]): string {
  if (rows.length === 0) return "";
  return `\n${title}\n${table(
    ["what", "count"],
    rows.map((row) => [row.what, row.count]),
  )}\n`;
}

/** Transitions, flushes, VM exits, and what was not understood. */
export function ledgerText(run: Pick<GuestRun, "ledger" | "cycles" | "instructions" | "violations" | "unimplemented">): string {
  const { ledger } = run;
  const shown = ledger.exits.slice(0, MAX_EXIT_ROWS);
  const more = ledger.exits.length - shown.length;
  const exits = shown.map((row) => [row.reason, row.function, row.task, row.address, row.what, row.allocatedBy, row.count]);
  const kernel: LedgerRow[] = [
    { what: "simulated cycles", count: run.cycles },
    { what: "instructions", count: run.instructions },
    { what: "asi_enter: already there, nothing owed", count: ledger.enters.alreadyThere },
    { what: "asi_enter: address space switched", count: ledger.enters.switched },
    { what: "asi_exit", count: ledger.exits.reduce((sum, row) => sum + row.count, 0) },
    { what: "VM entries", count: ledger.vmEntries },
    { what: "interrupts", count: ledger.interrupts },
    { what: "NMIs", count: ledger.nmis },
    { what: "system calls", count: ledger.systemCalls },
    { what: "page faults", count: ledger.pageFaults },
    { what: "context switches", count: ledger.contextSwitches },
  ];
  return [
    section("ledger", kernel),
    exits.length === 0
      ? ""
      : `\nexits from the restricted address space\n${table(EXIT_COLUMNS, exits)}\n${more > 0 ? `and ${more} more causes (--ledger FILE holds all)\n` : ""}`,
    section("flushes", ledger.flushes),
    section("VM exits", ledger.vmExits),
    section("kernel warnings", ledger.warnings),
    run.violations === null || run.violations.length > 0 ? "" : "\nsafety properties S1 to S10: no violation\n",
    section("violations of the safety properties", run.violations ?? []),
    section("instructions that are not implemented (each raised #UD)", run.unimplemented),
  ].join("");
}
