// Every allocation on the paths of open, write, dup, pipe, fork, clone, mmap, futex, kill, execve and exit fails once in a run of a program
// that goes through them all: when everything has ended and the machine idles, as much is allocated as without a failure (S9).
import { deepEqual, equal, ok } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { fail, findCpuModel, type PhysAddr, silentObserver } from "../hardware/index.ts";
import { buildKernelImage, KERNEL_DATA_BASE, KERNEL_DATA_PHYSICAL, TRACE_BOOT_DONE, TRACE_PROCESS_EXIT } from "../kernel/index.ts";
import { FailAlloc, failAllocState } from "../kernel/mm/fail-alloc.ts";
import { SimulatedMachine } from "../machine/index.ts";
import { checkedObserver, SimulatedCheck } from "./check/index.ts";
import { packCpio } from "./cpio.ts";
import { type Census, censusDifference } from "./properties/objects.ts";

const PROGRAM = fileURLToPath(new URL("../../../programs/built/scarce.elf", import.meta.url));
const LIMIT = 1_000_000_000;

interface Outcome {
  readonly census: Census;
  readonly violations: readonly string[];
  /** Allocations that were tried, and that were made to fail. */
  readonly attempts: number;
  readonly failed: number;
  readonly hasEnded: boolean;
}

/** Runs the program with the `nth` allocation after boot failing, until the machine idles. */
function run(nth: number): Outcome {
  const exited = new Set<number>();
  const at = (KERNEL_DATA_PHYSICAL + (failAllocState - KERNEL_DATA_BASE)) as PhysAddr;
  const observer = checkedObserver({
    ...silentObserver,
    trace: (event, a) => {
      if (event === TRACE_PROCESS_EXIT) exited.add(a);
      if (event === TRACE_BOOT_DONE) machine.memory.write32((at + FailAlloc.offset.remaining) as PhysAddr, nth);
    },
  });
  const machine: SimulatedMachine = new SimulatedMachine({
    model: findCpuModel("skx") ?? fail("no such CPU model"),
    memoryBytes: 64 * 2 ** 20,
    cpus: 1,
    gear: "architectural",
    image: buildKernelImage({ preset: "cordon", processes: [{ name: "scarce", program: "/init" }], puppets: new Map() }),
    commandLine: "asi=on",
    initrd: packCpio(new Map([["init", new Uint8Array(readFileSync(PROGRAM))]])),
    observer,
  });
  const check = new SimulatedCheck(machine, observer, { isCollecting: true });
  machine.setStepHook(undefined);
  const { kind } = machine.run(LIMIT);
  return {
    census: check.checker.census(),
    violations: check.checker.violations.map((violation) => violation.detail),
    attempts: machine.memory.read32((at + FailAlloc.offset.attempts) as PhysAddr),
    failed: machine.memory.read32((at + FailAlloc.offset.failed) as PhysAddr),
    hasEnded: kind === "idle" && exited.has(1),
  };
}

/** Kernel stacks that were freed and wait for the next flush of all TLBs: four pages and the record of their area each. Not a leak. */
function isPendingStacks(difference: string): boolean {
  const found = /^(\d+) slab of 64 bytes instead of (\d+); (\d+) pages of 4096 bytes instead of (\d+)$/.exec(difference);
  if (found === null) return false;
  const [records, before, pages, pagesBefore] = found.slice(1).map(Number);
  return Number(pages) - Number(pagesBefore) === 4 * (Number(records) - Number(before));
}

/** More attempts than any run makes. */
const NEVER = 0x7fffffff;
const { CORDON_ALL } = process.env;
/** Part of the failures of a test file: all of them take a minute. Every one is walked by `CORDON_ALL=1`. */
const STRIDE = CORDON_ALL === "1" ? 1 : 7;

test("whichever allocation fails, nothing is leaked by the processes that ran meanwhile (S9)", () => {
  const without = run(NEVER);
  equal(without.hasEnded, true);
  deepEqual(without.violations, []);
  ok(without.attempts > 90, `${without.attempts} allocations`);
  const wrong: string[] = [];
  for (let nth = 1; nth <= without.attempts; nth += STRIDE) {
    const outcome = run(nth);
    const difference = censusDifference(without.census, outcome.census);
    if (!outcome.hasEnded) wrong.push(`allocation ${nth}: the program did not end`);
    if (outcome.failed !== 1) wrong.push(`allocation ${nth}: ${outcome.failed} failed`);
    if (difference !== undefined && !isPendingStacks(difference)) wrong.push(`allocation ${nth}: ${difference}`);
    wrong.push(...outcome.violations.map((text) => `allocation ${nth}: ${text}`));
  }
  deepEqual(wrong, []);
});
