import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../random.ts";
import { type EpisodeConfig, episodeSeed, formatScript, generate, parseScript, runEpisode, shrink, soak } from "./index.ts";

/** As much as a quarter of a minute allows; `cordon soak` goes on for as long as one likes. */
const EVENTS = 24_000;
const ITEMS = 2500;

const POSTED: EpisodeConfig = {
  preset: "rfc-v2",
  model: "skx",
  commandLine: "asi=on asi_userspace=off kvm-intel.vmentry_l1d_flush=never",
  cpus: 1,
  memoryMegabytes: 48,
  processes: 2,
};

test("a soak from a fixed seed: S1 to S10 hold at every step, and nothing is leaked", () => {
  const report = soak({ seed: 1, events: EVENTS, items: ITEMS });
  const { failed } = report;
  assert.equal(failed === undefined ? "" : `${failed.failure.message}\n${formatScript(failed.short)}`, "");
  assert.ok(report.events >= EVENTS);
  for (const happened of [
    "mmap",
    "touch",
    "run guest",
    "bad pointer",
    "inject nmi sensitive",
    "inject irq",
    "inject suspend",
    "inject timer",
  ]) {
    assert.ok((report.counts.get(happened) ?? 0) > 50, happened);
  }
});

test("the same seed gives the same script and the same run, and a script that was written down gives it too", () => {
  const script = generate(new Random(episodeSeed(7, 0)), 400);
  const text = formatScript(script);
  assert.equal(formatScript(generate(new Random(episodeSeed(7, 0)), 400)), text);
  const first = runEpisode(script);
  const again = runEpisode(parseScript(text, "script"));
  assert.deepEqual(again, first);
});

test("what the posted series leaves open is found, and shrunk to a few lines that still show it", () => {
  // User code without a domain leaves no taints there (spec 2.5): the switch to another mm derives none.
  const report = soak({ seed: 3, events: 2000, items: 300, config: POSTED, shrinkRuns: 120 });
  const failed = report.failed ?? assert.fail("nothing was found");
  assert.match(failed.failure.message, /^S(1|10) /);
  assert.ok(failed.short.items.length <= 4, formatScript(failed.short));
  assert.equal(runEpisode(failed.short).failure?.signature, failed.failure.signature);
  assert.deepEqual(shrink(failed.short, failed.failure.signature, { runs: 40 }), failed.short);
});

test("a script that is not one is refused with file and line", () => {
  const config = JSON.stringify(POSTED);
  assert.throws(() => parseScript("", "f"), /f: empty/);
  assert.throws(() => parseScript("{", "f"), /f:1: not a line of JSON/);
  assert.throws(() => parseScript('{"preset":"none"}', "f"), /f:1: preset is one of cordon, rfc-v2, cordon-fast/);
  assert.throws(() => parseScript(`${config}\n{"slot":-1}`, "f"), /f:2: an item has a slot and an action/);
  assert.throws(
    () => parseScript(`${config}\n\n{"slot":0,"action":"yield","args":[],"inject":[{"kind":"x","at":1}]}`, "f"),
    /f:3: an injection/,
  );
});
