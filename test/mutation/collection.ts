// All mutants of a selection with what the compiler makes of each, in the order in which they are run.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { emitCached } from "./emission.ts";
import { EmittedOffsets, hashOf } from "./execution.ts";
import { type Mutant, mutantsOf } from "./mutant.ts";
import { type Group, groupOf, targetFiles } from "./targets.ts";
import { sourceOf, withTrees } from "./trees.ts";

export interface Candidate {
  readonly mutant: Mutant;
  readonly group: Group;
  /** Of the source. */
  readonly hash: string;
  /** The file below dist/ that is replaced, its text as it is and as it is with the change. */
  readonly output: string;
  readonly original: string;
  readonly text: string;
  /** Offset in the output, as the tests execute it, of what must be executed; undefined: not known. */
  readonly offset: number | undefined;
}

export interface Collection {
  readonly candidates: readonly Candidate[];
  /** Not counted: no program, or the same program. */
  readonly invalid: number;
  readonly equal: number;
}

/** `cache`: a folder for what the compiler makes. */
export function collect(root: string, cache: string, groups: readonly Group[], isWanted: (file: string) => boolean): Collection {
  const files = targetFiles(root, groups).filter(isWanted);
  const all = withTrees(root, files, (file, tree) => {
    const mutants = mutantsOf(file, tree).filter((mutant) => groups.includes(groupOf(mutant)));
    return { file, mutants, places: mutants.map(({ at }) => tree.getLineAndCharacterOfPosition(at)) };
  });
  const candidates: Candidate[] = [];
  let [invalid, equal] = [0, 0];
  for (const { file, mutants, places } of all) {
    if (mutants.length === 0) continue;
    const source = sourceOf(root, file);
    const emission = emitCached(root, cache, source, mutants);
    invalid += emission.invalid;
    equal += emission.equal;
    const output = file.replace(/\.ts$/, ".js");
    const offsets = offsetsOf(join(root, "dist", output));
    const hash = hashOf(source);
    mutants.forEach((mutant, index) => {
      const text = emission.mutants.get(mutant);
      const place = places[index];
      if (text === undefined || place === undefined) return;
      const offset = offsets?.offsetOf(place.line, place.character);
      candidates.push({ mutant, group: groupOf(mutant), hash, output, original: emission.original, text, offset });
    });
  }
  // The published change first.
  const inOrder = [...candidates.filter((one) => one.group === "seed"), ...candidates.filter((one) => one.group !== "seed")];
  return { candidates: inOrder, invalid, equal };
}

function offsetsOf(emitted: string): EmittedOffsets | undefined {
  const map = `${emitted}.map`;
  return existsSync(map) ? new EmittedOffsets(readFileSync(map, "utf8"), readFileSync(emitted, "utf8")) : undefined;
}
