// `cordon explain`: what the presets are, difference by difference, each with its consequence and a command that shows it.

import { UsageError } from "../hardware/index.ts";
import { ASI_OPTIONS, PRESET_DIFFERENCES, PRESETS } from "../lab/index.ts";
import { readArguments } from "./arguments.ts";
import { table } from "./table.ts";

const TOPICS = ["rfc-v2", "cordon-fast"] as const;

const HELP = `cordon explain ${TOPICS.join("|")}

  rfc-v2        what the series does as posted (the second RFC, January 2025), where preset cordon does otherwise
  cordon-fast   the options beyond the posted series, what each means, and which preset has it on
`;

const WIDTH = 100;

/** Lines of at most WIDTH characters behind an indent. */
function wrapped(label: string, text: string): string {
  const indent = " ".repeat(14);
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  lines.push(line);
  return lines.map((part, i) => `${i === 0 ? `  ${label.padEnd(12)}` : indent}${part}`).join("\n");
}

function differences(): string {
  return PRESET_DIFFERENCES.map(
    (difference) =>
      `${difference.id} (patch ${String(difference.patch).padStart(2, "0")}; ${difference.where})\n${[
        wrapped("rfc-v2", difference.posted),
        wrapped("cordon", difference.cordon),
        wrapped("consequence", difference.consequence),
        wrapped("see it", difference.command),
      ].join("\n")}\n`,
  ).join("\n");
}

function options(): string {
  const rows = ASI_OPTIONS.map((option) => [
    `cordon.${option.name}`,
    ...PRESETS.map((preset) => (option.isOnByDefault[preset] ? "on" : "off")),
    option.meaning,
  ]);
  return `Options of the kernel command line (cordon.NAME=on|off), and their defaults\n\n${table(["option", ...PRESETS, "on means"], rows)}\n`;
}

export async function explain(args: readonly string[]): Promise<number> {
  const parsed = readArguments(
    "explain",
    args,
    { help: "boolean" },
    { min: args.includes("--help") ? 0 : 1, max: 1, what: `one of ${TOPICS.join(", ")}` },
  );
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const topic = parsed.positionals[0];
  if (topic === "rfc-v2") process.stdout.write(differences());
  else if (topic === "cordon-fast") process.stdout.write(options());
  else throw new UsageError(`explain: ${topic}: one of ${TOPICS.join(", ")} is accepted`);
  return 0;
}
