// `cordon cpus`: the CPU models, as they are in src/hardware/models.
import { CPU_MODELS, type CpuModel, UsageError } from "../hardware/index.ts";
import { readArguments } from "./arguments.ts";
import { table } from "./table.ts";

const HELP = `cordon cpus [KEY]

Without KEY: one line for each CPU model. With KEY: all that the model says, with the source of each number.
`;

function details(model: CpuModel): string {
  const caches = table(
    ["cache", "sets", "ways", "KiB", "latency"],
    (["l1i", "l1d", "l2", "l3"] as const).map((name) => {
      const cache = model[name];
      return [name, cache.sets, cache.ways, (cache.sets * cache.ways * 64) / 1024, cache.latency.value];
    }),
  );
  const costs = table(
    ["operation", "cycles", "source"],
    Object.entries(model.cost).map(([name, cost]) => [name, cost.value, cost.isAssumed ? `assumed: ${cost.source}` : cost.source]),
  );
  return [
    `${model.key}: ${model.name} (${model.brand})`,
    `family ${model.family}, model 0x${model.model.toString(16)}, stepping ${model.stepping}; ${model.physicalBits} physical address bits`,
    `bugs: ${model.bugs.join(" ")}`,
    `features: ${model.features.join(" ")}`,
    `ARCH_CAPABILITIES: ${model.archCapabilities.join(" ")}`,
    "",
    caches,
    "",
    costs,
    "",
  ].join("\n");
}

export async function cpus(args: readonly string[]): Promise<number> {
  const parsed = readArguments("cpus", args, { help: "boolean" }, { min: 0, max: 1, what: "at most one model key" });
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const key = parsed.positionals[0];
  if (key === undefined) {
    const rows = CPU_MODELS.map((model) => [
      model.key,
      model.name,
      ["CPU_MELTDOWN", "L1TF", "MDS"].filter((bug) => model.bugs.some((one) => one === bug)).join(" ") || "none of Meltdown, L1TF, MDS",
    ]);
    process.stdout.write(`${table(["key", "model", "data-sampling bugs"], rows)}\n`);
    return 0;
  }
  const model = CPU_MODELS.find((one) => one.key === key);
  if (model === undefined) throw new UsageError(`cpus ${key}: one of ${CPU_MODELS.map((one) => one.key).join(", ")} is accepted`);
  process.stdout.write(details(model));
  return 0;
}
