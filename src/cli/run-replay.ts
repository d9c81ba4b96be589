// `cordon run --replay`: a counterexample of `cordon check` on the simulated multiprocessor, with real code.
import { parseReplay, replayReal } from "../lab/index.ts";
import { readBytes } from "./files.ts";

/** Lines and entries that are printed. */
const SHOWN = 16;

/** @returns the exit status: 1 reproduced, 0 not */
export function runReplay(file: string): number {
  const replay = parseReplay(new TextDecoder().decode(readBytes(file)), file);
  const { isReproduced, why, leaked, others, injected } = replayReal(replay);
  const planned = replay.events.reduce((sum, { injections }) => sum + injections.length, 0);
  const lines = [
    isReproduced ? `reproduced: ${why}` : `not reproduced: ${why}`,
    ...(planned > 0 ? [`injections made there: ${injected} of ${planned}`] : []),
    ...(leaked.length > 0 ? ["what is there at that moment:"] : []),
    ...leaked.slice(0, SHOWN).map((line) => `  ${line}`),
    ...(leaked.length > SHOWN ? [`  and ${leaked.length - SHOWN} more`] : []),
    ...others.slice(0, SHOWN).map((line) => `found on the way: ${line}`),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  return isReproduced ? 1 : 0;
}
