// What the compiler makes of the mutants of a file, all in one run and without looking at types. Those that are no program, and those of
// which the same program comes out as of the source, are no mutants.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { hashOf } from "./execution.ts";
import { applyMutant, type Mutant } from "./mutant.ts";

/** The JavaScript of the file as it is, and of each of its mutants that counts. */
export interface Emission {
  readonly original: string;
  readonly mutants: ReadonlyMap<Mutant, string>;
  /** Not counted: they do not compile, or nothing changes. */
  readonly invalid: number;
  readonly equal: number;
}

const ORIGINAL = "original";

/** As emit(), but what was made of the same source before is taken from below `cache`: the compiler takes a second for a file. */
export function emitCached(root: string, cache: string, source: string, mutants: readonly Mutant[]): Emission {
  const changes = mutants.map(({ start, end, replacement }) => [start, end, replacement]);
  const path = join(cache, `${hashOf(JSON.stringify([source, changes]))}.json`);
  if (existsSync(path)) {
    const kept = JSON.parse(readFileSync(path, "utf8")) as Kept; // written below
    const valid = kept.texts.flatMap(([index, text]) => {
      const mutant = mutants[index];
      return mutant === undefined ? [] : [[mutant, text] as const];
    });
    return { ...kept, mutants: new Map(valid) };
  }
  const emission = emit(root, join(cache, `compiler-${process.pid}`), source, mutants);
  const texts = [...emission.mutants].map(([mutant, text]) => [mutants.indexOf(mutant), text] as const);
  const kept: Kept = { original: emission.original, invalid: emission.invalid, equal: emission.equal, texts };
  writeFileSync(path, JSON.stringify(kept));
  return emission;
}

interface Kept {
  readonly original: string;
  readonly invalid: number;
  readonly equal: number;
  readonly texts: readonly (readonly [number, string])[];
}

/** `folder`: of the compiler's for a while; it is emptied. */
export function emit(root: string, folder: string, source: string, mutants: readonly Mutant[]): Emission {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, "in"), { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }\n');
  const compilerOptions = {
    rootDir: "in",
    outDir: "out",
    declaration: false,
    sourceMap: false,
    incremental: false,
    noCheck: true,
    noResolve: true,
  };
  const config = {
    extends: relative(folder, join(root, "tsconfig.json")),
    compilerOptions: { ...compilerOptions, noLib: true, types: [], tsBuildInfoFile: null },
    include: ["in/*.ts"],
    exclude: [],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  writeFileSync(join(folder, "in", `${ORIGINAL}.ts`), source);
  mutants.forEach((mutant, index) => {
    writeFileSync(join(folder, "in", `m${index}.ts`), applyMutant(source, mutant));
  });
  const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
  const { stdout } = spawnSync(process.execPath, [compiler, "-p", join(folder, "tsconfig.json"), "--pretty", "false"], {
    encoding: "utf8",
  });
  const broken = new Set([...stdout.matchAll(/in\/(m\d+|original)\.ts\(/g)].map((match) => match[1]));
  if (broken.has(ORIGINAL)) throw new Error(`the source itself does not compile:\n${stdout}`);
  const emitted = (name: string): string => readFileSync(join(folder, "out", `${name}.js`), "utf8");
  const original = emitted(ORIGINAL);
  const results = new Map<Mutant, string>();
  let equal = 0;
  mutants.forEach((mutant, index) => {
    if (broken.has(`m${index}`)) return;
    const text = emitted(`m${index}`);
    if (bare(text) === bare(original)) equal++;
    else results.set(mutant, text);
  });
  rmSync(folder, { recursive: true, force: true });
  return { original, mutants: results, invalid: broken.size, equal };
}

/** Without what a program does not see: comments that stand on lines of their own, blanks. */
function bare(text: string): string {
  return text
    .replace(/^\s*\/\/.*$/gm, "")
    .replace(/;+/g, ";")
    .replace(/\s+/g, " ");
}
