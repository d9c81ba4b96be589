// Builds everything into dist/: the core (AssemblyScript to WebAssembly, cached by the hash of its sources), then the TypeScript.
// Outputs whose source is gone are removed, so that a test that was deleted does not go on running.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = join(root, "dist");

function step(script, args) {
  const result = spawnSync(process.execPath, [script, ...args], { cwd: root, stdio: "inherit" });
  if (result.status !== 0) {
    console.error(`cordon: build failed in ${relative(root, script)}`);
    process.exit(result.status ?? 1);
  }
}

function prune(folder) {
  if (!existsSync(folder)) return;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      prune(path);
      continue;
    }
    const source = /^(.*)\.(?:js|js\.map|d\.ts)$/.exec(relative(dist, path))?.[1];
    if (source !== undefined && !existsSync(join(root, `${source}.ts`))) rmSync(path);
  }
}

for (const room of ["src", "test", "bench", "guests"]) prune(join(dist, room));
step(join(root, "scripts", "build-core.mjs"), []);
step(join(root, "node_modules", "typescript", "bin", "tsc"), ["-p", root]);
