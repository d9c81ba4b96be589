import { deepEqual, equal, match, throws } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { UsageError } from "../../hardware/index.ts";
import { CONFIGURATIONS, checkSchema, kernelCommandLine, namedConfiguration, OPERATIONS, parseConfiguration, withFlags } from "./index.ts";

const WHOLE = `base: small-kvm
name: mine
cpu: clx
without: [PCID, INVPCID]
preset: rfc-v2
cmdline: asi=on
options: {noflush: true, ephmap: false}
cpus: 2
vms: 2
vcpus: 2
operations:
  - getppid
  - KVM_RUN HLT
injections: [nmi, failure]
injections-per-event: 2
failures: 1
depth: 7
search-memory: 64
workers: 3
properties: [S1, S4]
`;

function refusal(act: () => unknown): string {
  let message = "";
  throws(act, (error: unknown) => {
    message = error instanceof UsageError ? error.message : `not a UsageError: ${String(error)}`;
    return error instanceof UsageError;
  });
  return message;
}

test("the schema for editors is the schema that files are checked against", () => {
  deepEqual(JSON.parse(readFileSync("docs/check.schema.json", "utf8")), JSON.parse(JSON.stringify(checkSchema)));
});

test("a file says what differs from a named configuration", () => {
  const found = parseConfiguration(WHOLE, "c.yaml");
  equal(found.name, "mine");
  equal(found.model.key, "clx");
  equal(found.model.features.includes("PCID"), false);
  equal(kernelCommandLine(found), "asi=on cordon.noflush=on cordon.ephmap=off");
  deepEqual([found.cpus, found.vms, found.vcpus, found.injectionsPerEvent, found.failures, found.depth], [2, 2, 2, 2, 1, 7]);
  deepEqual(found.operations, ["getppid", "KVM_RUN HLT"]);
  deepEqual([found.searchMegabytes, found.workers, found.properties], [64, 3, ["S1", "S4"]]);
  equal(found.processes, namedConfiguration("small-kvm").processes);
});

test("every named configuration has its own name, and is one that flags would accept", () => {
  for (const [name, configuration] of CONFIGURATIONS) {
    equal(configuration.name, name);
    deepEqual(
      withFlags(configuration, () => undefined),
      configuration,
    );
  }
});

// Each: what is wrong, the text, and what the one line must say.
const BAD: readonly (readonly [string, string, RegExp])[] = [
  ["no YAML", "cpus: [1\nfoo: 2\n", /^c\.yaml:\d+: /],
  ["a list at the top", "- 1\n", /^c\.yaml:1: a mapping is accepted, with base, name, cpu/],
  ["an unknown key", `${WHOLE}speed: 3\n`, /^c\.yaml:21: unknown key "speed"; accepted: base, name, /],
  ["an unknown base", WHOLE.replace("small-kvm", "tiny"), /^c\.yaml:1: base: one of standard, small-userspace, /],
  [
    "an unknown operation",
    WHOLE.replace("getppid", "getpid"),
    /^c\.yaml:12: operations\[0\]: one of getppid, getppid by INT80, .* is accepted$/,
  ],
  ["an unknown injection", WHOLE.replace("[nmi,", "[smi,"), /^c\.yaml:14: injections\[0\]: one of nmi, nmi sensitive, /],
  ["an unknown option", WHOLE.replace("noflush", "no_flush"), /^c\.yaml:7: options: unknown key "no_flush"; accepted: exit_after_run, /],
  [
    "an impossible number of CPUs",
    WHOLE.replace("cpus: 2", "cpus: 5"),
    /^c\.yaml:8: cpus: logical CPUs, a whole number from 1 to 4 is accepted$/,
  ],
  [
    "an impossible depth",
    WHOLE.replace("depth: 7", "depth: -1"),
    /^c\.yaml:17: depth: events in one run \(0: no bound\), a whole number from 0 to 1000/,
  ],
  ["a feature that is needed", WHOLE.replace("PCID,", "NX,"), /^c\.yaml:4: without\[0\]: one of PCID, /],
  ["guests without VMs", WHOLE.replace("vms: 2", "vms: 0"), /^c\.yaml:12: operations: "KVM_RUN HLT" needs at least one of "vms"$/],
  ["guests without VMX", WHOLE.replace("PCID,", "VMX,"), /^c\.yaml:12: operations: "KVM_RUN HLT" needs VMX, which the CPU lacks$/],
  [
    "failures that are no injection",
    WHOLE.replace(", failure", ""),
    /^c\.yaml:16: failures: a number above 0 is accepted exactly when "failure"/,
  ],
  ["no operation", "operations: []\n", /^c\.yaml:1: operations: a list of operations is accepted$/],
];

for (const [what, text, expected] of BAD) {
  test(`refused with its line: ${what}`, () =>
    match(
      refusal(() => parseConfiguration(text, "c.yaml")),
      expected,
    ));
}

test("flags change a configuration, or are refused with what is accepted", () => {
  const flags = (given: Readonly<Record<string, string>>) => withFlags(namedConfiguration("standard"), (name) => given[name]);
  const found = flags({ cpus: "1", operations: "getppid, sched_yield", options: "noflush=on", preset: "rfc-v2", depth: "3" });
  deepEqual(
    [found.cpus, found.operations, found.options, found.preset, found.depth],
    [1, ["getppid", "sched_yield"], { noflush: true }, "rfc-v2", 3],
  );
  equal(
    refusal(() => flags({ cpus: "9" })),
    "--cpus 9: a whole number from 1 to 4 is accepted",
  );
  match(
    refusal(() => flags({ operations: "getppid,dance" })),
    /^--operations dance: one of getppid, .* is accepted$/,
  );
  match(
    refusal(() => flags({ options: "noflush=maybe" })),
    /^--options maybe: one of on, off is accepted$/,
  );
  match(
    refusal(() => flags({ vms: "0" })),
    /^--operations: "KVM_RUN HLT" needs at least one of "vms"$/,
  );
  match(
    refusal(() => namedConfiguration("tiny")),
    /^no configuration tiny; accepted: standard, /,
  );
});

test("an operation that needs two CPUs is refused on one", () => {
  equal(OPERATIONS.includes("sched_setaffinity"), true);
  match(
    refusal(() => parseConfiguration("cpus: 1\noperations: [sched_setaffinity]\n", "c.yaml")),
    /^c\.yaml:2: operations: "sched_setaffinity" needs two CPUs/,
  );
});
