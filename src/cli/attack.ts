// `cordon attack`: one attack under one configuration, with the evidence for its outcome.
import { CPU_MODELS, DEFAULT_CPU_MODEL, UsageError } from "../hardware/index.ts";
import { ATTACKS, type AttackResult, CONTROL_MEANINGS, CONTROL_NAMES, PRESETS, runAttack } from "../lab/index.ts";
import { cpuModel, oneOf, readArguments, wholeNumber } from "./arguments.ts";
import { checkWritable, writeJson } from "./files.ts";
import { table } from "./table.ts";

const HELP = `cordon attack NAME [OPTIONS]

Runs one attack of a guest on its host, in the detailed gear, and says what came of it and why.

  NAME               ${ATTACKS.join(", ")}
  --asi on|off       address space isolation of the host (default on)
  --cpu KEY          CPU model: ${CPU_MODELS.map((model) => model.key).join(", ")} (default ${DEFAULT_CPU_MODEL.key})
  --preset NAME      cordon (default); rfc-v2: the series as posted, its faults included; cordon-fast: every option beyond it
  --control NAME     takes one thing away, to show that it is what defends:
${CONTROL_NAMES.map((name) => `                       ${name.padEnd(18)} ${CONTROL_MEANINGS[name]}`).join("\n")}
  --seed N           chooses the secret (default 1)
  --limit CYCLES     stops the attack (default 4000000000)
  --json FILE        writes the result as JSON

Exit status: 0 whether or not the attack succeeds; 2 for bad input.
`;

export const DEFAULT_ATTACK_LIMIT = 4_000_000_000;

/** The evidence, a line each. */
export function evidence(result: AttackResult): string {
  const rows: (readonly [string, string | number])[] = [
    ["attack", result.attack],
    ["CPU", result.cpu],
    ["ASI", result.asi],
    ["control", `${result.control} (${CONTROL_MEANINGS[result.control]})`],
    ["bytes recovered", `${result.recovered} of ${result.length}`],
    ["stopped by", result.stoppedBy],
    ["the attacker's report", result.report],
    ["VM exits with the secret's line in L1D", `${result.exitsWithSecretInL1d} of ${result.vmExits}`],
    ["secret mapped where the host handled the exits", result.isSecretMapped ? "yes" : "no"],
    ["hypercalls that left the restricted address space", `${result.hypercallsThatExited} of ${result.hypercalls}`],
    ["flushes: data, control", `${result.dataFlushes}, ${result.controlFlushes}`],
    ["transitions: asi_enter, asi_exit", `${result.enters}, ${result.exits}`],
    ["simulated cycles", result.cycles.toLocaleString("en-US")],
  ];
  return `${table(["what", "value"], rows)}\n`;
}

export async function attack(args: readonly string[]): Promise<number> {
  const parsed = readArguments(
    "attack",
    args,
    { asi: "string", cpu: "string", preset: "string", control: "string", seed: "string", limit: "string", json: "string", help: "boolean" },
    { min: args.includes("--help") ? 0 : 1, max: 1, what: `one attack: ${ATTACKS.join(" or ")}` },
  );
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const name = ATTACKS.find((one) => one === parsed.positionals[0]);
  if (name === undefined) throw new UsageError(`attack ${parsed.positionals[0]}: one of ${ATTACKS.join(", ")} is accepted`);
  const file = parsed.text("json");
  if (file !== undefined) checkWritable(file);
  const result = runAttack({
    attack: name,
    asi: oneOf("asi", parsed.text("asi"), "on", ["on", "off"]) === "on",
    model: cpuModel(parsed.text("cpu"), DEFAULT_CPU_MODEL),
    preset: oneOf("preset", parsed.text("preset"), "cordon", PRESETS),
    control: oneOf("control", parsed.text("control"), "none", CONTROL_NAMES),
    seed: wholeNumber("seed", parsed.text("seed"), 1, 0, 2 ** 32 - 2),
    limit: wholeNumber("limit", parsed.text("limit"), DEFAULT_ATTACK_LIMIT, 1, Number.MAX_SAFE_INTEGER),
  });
  process.stdout.write(evidence(result));
  if (file !== undefined) writeJson(file, { results: [result] });
  return 0;
}
