// Each option saves what it is there to save, and changes nothing where it does not apply.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fail, findCpuModel } from "../hardware/index.ts";
import { measureOptions, OPERATIONS, type OptionCounts, optionsTable } from "./options-table.ts";

const rows = measureOptions(findCpuModel("skx") ?? fail("no CPU model skx"));

function counts(workload: string, option: string): OptionCounts {
  return rows.find((row) => row.workload === workload && row.option === option)?.counts ?? fail(`${workload}, ${option}`);
}

const NOTHING: OptionCounts = { transitions: 0, controlFlushes: 0, returnStackFills: 0, dataFlushes: 0, tlbFlushes: 0 };

test("hypercalls and getppid() are served restricted: no option has anything to save", () => {
  for (const { workload, counts: found } of rows) {
    if (workload === "guest, hypercalls" || workload === "getppid") assert.deepEqual(found, NOTHING);
  }
});

test("an exit to the monitor costs three transitions; each option takes its part away", () => {
  const base = counts("guest, console", "");
  // KVM_RUN's end leaves, the way to user mode enters, the next KVM_RUN enters: once per exit, less what the edges of the window cut off.
  assert.ok(base.transitions > 2.9 * OPERATIONS && base.transitions <= 3 * OPERATIONS);
  assert.ok(counts("guest, console", "cordon.exit_after_run=off").transitions < 2.1 * OPERATIONS);
  assert.ok(counts("guest, console", "cordon.protect_user_data=off").dataFlushes < base.dataFlushes - 0.9 * OPERATIONS);
  assert.equal(counts("guest, console", "cordon.rsb_taint=on").returnStackFills, 0);
  assert.ok(counts("guest, console", "cordon.flush_taints=on").dataFlushes < base.dataFlushes - 0.9 * OPERATIONS);
  assert.equal(counts("guest, console", "cordon.noflush=on").tlbFlushes, 0);
  const fast = counts("guest, console", "cordon-fast");
  assert.deepEqual([fast.returnStackFills, fast.dataFlushes, fast.tlbFlushes], [0, 0, 0]);
  assert.ok(fast.controlFlushes > 0.9 * OPERATIONS, "what a guest trained must not steer its monitor, whatever is saved");
});

test("a process that sleeps and comes back stays where it was with switch_restricted, another process's turn never does", () => {
  assert.ok(counts("short sleeps", "").transitions > 1.9 * OPERATIONS);
  assert.deepEqual(counts("short sleeps", "cordon.switch_restricted=on"), NOTHING);
  assert.deepEqual(counts("two processes in turn", "cordon.switch_restricted=on"), counts("two processes in turn", ""));
});

test("the table has a line for each workload's preset and for what an option changes", () => {
  const lines = optionsTable(rows).trimEnd().split("\n");
  assert.equal(lines.filter((line) => line.includes("| preset cordon |")).length, 5);
  assert.equal(lines.filter((line) => line.includes("rsb_taint")).length, 1);
});
