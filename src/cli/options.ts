// `cordon options`: what each option beyond the posted series saves, counted.
import { DEFAULT_CPU_MODEL } from "../hardware/index.ts";
import { measureOptions, optionsTable } from "../lab/index.ts";
import { cpuModel, readArguments } from "./arguments.ts";
import { checkWritable, writeJson } from "./files.ts";

const HELP = `cordon options [--cpu KEY] [--json FILE]

Runs small workloads with preset cordon, with each option changed alone, and with preset cordon-fast, and counts transitions and flushes
per 1,000 VM exits and per 1,000 system calls.
`;

/** @returns the exit status. */
export async function options(args: readonly string[]): Promise<number> {
  const parsed = readArguments("options", args, { cpu: "string", json: "string", help: "boolean" }, { min: 0, max: 0, what: "no file" });
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const model = cpuModel(parsed.text("cpu"), DEFAULT_CPU_MODEL);
  const json = parsed.text("json");
  if (json !== undefined) checkWritable(json);
  const rows = measureOptions(model);
  process.stdout.write(optionsTable(rows));
  if (json !== undefined) writeJson(json, { cpu: model.key, rows });
  return 0;
}
