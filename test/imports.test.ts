// The arrows of ARCHITECTURE.md as data: which room may import which. Every import and `import type` of every source file is read.
// A room is entered through its index.ts; an exception is a line here with its reason.
import { deepEqual } from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const sources = join(root, "src");

const ARROWS: Readonly<Record<string, readonly string[]>> = {
  hardware: [],
  abi: [],
  assembler: [],
  platform: ["hardware"],
  machine: ["hardware", "platform"],
  residue: ["hardware", "platform"],
  meter: ["hardware"],
  kernel: ["hardware", "assembler", "abi"],
  vmm: ["abi", "hardware"],
  lab: ["vmm", "kernel", "machine", "residue", "meter", "hardware", "abi", "assembler"],
  cli: ["lab", "hardware"],
  web: ["lab", "hardware"],
  // The library: src/index.ts re-exports what users may build on.
  "index.ts": ["lab", "vmm", "kernel", "machine", "residue", "hardware", "abi", "assembler"],
};

/** Imports that break a rule on purpose, "importer -> imported", each with its reason. */
const EXCEPTIONS: Readonly<Record<string, string>> = {};

interface Import {
  readonly from: string;
  readonly to: string;
}

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? files(join(folder, entry.name)) : entry.name.endsWith(".ts") ? [join(folder, entry.name)] : [],
  );
}

function slashed(path: string): string {
  return path.split(sep).join("/");
}

function importsOf(file: string): Import[] {
  const text = readFileSync(file, "utf8");
  const found = text.matchAll(/^\s*(?:import|export)\b[^;"']*?from\s*["'](\.[^"']+)["']|\bimport\(\s*["'](\.[^"']+)["']\s*\)/gm);
  return [...found].map((match) => ({
    from: slashed(relative(sources, file)),
    to: slashed(relative(sources, join(dirname(file), match[1] ?? match[2] ?? ""))),
  }));
}

/** Tests, and what only tests import (testing-*.ts), may reach into any room: they are not part of the product. */
const all = files(sources)
  .filter((file) => !file.endsWith(".test.ts") && !/testing-[a-z]+\.ts$/.test(file))
  .flatMap(importsOf);
const roomOf = (path: string): string => path.split("/")[0] ?? path;
const isExcepted = (one: Import): boolean => `${one.from} -> ${one.to}` in EXCEPTIONS;

test("rooms import only along the arrows of the architecture", () => {
  const wrong = all.filter((one) => {
    const [from, to] = [roomOf(one.from), roomOf(one.to)];
    return from !== to && !(ARROWS[from] ?? []).includes(to) && !isExcepted(one);
  });
  deepEqual(
    wrong.map((one) => `${one.from} imports ${one.to}`),
    [],
  );
});

test("another room is imported through its index.ts only", () => {
  const wrong = all.filter((one) => roomOf(one.from) !== roomOf(one.to) && !/^[^/]+\/index\.ts$/.test(one.to) && !isExcepted(one));
  deepEqual(
    wrong.map((one) => `${one.from} imports ${one.to}`),
    [],
  );
});

test("rooms form no cycle, and every room has its arrows declared", () => {
  const rooms = [...new Set(all.flatMap((one) => [roomOf(one.from), roomOf(one.to)]))].sort();
  deepEqual(
    rooms.filter((room) => !(room in ARROWS)),
    [],
  );
  const edges = new Map(rooms.map((room) => [room, new Set(all.filter((one) => roomOf(one.from) === room).map((one) => roomOf(one.to)))]));
  const cycles: string[] = [];
  const visit = (room: string, trail: readonly string[]): void => {
    if (trail.includes(room)) {
      cycles.push([...trail, room].join(" -> "));
      return;
    }
    for (const next of edges.get(room) ?? []) if (next !== room) visit(next, [...trail, room]);
  };
  for (const room of rooms) visit(room, []);
  deepEqual(cycles, []);
});

test("the kernel keeps to its laws: no try, no module variable that changes", () => {
  const kernel = files(join(sources, "kernel")).filter((file) => !file.endsWith(".test.ts"));
  const wrong = kernel.flatMap((file) => {
    const lines = readFileSync(file, "utf8").split("\n");
    return lines.flatMap((line, index) =>
      /^\s*try\s*\{/.test(line) || /^(?:export\s+)?let\s/.test(line)
        ? [`${slashed(relative(root, file))}: ${line.trim()} (line ${index + 1})`]
        : [],
    );
  });
  // static-data.ts lays out the data section while modules are evaluated, as a linker does; nothing changes it afterwards. The other is a
  // cache that may be dropped at any time: arithmetic on the number of frames.
  const allowed = ["src/kernel/static-data.ts", "src/kernel/mm/buddy.ts: let cachedLayout"];
  deepEqual(
    wrong.filter((line) => !allowed.some((start) => line.startsWith(start))),
    [],
  );
});
