// SDM vol. 2, CPUID: the fields that software reads to know its CPU.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CPU_MODELS, fail, findCpuModel } from "../hardware/index.ts";
import { cpuidOf } from "./cpuid.ts";

const skx = findCpuModel("skx") ?? fail("no model skx");

test("Skylake-SP says what it is: vendor, family 6 model 0x55 stepping 4, brand", () => {
  const [, ebx, ecx, edx] = cpuidOf(skx, 0, 0, 0, 1);
  assert.deepEqual([ebx, edx, ecx], [0x756e6547, 0x49656e69, 0x6c65746e]); // GenuineIntel
  assert.equal(cpuidOf(skx, 1, 0, 0, 1)[0], 0x50654);
  const bytes = [0x80000002, 0x80000003, 0x80000004].flatMap((leaf) => cpuidOf(skx, leaf, 0, 0, 1));
  const brand = bytes.map((word) => String.fromCharCode(word & 255, (word >> 8) & 255, (word >> 16) & 255, word >>> 24)).join("");
  assert.equal(brand.replaceAll("\0", ""), skx.brand);
});

test("features are at their bits, and only if the model has them", () => {
  assert.equal((cpuidOf(skx, 1, 0, 0, 1)[2] >>> 5) & 1, 1); // VMX
  assert.equal((cpuidOf(skx, 7, 0, 0, 1)[3] >>> 28) & 1, 1); // L1D_FLUSH
  const without = { ...skx, features: skx.features.filter((feature) => feature !== "VMX" && feature !== "FLUSH_L1D") };
  assert.equal((cpuidOf(without, 1, 0, 0, 1)[2] >>> 5) & 1, 0);
  assert.equal((cpuidOf(without, 7, 0, 0, 1)[3] >>> 28) & 1, 0);
});

test("caches in leaf 4 multiply to their size; leaf 0xb gives the x2APIC id", () => {
  for (const model of CPU_MODELS) {
    const [, ebx, sets] = cpuidOf(model, 4, 0, 0, 1);
    assert.equal(((ebx >>> 22) + 1) * (sets + 1) * ((ebx & 0xfff) + 1), model.l1d.sets * model.l1d.ways * 64);
    assert.deepEqual(cpuidOf(model, 0xb, 0, 3, 4), [0, 1, 0x100, 3]);
    assert.deepEqual(cpuidOf(model, 0xb, 0, 3, 4, 2), [1, 2, 0x100, 3]);
    assert.deepEqual(cpuidOf(model, 0xb, 1, 3, 4, 2), [2, 4, 0x201, 3]);
  }
});

test("leaf 4 says which identifiers share a cache: a core's threads its L1 and L2, everybody L3", () => {
  const sharing = (subleaf: number, threads: number): number => (cpuidOf(skx, 4, subleaf, 0, 4, threads)[0] >>> 14) & 0xfff;
  assert.deepEqual([sharing(0, 2), sharing(1, 2), sharing(2, 2), sharing(3, 2)], [1, 1, 1, 3]);
  assert.deepEqual([sharing(0, 1), sharing(3, 1)], [0, 3]);
  // Cores of the package less one, in bits 31:26.
  assert.equal(cpuidOf(skx, 4, 0, 0, 4, 2)[0] >>> 26, 1);
});
