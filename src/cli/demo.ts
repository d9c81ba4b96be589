// `cordon demo`, which is `npm start`: both attacks with ASI off and on, in one table.
import { DEFAULT_CPU_MODEL } from "../hardware/index.ts";
import { ATTACKS, type AttackResult, runAttack } from "../lab/index.ts";
import { readArguments, wholeNumber } from "./arguments.ts";
import { DEFAULT_ATTACK_LIMIT } from "./attack.ts";
import { checkWritable, writeJson } from "./files.ts";
import { table } from "./table.ts";

const HELP = `cordon demo [OPTIONS]

A guest attacks its host, on a simulated ${DEFAULT_CPU_MODEL.name}: it reads a secret of another process out of L1D (L1 Terminal Fault), and makes the host
kernel read it by Spectre v1. Each with ASI off and on; no other mitigation is on.

  --seed N       chooses the secret (default 1)
  --json FILE    writes the results as JSON
`;

interface Row extends AttackResult {
  readonly hostSeconds: number;
}

function rowOf(row: Row): readonly (string | number)[] {
  const transitions = `${row.enters}/${row.exits}`;
  const flushes = `${row.dataFlushes}/${row.controlFlushes}`;
  return [
    row.attack,
    row.asi,
    `${row.recovered} of ${row.length}`,
    row.stoppedBy,
    transitions,
    flushes,
    row.vmExits,
    row.cycles,
    row.hostSeconds.toFixed(1),
  ];
}

export async function demo(args: readonly string[]): Promise<number> {
  const parsed = readArguments(
    "demo",
    args,
    { seed: "string", json: "string", help: "boolean" },
    { min: 0, max: 0, what: "no arguments but options" },
  );
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const seed = wholeNumber("seed", parsed.text("seed"), 1, 0, 2 ** 32 - 2);
  const file = parsed.text("json");
  if (file !== undefined) checkWritable(file);

  process.stdout.write(
    `A guest attacks its host on a simulated ${DEFAULT_CPU_MODEL.name}; the secret is 32 bytes of another process (seed ${seed}).\n\n`,
  );
  const rows: Row[] = [];
  for (const attack of ATTACKS) {
    for (const asi of [false, true]) {
      const started = performance.now();
      const result = runAttack({
        attack,
        asi,
        model: DEFAULT_CPU_MODEL,
        preset: "cordon",
        control: "none",
        seed,
        limit: DEFAULT_ATTACK_LIMIT,
      });
      rows.push({ ...result, hostSeconds: (performance.now() - started) / 1000 });
    }
  }
  const header = ["attack", "asi", "recovered", "stopped by", "enter/exit", "flushes data/control", "VM exits", "cycles", "host s"];
  process.stdout.write(`${table(header, rows.map(rowOf))}\n\n`);
  process.stdout.write(
    "Next: see that the flush alone stops the first attack, with `cordon attack l1tf --control no-data-flush`, and that the missing mapping alone\n" +
      "stops the second, with `cordon attack spectre-v1 --control map-secret`.\n",
  );
  // Host seconds differ from run to run: they are shown and not written.
  if (file !== undefined) writeJson(file, { results: rows.map(({ hostSeconds: _, ...result }) => result) });
  return 0;
}
