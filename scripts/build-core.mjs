// Builds the core: generates layout and executors from the op table, compiles AssemblyScript to dist/core/core-<gear>.wasm.
// A gear whose sources have not changed since the last build is left alone. `node scripts/build-core.mjs [gear...]`.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const ISA = join(ROOT, "src/machine/isa");
const CORE = join(ROOT, "src/machine/core");
const BUILD = join(ROOT, "build");
const OUTPUT = join(ROOT, "dist/core");
/** Below this address lie the compiler's static data; the layout's first region begins here. */
const FIRST_REGION = 0x10000;
const LARGEST_MEMORY_PAGES = 65536;

/**
 * What V8 makes of the big switch depends on its locals: with 1461 (architectural) and 4671 (detailed), as -O2 alone leaves them, its
 * optimizing compiler takes 1.2 and 2.2 s instead of 0.2. So they are coalesced (to 12 and 23). The detailed gear gains a sixth from the
 * inlining of -O2, the architectural one nothing. -O3 does the same in three times the time.
 */
const OPTIMIZATION = {
  architectural: ["-O1"],
  detailed: ["-O2", "--runPasses", "coalesce-locals,vacuum,reorder-locals"],
};

function sourcesUnder(directory) {
  return readdirSync(directory, { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? sourcesUnder(join(directory, entry.name)) : [join(directory, entry.name)]))
    .filter((path) => path.endsWith(".ts") && !path.endsWith(".test.ts"))
    .sort();
}

function hashOf(paths, extra) {
  const hash = createHash("sha256").update(extra);
  for (const path of paths) hash.update(relative(ROOT, path)).update("\0").update(readFileSync(path));
  return hash.digest("hex");
}

function readIfPresent(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

function run(command, args) {
  execFileSync(process.execPath, [join(ROOT, command), ...args], { cwd: ROOT, stdio: ["ignore", "inherit", "inherit"] });
}

/** The generator is TypeScript, and Node 20 runs none: it is translated first, then run. */
function generate() {
  const stamp = join(BUILD, "generated.hash");
  const version = readFileSync(join(ROOT, "node_modules/assemblyscript/package.json"), "utf8");
  const hash = hashOf([...sourcesUnder(ISA), ...sourcesUnder(CORE).filter((path) => !path.endsWith(".gen.ts"))], version);
  if (readIfPresent(stamp) === hash && existsSync(join(CORE, "layout.gen.ts"))) return;
  const name = `generator-${process.pid}`;
  const out = join(BUILD, name);
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, "package.json"), '{ "type": "module" }\n');
  const config = {
    extends: "../tsconfig.json",
    compilerOptions: { rootDir: "../src/machine/isa", outDir: name, declaration: false, sourceMap: false, incremental: false },
    include: [],
    exclude: [],
    files: ["../src/machine/isa/generate.ts"],
  };
  const configFile = join(BUILD, `${name}.json`);
  writeFileSync(configFile, JSON.stringify(config));
  run("node_modules/typescript/bin/tsc", ["-p", configFile]);
  execFileSync(process.execPath, [join(out, "generate.js"), CORE], { stdio: "inherit" });
  rmSync(out, { recursive: true, force: true });
  rmSync(configFile);
  writeFileSync(stamp, hash);
}

/** Node and tsc want imports to end in `.ts`, asc wants them without. A decorator of asc's stands in a comment, for others know none on functions. */
function copyForCompiler(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  writeFileSync(
    to,
    readFileSync(from, "utf8")
      .replace(/(from "\.[^"]*)\.ts"/g, '$1"')
      .replace(/^\/\/ @inline$/gm, "@inline"),
  );
}

function compile(gear) {
  const target = join(OUTPUT, `core-${gear}.wasm`);
  const stamp = join(BUILD, `core-${gear}.hash`);
  const detailed = gear === "detailed";
  const sources = sourcesUnder(CORE).filter((path) => detailed || !path.includes("detailed"));
  const hash = hashOf(sources, gear + OPTIMIZATION[gear].join());
  if (readIfPresent(stamp) === hash && existsSync(target)) return;
  const started = Date.now();
  // Compiled from a copy, in which `port.gen.ts` is the port of this gear.
  const directory = join(BUILD, `asm-${gear}-${process.pid}`);
  for (const path of sources) copyForCompiler(path, join(directory, relative(CORE, path)));
  writeFileSync(join(directory, "port.gen.ts"), `export * from "./port-${gear}";\n`);
  mkdirSync(OUTPUT, { recursive: true });
  const temporary = `${target}.${process.pid}`;
  run("node_modules/assemblyscript/bin/asc.js", [
    join(directory, `${gear}.ts`),
    "-o",
    temporary,
    ...OPTIMIZATION[gear],
    "--runtime",
    "stub",
    "--importMemory",
    "--initialMemory",
    "1",
    "--maximumMemory",
    String(LARGEST_MEMORY_PAGES),
    "--noExportMemory",
    "--memoryBase",
    "1024",
  ]);
  renameSync(temporary, target);
  rmSync(directory, { recursive: true, force: true });
  writeFileSync(stamp, hash);
  console.log(`core-${gear}.wasm: ${readFileSync(target).length} bytes in ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

mkdirSync(BUILD, { recursive: true });
generate();
const wanted = process.argv.slice(2);
const gears = wanted.length > 0 ? wanted : ["architectural", "detailed"].filter((gear) => existsSync(join(CORE, `${gear}.ts`)));
for (const gear of gears) compile(gear);
if (FIRST_REGION <= 1024) throw new Error("the core's regions overlap the compiler's static data");
