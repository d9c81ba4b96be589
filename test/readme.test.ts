// Every command that the README shows is run here: a line that begins with "$ " in a code block. Commands that install, or that run
// everything (npm), are checked to name scripts that exist; each `cordon` command must end with the status that the README promises
// (0, or the number behind "# exit status").
import { equal, ok } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const readme = readFileSync(join(root, "README.md"), "utf8");
const scripts = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).scripts as Record<string, string>;
const scratch = mkdtempSync(join(tmpdir(), "cordon-readme-"));
after(() => rmSync(scratch, { recursive: true }));

const commands = [...readme.matchAll(/^\$ (.+)$/gm)].map((match) => match[1] ?? "");

test("the README shows commands", () => {
  ok(commands.length >= 5, `${commands.length} commands`);
});

for (const line of commands) {
  const [command = "", comment = ""] = line.split(/\s+#\s*/);
  const words = [...command.matchAll(/"([^"]*)"|(\S+)/g)].map((match) => match[1] ?? match[2] ?? "");
  if (words[0] === "npm") {
    test(`README: ${command} names a script that exists`, () => {
      const script = words[1] === "run" ? words[2] : words[1];
      ok(script !== undefined && script in scripts, script);
    });
    continue;
  }
  test(`README: ${command}`, { timeout: 300_000 }, () => {
    equal(words[0], "bin/cordon");
    const expected = /exit status (\d+)/.exec(comment)?.[1] ?? "0";
    // Results go to a scratch folder; guests and other inputs are found from the checkout.
    const args = words.slice(1).map((word) => (/\.json$/.test(word) ? join(scratch, word) : word));
    const result = spawnSync(process.execPath, [join(root, "bin", "cordon"), ...args], { cwd: root, encoding: "utf8" });
    equal(result.status, Number(expected), result.stderr);
  });
}
