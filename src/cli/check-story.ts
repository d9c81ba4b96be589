// Counterexamples of `cordon check` for people and for files: the story, and the file that executes it again.
import { type Configuration, type Found, formatReplay, minimise, parseReplay, replay, storyText, tellStory } from "../lab/index.ts";
import { readBytes, writeJson, writeWhole } from "./files.ts";

export interface CounterexampleFiles {
  /** Where the file for --replay goes, and the story as JSON. */
  readonly replay?: string | undefined;
  readonly story?: string | undefined;
}

/** Prints the story of `found` without what it does not need, and writes the files. */
export function printCounterexample(configuration: Configuration, found: Found, files: CounterexampleFiles = {}): void {
  const short = minimise(configuration, found);
  const story = tellStory(configuration, short);
  process.stdout.write(`\n${storyText(story)}`);
  if (files.story !== undefined) writeJson(files.story, story);
  if (files.replay === undefined) return;
  writeWhole(files.replay, formatReplay(configuration, short));
  process.stdout.write(`\nto see it again: cordon check --replay ${files.replay}\nwith real code:  cordon run --replay ${files.replay}\n`);
}

/** `cordon check --replay FILE`. @returns the exit status: 1 the counterexample is one still, 0 it is none any more */
export function replayCheck(file: string): number {
  const { configuration, found } = parseReplay(new TextDecoder().decode(readBytes(file)), file);
  const { end, why, events } = replay(configuration, found);
  if (end === "nothing" || end === "impossible") {
    process.stdout.write(`${file}: not found again: ${why}\nexpected: ${found.finding.message}\n`);
    return 0;
  }
  process.stdout.write(storyText(tellStory(configuration, { ...found, path: found.path.slice(0, events) })));
  process.stdout.write(
    end === "again" ? "\nfound again\n" : `\nanother finding than expected: ${why}\nexpected: ${found.finding.message}\n`,
  );
  return 1;
}
