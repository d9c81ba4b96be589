// `cordon check --all-options`: the verdicts on every option and on every configuration, as a document.
import { judgeAll, OPTION_CONFIGURATIONS, OPTION_SUBJECTS, PRESET_CONFIGURATIONS, PRESET_SUBJECTS, tableText } from "../lab/index.ts";
import { writeWhole } from "./files.ts";

/** Judges them all up to `depth` events (0: whole spaces) and writes the document. @returns the exit status */
export async function checkTable(file: string, depth: number, workers: number): Promise<number> {
  const progress = (done: string): void => {
    process.stderr.write(`cordon: ${done}\n`);
  };
  const options = await judgeAll(OPTION_SUBJECTS, OPTION_CONFIGURATIONS, { depth, workers, progress });
  const presets = await judgeAll(PRESET_SUBJECTS, PRESET_CONFIGURATIONS, { depth, workers, progress });
  const bound = depth === 0 ? "whole state spaces" : `every sequence of up to ${depth} events`;
  const text = `# Verdicts

What \`cordon check --all-options${depth === 0 ? "" : ` --depth ${depth}`}\` found: ${bound}, within the bounds of each configuration (\`cordon check --list\`,
src/lab/prover/named-configurations.ts). "all": every reachable state. Generated; the same for the same code.

## Each option beyond the posted series

${tableText(options)}
## Every configuration, under the posted series and under the default

${tableText(presets)}`;
  writeWhole(file, text);
  process.stdout.write(`${options.length + presets.length} verdicts are in ${file}\n`);
  return [...options, ...presets].some(({ verdict }) => verdict.outcome === "incomplete") ? 3 : 0;
}
