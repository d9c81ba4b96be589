import assert, { deepEqual, equal, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { CPU_MODELS, findCpuModel, hasBug } from "./models/index.ts";
import type { CpuModel, Sourced } from "./models/model.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");
const known = readFileSync(join(root, "src", "hardware", "models", "SOURCES.md"), "utf8");

function sourced(value: unknown): Sourced[] {
  if (typeof value !== "object" || value === null) return [];
  if ("value" in value && "source" in value) return [value as Sourced];
  return Object.values(value).flatMap(sourced);
}

function model(key: string): CpuModel {
  const found = findCpuModel(key);
  assert(found !== undefined, `no model ${key}`);
  return found;
}

test("every number of every model has a source that SOURCES.md lists, or says that we chose it", () => {
  for (const one of CPU_MODELS) {
    for (const number of sourced(one)) {
      ok(number.value >= 0, `${one.key}: ${number.source}`);
      if (!number.isAssumed) ok(known.includes(`\`${number.source.split(":")[0]}\``), `${one.key}: unknown source ${number.source}`);
    }
  }
});

test("model keys are unique and found", () => {
  const keys = CPU_MODELS.map((one) => one.key);
  deepEqual([...new Set(keys)], keys);
  for (const key of keys) equal(findCpuModel(key)?.key, key);
  equal(findCpuModel("nosuch"), undefined);
});

test("caches are powers of two in sets, and 32 KiB of L1D on Skylake-SP (Intel optimization manual)", () => {
  for (const one of CPU_MODELS) {
    for (const cache of [one.l1d, one.l1i, one.l2, one.l3]) equal(Math.log2(cache.sets) % 1, 0);
  }
  const { l1d, l2 } = model("skx");
  equal(l1d.sets * l1d.ways * 64, 32768);
  equal(l2.sets * l2.ways * 64, 1 << 20);
});

test("Cascade Lake is not affected by Meltdown, L1TF and MDS; Skylake-SP is by all three", () => {
  for (const bug of ["CPU_MELTDOWN", "L1TF", "MDS"] as const) {
    equal(hasBug(model("skx"), bug), true);
    equal(hasBug(model("clx"), bug), false);
  }
});
