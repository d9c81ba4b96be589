// A long soak: `node dist/bench/soak.js --seed N --events N [--items N] [--replay FILE] [--out FILE]`. Prints how it goes; the short script of
// a failure goes to FILE. Exit status 1 when something was found.
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { formatScript, parseScript, runEpisode, soak } from "../src/lab/index.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: "1" },
    events: { type: "string", default: "1000000" },
    items: { type: "string", default: "6000" },
    replay: { type: "string" },
    out: { type: "string", default: "soak-failure.jsonl" },
  },
});

if (values.replay !== undefined) {
  const { failure, events, steps } = runEpisode(parseScript(readFileSync(values.replay, "utf8"), values.replay));
  console.log(`${events} events, ${steps} steps`);
  console.log(failure === undefined ? "nothing found" : `${failure.message}\n  in ${failure.callers.join(" < ")}`);
  process.exitCode = failure === undefined ? 0 : 1;
} else {
  const start = performance.now();
  let told = 0;
  const report = soak({
    seed: Number(values.seed),
    events: Number(values.events),
    items: Number(values.items),
    progress: ({ episodes, events }) => {
      if (events < told) return;
      told = events + Number(values.events) / 50;
      const seconds = (performance.now() - start) / 1000;
      console.log(`${events} events in ${episodes} episodes, ${Math.round(events / seconds)} a second`);
    },
  });
  const { events, episodes, steps, failed, counts } = report;
  console.log(`${events} events, ${steps} kernel steps, ${episodes} episodes`);
  for (const [what, count] of [...counts].sort((a, b) => b[1] - a[1])) console.log(`  ${what}: ${count}`);
  if (failed !== undefined) {
    writeFileSync(values.out, formatScript(failed.short));
    console.log(`episode ${failed.episodeSeed}: ${failed.failure.message}\n  in ${failed.failure.callers.join(" < ")}`);
    console.log(`${failed.short.items.length} of ${failed.script.items.length} items are left: ${values.out}`);
    process.exitCode = 1;
  }
}
