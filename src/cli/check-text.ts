// A verdict in words and tables.
import { eventLines, type Found, operationNames, type Verdict } from "../lab/index.ts";
import { table } from "./table.ts";

const OUTCOMES = { proved: "proved within the bounds", refuted: "REFUTED", incomplete: "incomplete" } as const;

function foundText(names: readonly string[], { path, finding }: Found): string {
  return `\n${finding.message}\n${eventLines(names, path, "  ")}`;
}

/** What was found and what was covered: the same for the same configuration. */
export function verdictText(verdict: Verdict): string {
  const { configuration, outcome, why, result, collision } = verdict;
  const { name, model, preset, commandLine, cpus, processes, vms, vcpus, switches, failures, injectionsPerEvent } = configuration;
  const names = operationNames(configuration);
  const covered =
    result.end === "closed"
      ? "every reachable state"
      : `every sequence of up to ${result.depth} events${result.partly[0] < result.partly[1] && result.partly[0] > 0 ? `, ${result.partly[0]} of ${result.partly[1]} states of the next` : ""}`;
  const rows = [
    ["CPU model", model.name],
    ["preset, command line", `${preset}, ${commandLine}`],
    ["CPUs, processes", `${cpus}, ${processes}`],
    ["VMs of each, vCPUs", `${vms}, ${vcpus}`],
    ["operations", configuration.operations.join(", ")],
    ["injected", configuration.injections.length === 0 ? "nothing" : configuration.injections.join(", ")],
    ["bounds", `${injectionsPerEvent} injections an event, ${switches} switches and ${failures} failures a run`],
    ["states, executions", `${result.states}, ${result.executions} (${verdict.executions} in ${verdict.passes} searches)`],
    ["covered", covered],
    ["memory of the search", `${Math.ceil(result.bytes / 2 ** 20)} MiB, ${Math.round(result.bytes / result.states)} bytes a state`],
    ["a state was overlooked", `with a probability below ${collision.toExponential(1)} (64-bit hashes)`],
  ] as const;
  const before = verdict.foundBefore.map((message) => `\nwhile the processes set up: ${message}\n`).join("");
  const found = result.found.map((one) => foundText(names, one)).join("");
  return `${name}: ${OUTCOMES[outcome]}${why === "" ? "" : `: ${why}`}\n\n${table(["", ""], rows)}\n${before}${found}`;
}
