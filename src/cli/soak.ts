// `cordon soak`: random scripts of processes, guests, interrupts, NMIs and failing allocations on the abstract machine, with S1 to S10 judged
// throughout; what fails is shrunk to a short script. Standard output depends on the seed alone; how fast it goes is on standard error.
import { formatScript, parseScript, runEpisode, type SoakReport, soak as soakKernel } from "../lab/index.ts";
import { readArguments, wholeNumber } from "./arguments.ts";
import { checkWritable, readBytes, writeWhole } from "./files.ts";
import { table } from "./table.ts";

const DEFAULT_EVENTS = 200_000;

const HELP = `cordon soak [OPTIONS]

Runs random episodes until so many kernel events (system calls, page faults, interrupts, NMIs, VM exits) have been handled, with the safety
properties judged throughout and every frame accounted for at the end of each.

  --seed N           what is random comes from it (default 1)
  --events N         kernel events (default ${DEFAULT_EVENTS.toLocaleString("en-US")})
  --items N          actions of one episode (default 6000)
  --out FILE         where the short script of a failure goes (default soak-failure.jsonl)
  --replay FILE      runs such a script instead

Exit status: 0 nothing found; 1 a property was violated or a frame leaked; 2 bad input.
`;

const OPTIONS = { seed: "string", events: "string", items: "string", out: "string", replay: "string", help: "boolean" } as const;

/** @returns the exit status. */
export async function soak(args: readonly string[]): Promise<number> {
  const parsed = readArguments("soak", args, OPTIONS, { min: 0, max: 0, what: "no file but those behind its options" });
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const replayed = parsed.text("replay");
  if (replayed !== undefined) return replay(replayed);
  const seed = wholeNumber("seed", parsed.text("seed"), 1, 0, 0xffffffff);
  const events = wholeNumber("events", parsed.text("events"), DEFAULT_EVENTS, 1, Number.MAX_SAFE_INTEGER);
  const items = wholeNumber("items", parsed.text("items"), 6000, 1, 1_000_000);
  const out = parsed.text("out") ?? "soak-failure.jsonl";
  checkWritable(out);
  const report = soakKernel({ seed, events, items, progress: progressLine(events) });
  process.stdout.write(summary(report));
  if (report.failed === undefined) return 0;
  writeWhole(out, formatScript(report.failed.short));
  return 1;
}

function replay(file: string): number {
  const { failure, events, steps } = runEpisode(parseScript(new TextDecoder().decode(readBytes(file)), file));
  process.stdout.write(`${events} events, ${steps} kernel steps\n`);
  process.stdout.write(failure === undefined ? "nothing found\n" : `${failure.message}\n  in ${failure.callers.join(" < ")}\n`);
  return failure === undefined ? 0 : 1;
}

/** Says now and then how far it is. */
function progressLine(events: number): (done: { readonly episodes: number; readonly events: number }) => void {
  const started = performance.now();
  let next = events / 20;
  return (done) => {
    if (done.events < next) return;
    next = done.events + events / 20;
    const rate = Math.round(done.events / ((performance.now() - started) / 1000));
    process.stderr.write(`cordon: ${done.events} events in ${done.episodes} episodes, ${rate} a second\n`);
  };
}

function summary(report: SoakReport): string {
  const { episodes, events, steps, counts, failed } = report;
  const rows = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  const found =
    failed === undefined
      ? "nothing found: no violation of S1 to S10, no frame leaked\n"
      : `episode ${failed.episodeSeed}: ${failed.failure.message}\n  in ${failed.failure.callers.join(" < ")}\n  ${failed.short.items.length} of ${failed.script.items.length} actions are left in the short script\n`;
  return `${events} events, ${steps} kernel steps, ${episodes} episodes\n\n${table(["what", "count"], rows)}\n\n${found}`;
}
