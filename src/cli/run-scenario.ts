// `cordon run --scenario`: several programs and guests on one host. Standard output is their console, each line behind its name.
import { type ScenarioEnd, ScenarioHost } from "../lab/index.ts";
import { checkWritable, writeJson } from "./files.ts";
import { ledgerText } from "./ledger-text.ts";
import { loadScenario } from "./scenario-inputs.ts";
import { table } from "./table.ts";

const STATUS_STOPPED = 3;

/** Runs the scenario of `file`. @returns 0; 1 after a violation; else the first status that is not 0, in the file's order. */
export function runScenario(file: string, ledgerFile: string | undefined): number {
  const { scenario, inputs } = loadScenario(file);
  if (ledgerFile !== undefined) checkWritable(ledgerFile);
  const decoder = new TextDecoder();
  const host = new ScenarioHost(scenario, inputs, {
    console: (name, bytes) => {
      for (const line of decoder.decode(bytes).split(/(?<=\n)/)) process.stdout.write(`${name}: ${line}`);
    },
    log: (line) => {
      process.stderr.write(`kernel: ${line}\n`);
    },
  });
  const result = host.run();
  const ends = result.ends.map((end) => [end.name, end.kind, end.ending, end.status, end.reason]);
  process.stderr.write(`cordon: every end\n${table(["name", "kind", "ending", "status", "reason"], ends)}\n${ledgerText(result)}`);
  if (ledgerFile !== undefined) writeJson(ledgerFile, result);
  if (result.violations !== null && result.violations.length > 0) return 1;
  return result.ends.map(statusOf).find((status) => status !== 0) ?? 0;
}

function statusOf(end: ScenarioEnd): number {
  return end.ending === "exit" || end.ending === "halt" ? end.status : STATUS_STOPPED;
}
