// Makes a checkout ready: installs the packages of the lock file when they are missing or older than it, then builds.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function run(command, args) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: ["ignore", process.stderr, process.stderr],
    shell: process.platform === "win32",
  });
  if (result.error !== undefined) {
    console.error(`cordon: cannot run ${command}: ${result.error.message}`);
    process.exit(1);
  }
  if (result.status !== 0) process.exit(result.status ?? 1);
}

// The copy of the lock file that the last install followed tells whether it is still the one.
const lock = join(root, "package-lock.json");
const installed = join(root, "node_modules", ".cordon-installed-lock.json");
const isInstalled = existsSync(installed) && readFileSync(installed).equals(readFileSync(lock));
if (!isInstalled) {
  run("npm", ["ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error"]);
  copyFileSync(lock, installed);
}
run(process.execPath, [join(root, "scripts", "build.mjs")]);
