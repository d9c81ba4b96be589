// `cordon map`: the address spaces of a running scenario, side by side: what the kernel can reach unrestricted, and what speculation can
// reach from each restricted address space.
import { type AddressMap, ScenarioHost, type ScenarioSnapshot, TRACE_PROCESS_EXIT } from "../lab/index.ts";
import { readArguments, wholeNumber } from "./arguments.ts";
import { checkWritable, writeJson } from "./files.ts";
import { loadScenario } from "./scenario-inputs.ts";
import { table } from "./table.ts";

const HELP = `cordon map SCENARIO.yaml [OPTIONS]

Runs a scenario (docs/scenario.schema.json) and prints, for every process, the pages of 4 KiB that its unrestricted address space and each
of its restricted ones reach, region by region and by whose data the frames hold. Sensitive frames are counted: in a restricted address
space only its own user half may have any.

  --at CYCLES        when: so many simulated cycles after the boot (default: when the first program or guest ends)
  --json FILE        writes the maps as JSON
`;

/** Leaves out what is the same in every space and holds nothing: the totals say it. */
function rows(map: AddressMap): (string | number)[][] {
  const lines = map.rows.map((row) => [row.region, row.owner, ...row.counts.map((count) => count.pages)]);
  const sensitive = map.spaces.map((_, i) => map.rows.reduce((sum, row) => sum + (row.counts[i]?.sensitive ?? 0), 0));
  const pages = map.spaces.map((_, i) => map.rows.reduce((sum, row) => sum + (row.counts[i]?.pages ?? 0), 0));
  return [...lines, ["all", "", ...pages], ["sensitive", "", ...sensitive]];
}

function text(snapshot: ScenarioSnapshot): string {
  const loaded = snapshot.loaded.map((space, cpu) => `CPU ${cpu}: ${space}`).join(", ");
  const maps = snapshot.maps.map(
    (map) =>
      `\n${map.name} (pid ${map.pid}, mm ${map.mm}), pages of 4 KiB\n${table(["region", "holds data of", ...map.spaces], rows(map))}\n`,
  );
  return `at cycle ${snapshot.cycles.toLocaleString("en-US")}; tables loaded: ${loaded}\n${maps.join("")}`;
}

export async function map(args: readonly string[]): Promise<number> {
  const parsed = readArguments(
    "map",
    args,
    { at: "string", json: "string", help: "boolean" },
    { min: args.includes("--help") ? 0 : 1, max: 1, what: "one scenario file" },
  );
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const file = parsed.positionals[0] ?? "";
  const at = parsed.text("at") === undefined ? undefined : wholeNumber("at", parsed.text("at"), 0, 0, Number.MAX_SAFE_INTEGER);
  const { scenario, inputs } = loadScenario(file);
  const output = parsed.text("json");
  if (output !== undefined) checkWritable(output);
  let snapshot: ScenarioSnapshot | undefined;
  const host = new ScenarioHost(
    scenario,
    inputs,
    { console: () => undefined, log: () => undefined },
    // While the kernel reports an event: the scenario is running.
    (event) => {
      const { simulation } = host;
      if (snapshot !== undefined || simulation.bootCycles === undefined) return;
      const isTime = at === undefined ? event === TRACE_PROCESS_EXIT : simulation.machine.now >= simulation.bootCycles + at;
      if (!isTime) return;
      snapshot = host.snapshot();
      simulation.machine.stop({ kind: "limit" });
    },
  );
  host.run();
  if (snapshot === undefined) {
    process.stderr.write(`cordon: ${file}: everything had ended before that cycle, or nothing ended before the limit of the scenario\n`);
    return 1;
  }
  process.stdout.write(text(snapshot));
  if (output !== undefined) writeJson(output, snapshot);
  return 0;
}
