// The package as a stranger gets it: `npm pack`, unpacked elsewhere beside its dependencies, gives the command and the library.
import { equal, match, ok } from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const elsewhere = mkdtempSync(join(tmpdir(), "cordon-package-"));
after(() => rmSync(elsewhere, { recursive: true }));

function run(command: string, args: readonly string[], cwd: string): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(command, [...args], { cwd, encoding: "utf8" });
}

test("npm pack gives a package that provides the command and the typed library", { timeout: 120_000 }, () => {
  const packed = run("npm", ["pack", "--ignore-scripts", "--silent", "--pack-destination", elsewhere], root);
  equal(packed.status, 0, packed.stderr);
  const file = packed.stdout.trim().split("\n").at(-1) ?? "";
  equal(run("tar", ["xzf", file], elsewhere).status, 0);
  mkdirSync(join(elsewhere, "node_modules"));
  symlinkSync(join(elsewhere, "package"), join(elsewhere, "node_modules", "cordon"));
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { dependencies: Record<string, string> };
  for (const name of Object.keys(dependencies)) symlinkSync(join(root, "node_modules", name), join(elsewhere, "node_modules", name));

  ok(!existsSync(join(elsewhere, "package", "dist", "test")), "tests are not shipped");
  const hello = run(process.execPath, ["node_modules/cordon/bin/cordon", "run", "node_modules/cordon/guests/built/hello.elf"], elsewhere);
  equal(hello.status, 0, hello.stderr);
  match(hello.stdout, /^hello/i);

  writeFileSync(
    join(elsewhere, "use.mjs"),
    'import { CPU_MODELS } from "cordon";\nconsole.log(CPU_MODELS.map((model) => model.key).join(" "));\n',
  );
  const used = run(process.execPath, ["use.mjs"], elsewhere);
  equal(used.status, 0, used.stderr);
  match(used.stdout, /skx clx/);

  writeFileSync(
    join(elsewhere, "use.ts"),
    'import { findCpuModel, type CpuModel } from "cordon";\nexport const model: CpuModel | undefined = findCpuModel("skx");\nexport const wrong: string = findCpuModel("skx");\n',
  );
  const typed = run(
    process.execPath,
    [
      join(root, "node_modules", "typescript", "bin", "tsc"),
      "--noEmit",
      "--strict",
      "--skipLibCheck",
      "--module",
      "nodenext",
      "--target",
      "es2022",
      "use.ts",
    ],
    elsewhere,
  );
  match(typed.stdout, /use\.ts\(3,14\): error TS2322/, "the one wrong line, and nothing else");
  equal(
    typed.stdout
      .trim()
      .split("\n")
      .filter((line) => / error /.test(line)).length,
    1,
    typed.stdout,
  );
});
