// What the printed executors must keep: few locals (V8 took seconds to optimize a function with a local per case), every op present,
// and the facts of cold ops that transient execution rests on.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { COLD_TRANSIENT, COLD_WAITS, coldFacts } from "./cold-facts.ts";
import type { Op } from "./ir.ts";
import { OPS, opNumber } from "./op-table.ts";
import { addressReads, printDetailedExecutor, valueReads } from "./print-detailed.ts";

const MOST_LOCALS = 100;
const WASM_HEADER_BYTES = 8;
const CODE_SECTION = 10;

function opNamed(name: string): Op {
  const op = OPS[opNumber(name)];
  assert.ok(op !== undefined);
  return op;
}

/** Locals (without parameters) of each function of a WebAssembly module. */
function localsOf(path: string): number[] {
  const bytes = readFileSync(path);
  let at = WASM_HEADER_BYTES;
  const leb = (): number => {
    let result = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? 0;
      result |= (byte & 0x7f) << shift;
      if (byte < 0x80) return result >>> 0;
    }
  };
  const counts: number[] = [];
  while (at < bytes.length) {
    const section = bytes[at++];
    const end = leb() + at;
    if (section === CODE_SECTION) {
      for (let left = leb(); left > 0; left--) {
        const body = leb() + at;
        let count = 0;
        for (let groups = leb(); groups > 0; groups--) {
          count += leb();
          at++; // the type
        }
        counts.push(count);
        at = body;
      }
    }
    at = end;
  }
  return counts;
}

for (const gear of ["architectural", "detailed"]) {
  test(`no function of the ${gear} core has ${MOST_LOCALS} locals`, () => {
    const counts = localsOf(fileURLToPath(new URL(`../../../core/core-${gear}.wasm`, import.meta.url)));
    assert.ok(counts.length > 100);
    assert.ok(Math.max(...counts) < MOST_LOCALS, `${Math.max(...counts)} locals`);
  });
}

test("the detailed executor has a case for every op", () => {
  const text = printDetailedExecutor(opNumber("link_stub"));
  for (const [number, op] of OPS.entries()) assert.ok(text.includes(`case ${number}: {`), op.name);
});

test("an access waits for its address, the result for the rest too", () => {
  const add = opNamed("add64_rm");
  assert.deepEqual([...addressReads(add).operands].sort(), ["base", "index"]);
  assert.deepEqual([...valueReads(add).operands], ["dst"]);
  const push = opNamed("push64_r");
  assert.deepEqual([...valueReads(push).operands], ["src"]);
});

test("fences and system instructions wait; RDTSC alone does not", () => {
  for (const name of ["lfence", "mfence", "rdtscp", "iretq", "mov_to_cr", "assist"])
    assert.ok((coldFacts(opNamed(name)) & COLD_WAITS) !== 0, name);
  for (const name of ["rdtsc", "prefetch", "clflush"]) assert.equal(coldFacts(opNamed(name)) & COLD_WAITS, 0, name);
});

test("a wrong path executes nothing that reaches beyond what a window takes back", () => {
  const stops = [
    "assist",
    "cli",
    "hlt",
    "iretq",
    "mov_to_cr",
    "movs",
    "out",
    "pushf",
    "stos",
    "swapgs",
    "syscall",
    "sysretq",
    "trap",
    "vector_store",
  ];
  for (const name of stops) assert.equal(coldFacts(opNamed(name)) & COLD_TRANSIENT, 0, name);
  for (const name of ["lfence", "prefetch", "rdtsc", "vector_load", "adc8_mr"])
    assert.ok((coldFacts(opNamed(name)) & COLD_TRANSIENT) !== 0, name);
});
