import { deepEqual, equal, match, throws } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { UsageError } from "../../hardware/index.ts";
import { parseScenario } from "./scenario-file.ts";
import { scenarioSchema } from "./scenario-schema.ts";

const WHOLE = `cpu: clx
cpus: 2
cmdline: asi=on cordon.noflush=on
preset: cordon-fast
root: files
programs:
  - name: server
    path: /bin/server
    args: ["-v", "8"]
    env: {HOME: /}
    cpu: 1
guests:
  - name: hello
    image: hello.elf
    memory: 32M
`;

function refusal(text: string): string {
  let message = "";
  throws(
    () => parseScenario(text, "s.yaml"),
    (error: unknown) => {
      message = error instanceof UsageError ? error.message : `not a UsageError: ${String(error)}`;
      return error instanceof UsageError;
    },
  );
  return message;
}

test("the schema for editors is the schema that files are checked against", () => {
  deepEqual(JSON.parse(readFileSync("docs/scenario.schema.json", "utf8")), JSON.parse(JSON.stringify(scenarioSchema)));
});

test("a whole scenario, and defaults for what is left out", () => {
  const scenario = parseScenario(WHOLE, "s.yaml");
  equal(scenario.model.key, "clx");
  deepEqual(scenario.programs, [{ name: "server", file: undefined, path: "/bin/server", args: ["-v", "8"], env: { HOME: "/" }, cpu: 1 }]);
  deepEqual(scenario.guests, [{ name: "hello", image: "hello.elf", memoryBytes: 32 * 2 ** 20, append: "", cpu: 0 }]);
  equal(scenario.gear, "architectural");
  equal(scenario.check, false);
});

// Each: what is wrong, the text, and what the one line must say.
const BAD: readonly (readonly [string, string, RegExp])[] = [
  ["no YAML", "cpus: [1\nfoo: 2\n", /^s\.yaml:\d+: /],
  ["a list at the top", "- 1\n", /^s\.yaml:1: a mapping is accepted, with cpu, cpus/],
  ["an empty file", "", /^s\.yaml:1: a mapping is accepted/],
  ["nothing to run", "cpus: 1\n", /^s\.yaml:1: nothing to run/],
  [
    "an unknown key",
    WHOLE.replace("gear", "gears").replace("cpus: 2", "cpus: 2\ngears: 3"),
    /^s\.yaml:3: unknown key "gears"; accepted: cpu, /,
  ],
  [
    "an unknown key in a guest",
    WHOLE.replace("memory: 32M", "ram: 32M"),
    /^s\.yaml:15: guests\[0\]: unknown key "ram"; accepted: name, image, /,
  ],
  ["an unknown model", WHOLE.replace("clx", "z80"), /^s\.yaml:1: cpu: one of skx, clx.* is accepted$/],
  ["too many CPUs", WHOLE.replace("cpus: 2", "cpus: 9"), /^s\.yaml:2: cpus: a whole number of logical CPUs from 1 to 8 is accepted$/],
  ["a CPU that is not there", WHOLE.replace("cpu: 1", "cpu: 2"), /^s\.yaml:11: programs\[0\]\.cpu: CPU 2 is not there; 0 to 1 are/],
  ["a size with a strange unit", WHOLE.replace("32M", "32X"), /^s\.yaml:15: guests\[0\]\.memory: memory of the guest, a size from 2M/],
  ["a size out of range", WHOLE.replace("32M", "1K"), /^s\.yaml:15: guests\[0\]\.memory: 1K: a size from 2M to 1024M is accepted$/],
  ["a name used twice", WHOLE.replace("name: hello", "name: server"), /^s\.yaml:13: guests\[0\]\.name: the name server is taken/],
  ["no name", WHOLE.replace("  - name: hello\n    image", "  - image"), /^s\.yaml:13: guests\[0\]: the key "name" is missing$/],
  [
    "both file and path",
    WHOLE.replace("path: /bin", "file: x\n    path: /bin"),
    /^s\.yaml:7: programs\[0\]: exactly one of "file" and "path"/,
  ],
  ["a path without a root", WHOLE.replace("root: files\n", ""), /^s\.yaml:7: programs\[0\]\.path: "path" needs a "root"/],
  ["a number where a text is wanted", WHOLE.replace('"8"', "8"), /^s\.yaml:9: programs\[0\]\.args\[1\]: a text is accepted$/],
  ["a key twice", `${WHOLE}cpu: skx\n`, /^s\.yaml:16: .*unique/],
];

for (const [what, text, expected] of BAD) {
  test(`refused with its line: ${what}`, () => match(refusal(text), expected));
}

test("aliases that would expand without end are refused", () => {
  const bomb = `a: &a [x, x]\n${"bcdefghi"
    .split("")
    .map((c, i) => `${c}: &${c} [*${"abcdefghi"[i]}, *${"abcdefghi"[i]}]`)
    .join("\n")}\n`;
  match(refusal(bomb), /^s\.yaml:1: .*alias/i);
});
