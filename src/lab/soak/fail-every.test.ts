// Every allocation of every action fails once (S9). A table: an action, and what its process did before.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type FailingScenario, failEveryAllocation } from "./fail-every.ts";
import type { EpisodeConfig } from "./script.ts";

const CONFIG: EpisodeConfig = { preset: "cordon", model: "skx", commandLine: "asi=on", cpus: 1, memoryMegabytes: 48, processes: 1 };
type Step = readonly [action: string, ...args: number[]];
const MAPPED: readonly Step[] = [
  ["mmap", 9, 3, 1],
  ["touch", 0, 1, 1],
  ["touch", 0, 8, 0],
];

/** Name, allocations at least, the action, and what comes before it. */
const SCENARIOS: readonly (readonly [name: string, least: number, action: Step, before: readonly Step[]])[] = [
  ["mmap()", 1, ["mmap", 2, 3, 1], []],
  ["mmap() of shared memory", 1, ["mmap", 2, 3, 0], []],
  ["a page fault by a write", 2, ["touch", 0, 1, 1], [["mmap", 2, 3, 1]]],
  ["a page fault by a read", 1, ["touch", 0, 1, 0], [["mmap", 2, 3, 1]]],
  ["a page fault of shared memory", 2, ["touch", 0, 1, 1], [["mmap", 2, 3, 0]]],
  ["munmap() in the middle of an area", 1, ["munmap", 0, 3, 1], MAPPED],
  ["mprotect() in the middle of an area", 1, ["mprotect", 0, 3, 1], MAPPED],
  ["fork()", 20, ["fork", 2], MAPPED],
  ["pipe()", 4, ["pipe"], []],
  ["open() that makes a file", 4, ["open", 0, 1], []],
  ["a write to a file", 2, ["copy to kernel", 0, 0, 15], [...MAPPED, ["open", 0, 1]]],
  ["a write to a pipe", 1, ["copy to kernel", 0, 1, 3], [...MAPPED, ["pipe"]]],
  ["modify_ldt()", 2, ["ldt", 1], []],
  ["making a VM with a vCPU", 10, ["make vm"], []],
  ["an EPT violation", 2, ["run guest", 3], [["make vm"]]],
  ["the first run of a guest", 0, ["run guest", 1], [["make vm"]]],
];

for (const [name, least, action, before] of SCENARIOS) {
  test(`every allocation of ${name} fails once: undone, nothing leaked, the next try succeeds`, () => {
    const scenario: FailingScenario = { name, config: CONFIG, before, action, after: [["yield"]] };
    const report = failEveryAllocation(scenario);
    assert.deepEqual(report.wrong, []);
    assert.ok(report.attempts >= least, `${report.attempts} allocations`);
  });
}
