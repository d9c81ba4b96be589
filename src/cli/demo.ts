// `cordon demo`, which is `npm start`: both attacks with ASI off and on, in one table.
import { DEFAULT_CPU_MODEL } from "../hardware/index.ts";
import { ATTACKS, type AttackName, type AttackResult, CONTROL_MEANINGS, type ControlName, runAttack } from "../lab/index.ts";
import { readArguments, wholeNumber } from "./arguments.ts";
import { DEFAULT_ATTACK_LIMIT } from "./attack.ts";
import { checkWritable, writeJson } from "./files.ts";
import { table } from "./table.ts";

const HELP = `cordon demo [OPTIONS]

A guest attacks its host, on a simulated ${DEFAULT_CPU_MODEL.name}: it reads a secret of another process out of L1D (L1 Terminal Fault), and makes the host
kernel read it by Spectre v1. Each with ASI off and on; no other mitigation is on.

  --seed N       chooses the secret (default 1)
  --details      also the controls: ASI with one defence taken away, or the attack aimed at memory that ASI does not protect
  --json FILE    writes the results as JSON
`;

interface Run {
  readonly attack: AttackName;
  readonly asi: boolean;
  readonly control: ControlName;
}

/** What each row of the table runs. */
const RUNS: readonly Run[] = ATTACKS.flatMap((attack) => [false, true].map((asi): Run => ({ attack, asi, control: "none" })));
const CONTROL_RUNS: readonly Run[] = [
  { attack: "l1tf", asi: true, control: "no-data-flush" },
  { attack: "spectre-v1", asi: true, control: "map-secret" },
  { attack: "spectre-v1", asi: true, control: "nonsensitive-page" },
];

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

function run(one: Run, seed: number): Row {
  const started = performance.now();
  const result = runAttack({ ...one, model: DEFAULT_CPU_MODEL, preset: "cordon", seed, limit: DEFAULT_ATTACK_LIMIT });
  return { ...result, hostSeconds: (performance.now() - started) / 1000 };
}

const HEADER = ["attack", "asi", "recovered", "stopped by", "enter/exit", "flushes data/control", "VM exits", "cycles", "host s"];

export async function demo(args: readonly string[]): Promise<number> {
  const parsed = readArguments(
    "demo",
    args,
    { seed: "string", details: "boolean", json: "string", help: "boolean" },
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
  const rows = RUNS.map((one) => run(one, seed));
  process.stdout.write(`${table(HEADER, rows.map(rowOf))}\n\n`);
  if (parsed.flag("details")) {
    const controls = CONTROL_RUNS.map((one) => run(one, seed));
    rows.push(...controls);
    const lines = controls.map((row) => [row.attack, `${row.recovered} of ${row.length}`, CONTROL_MEANINGS[row.control]]);
    process.stdout.write(`${table(["attack", "recovered", "control"], lines)}\n\n`);
  }
  process.stdout.write(
    "Next: see that the flush alone stops the first attack, with `cordon attack l1tf --control no-data-flush`, and that the missing mapping alone\n" +
      "stops the second, with `cordon attack spectre-v1 --control map-secret`.\n",
  );
  // Host seconds differ from run to run: they are shown and not written.
  if (file !== undefined) writeJson(file, { results: rows.map(({ hostSeconds: _, ...result }) => result) });
  return 0;
}
