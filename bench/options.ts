// What the options beyond the posted series save, as a table of counts: `node dist/bench/options.js [CPU]`. Deterministic.
import { fail, findCpuModel } from "../src/hardware/index.ts";
import { measureOptions, optionsTable } from "../src/lab/index.ts";

const key = process.argv[2] ?? "skx";
process.stdout.write(optionsTable(measureOptions(findCpuModel(key) ?? fail(`no CPU model ${key}`))));
