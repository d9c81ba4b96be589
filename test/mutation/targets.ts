// What is mutated: every statement of address space isolation and of the entries, and where the published change of KVM is implemented.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { Mutant } from "./mutant.ts";
import { SEED_HUNKS } from "./seed-hunks.ts";

/** `seed`: a statement of the published change; the others by folder. */
export const GROUPS = ["seed", "asi", "entry", "kvm"] as const;
export type Group = (typeof GROUPS)[number];

/** Share of the mutants that are no equivalents which must be refuted, in per cent. Of `kvm` only what is of the published change is owed. */
export const AIMS: Readonly<Record<Group, number>> = { seed: 100, asi: 97, entry: 97, kvm: 0 };

const FOLDERS: Readonly<Record<Exclude<Group, "seed">, readonly string[]>> = {
  asi: ["src/kernel/asi"],
  entry: ["src/kernel/entry"],
  kvm: ["src/kernel/kvm", "src/kernel/kvm/vmx"],
};

/** Files that are not mutated, and why. */
export const LEFT_OUT: Readonly<Record<string, string>> = {
  "src/kernel/asi/kunit.ts": "the published test suite itself, as kernel code",
  "src/kernel/asi/kunit-branches.ts": "the published test suite itself, as kernel code",
  "src/kernel/asi/kunit-memory.ts": "the published test suite itself, as kernel code",
  "src/kernel/asi/kunit-mermap.ts": "the published test suite itself, as kernel code",
};

/** Source files in which there are mutants of these groups, in the order in which they are run. */
export function targetFiles(root: string, groups: readonly Group[]): readonly string[] {
  const files = new Set<string>();
  for (const group of groups) {
    const ofGroup =
      group === "seed"
        ? SEED_HUNKS.map((hunk) => hunk.file)
        : FOLDERS[group].flatMap((folder) =>
            readdirSync(join(root, folder))
              .filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts") && !name.startsWith("testing-"))
              .sort()
              .map((name) => `${folder}/${name}`),
          );
    for (const file of ofGroup) if (!(file in LEFT_OUT)) files.add(file);
  }
  return [...files];
}

export function groupOf(mutant: Mutant): Group {
  const isOfSeed = SEED_HUNKS.some(
    (hunk) => hunk.file === mutant.file && hunk.where === mutant.where && isNamed(hunk.statements, mutant.text),
  );
  if (isOfSeed) return "seed";
  const folder = mutant.file.split("/")[2];
  if (folder === "asi" || folder === "entry") return folder;
  return "kvm";
}

function isNamed(statements: "all" | readonly string[], text: string): boolean {
  return statements === "all" || statements.some((part) => text.includes(part));
}
