// Rebuilds the programs and compares them with the copies in built/. Needs gcc, make and binutils; no other command of the project does.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

const here = new URL(".", import.meta.url).pathname;
const version = spawnSync("gcc", ["--version"], { encoding: "utf8" });
if (version.error !== undefined) {
  process.stderr.write("programs/verify: gcc not found; it is needed for this command only\n");
  process.exit(2);
}
const compiler = version.stdout.split("\n")[0];
const recorded = readFileSync(`${here}built/COMPILER`, "utf8").trim();
for (const target of ["clean", "verify"]) {
  const { status } = spawnSync("make", ["--silent", "--no-print-directory", "-C", here, target], { stdio: "inherit" });
  if (status === 0) continue;
  const why = compiler === recorded ? "" : ` (built with ${recorded}, here is ${compiler}: another compiler makes other code)`;
  process.stderr.write(`programs/verify: programs/built is not what the sources give${why}\n`);
  process.exit(1);
}
