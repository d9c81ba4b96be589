// How often each CPU left the restricted address space, and why (kernel: the statistics of the later branch): counted in per-CPU memory by
// asi_exit(), read by who wants to know, and as text for a file of the debug file system.
import { addVirt, bytes, count, cpu, perCpu } from "../../hardware/index.ts";
import { nrCpuIds, perCpuBase } from "../mm/percpu.ts";
import { EXIT_REASONS, type ExitReason } from "../trace.ts";

const exits = perCpu("asi_exits", bytes(4 * EXIT_REASONS.length, 4));

/** One exit more on this CPU. In one instruction: an NMI may leave in its middle. */
export function countAsiExit(reason: ExitReason): void {
  count(addVirt(exits.here(), 4 * reason));
}

/** Exits of CPU `id` because of `reason` since boot. */
export function asiExitCount(id: number, reason: ExitReason): number {
  return cpu.load(addVirt(exits.at(perCpuBase(id)), 4 * reason), 4);
}

/** Exits of all CPUs because of `reason` since boot. */
export function asiExitTotal(reason: ExitReason): number {
  let total = 0;
  for (let id = nrCpuIds() - 1; id >= 0; id--) total += asiExitCount(id, reason);
  return total;
}

/** The file asi/exits of the debug file system: a line for each reason, with the count of each CPU. */
export function asiExitsText(): string {
  const cpus = nrCpuIds();
  const columns = Array.from({ length: cpus }, (_, id) => `cpu${id}`);
  let text = `${["reason", "total", ...columns].join("\t")}\n`;
  for (const [reason, name] of EXIT_REASONS.entries()) {
    const counts = columns.map((_, id) => asiExitCount(id, reason as ExitReason)); // an index of the list
    text += `${[name, counts.reduce((sum, count) => sum + count, 0), ...counts].join("\t")}\n`;
  }
  return text;
}
