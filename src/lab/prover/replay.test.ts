import { deepEqual, equal, throws } from "node:assert/strict";
import { test } from "node:test";
import { fail, findCpuModel, UsageError } from "../../hardware/index.ts";
import { type Configuration, withoutFeatures } from "./configuration.ts";
import { encodeInjection, encodeStart } from "./event-code.ts";
import { INJECTION_KINDS, type InjectionKind } from "./injection.ts";
import { minimise, Replayer } from "./replay.ts";
import { formatReplay, parseReplay } from "./replay-file.ts";
import type { Found } from "./search.ts";
import { FORGOTTEN_TRAINING, FORGOTTEN_TRAINING_SIGNATURE } from "./testing-configuration.ts";

/** With more than most configurations say, so that all of it is seen to be kept. */
const CONFIGURATION: Configuration = {
  ...FORGOTTEN_TRAINING,
  name: "forgotten training",
  model: withoutFeatures(findCpuModel("skx") ?? fail("no CPU model skx"), ["RTM"]),
  options: { noflush: true },
  operations: ["KVM_RUN HLT", "KVM_RUN VMCALL", "sched_yield"],
};
const RUN_GUEST = encodeStart(0, 1);
const YIELD = encodeStart(0, 3);
const injection = (at: number, kind: InjectionKind): number => encodeInjection(at, INJECTION_KINDS.indexOf(kind));
const FOUND: Found = {
  path: [[YIELD], [RUN_GUEST, injection(60, "nmi sensitive")]],
  finding: { signature: FORGOTTEN_TRAINING_SIGNATURE, message: "training of another process" },
};

test("a replay file holds the whole configuration, the events by name and the finding, and reads back as it was", () => {
  const content = formatReplay(CONFIGURATION, FOUND);
  const { configuration, found, events } = parseReplay(content, "f.json");
  deepEqual(configuration, CONFIGURATION);
  deepEqual(found, FOUND);
  deepEqual(events, [
    { cpu: 0, operation: "sched_yield", injections: [] },
    { cpu: 0, operation: "KVM_RUN HLT", injections: [{ kind: "nmi sensitive", at: 60 }] },
  ]);
  equal(formatReplay(configuration, found), content);
});

/** The file with one thing changed; undefined: left out. */
function broken(change: object): string {
  return JSON.stringify({ ...JSON.parse(formatReplay(CONFIGURATION, FOUND)), ...change }, null, 2);
}

const event = (operation: string, injections: readonly object[] = [], cpu = 0): object => ({ cpu, operation, injections });
const CORRUPT: readonly (readonly [what: string, content: string, says: RegExp])[] = [
  ["an empty file", "", /^f\.json: not JSON; a replay file that `cordon check` wrote is accepted$/],
  ["a file that was cut off", formatReplay(CONFIGURATION, FOUND).slice(0, -20), /^f\.json: not JSON/],
  ["a list", "[1]", /^f\.json:1: a mapping is accepted, with format, version, configuration, events, finding$/],
  ["a foreign file", '{"format": "cordon-search-1"}', /^f\.json:1: the key "version" is missing$/],
  ["another format", broken({ format: "x" }), /^f\.json:2: format: "cordon-replay" is accepted$/],
  ["another version", broken({ version: 2 }), /^f\.json:3: version: 1 is accepted$/],
  ["an unknown key", broken({ note: 1 }), /unknown key "note"; accepted: format, version, configuration, events, finding$/],
  ["no finding", broken({ finding: undefined }), /the key "finding" is missing$/],
  [
    "a configuration that is none",
    broken({ configuration: { cpus: 9 } }),
    /^f\.json:5: configuration\.cpus: logical CPUs, a whole number from 1 to 4 is accepted$/,
  ],
  [
    "a configuration whose parts do not go together",
    broken({ configuration: { base: "small-kvm", vms: 0 } }),
    /configuration: "KVM_RUN HLT" needs at least one of "vms"$/,
  ],
  ["no events", broken({ events: [] }), /events: a list of 1 to 1000 events is accepted$/],
  [
    "an unknown operation",
    broken({ events: [event("mmap")] }),
    /events\[0\]\.operation: one of continue, KVM_RUN HLT, KVM_RUN VMCALL, sched_yield is accepted$/,
  ],
  [
    "a CPU that there is not",
    broken({ events: [event("sched_yield", [], 1)] }),
    /events\[0\]\.cpu: a number below 1, the CPUs of the configuration, is accepted$/,
  ],
  [
    "an unknown injection",
    broken({ events: [event("sched_yield", [{ kind: "smi", at: 1 }])] }),
    /events\[0\]\.injections\[0\]\.kind: one of nmi, .*failure is accepted$/,
  ],
  [
    "a step that is none",
    broken({ events: [event("sched_yield", [{ kind: "nmi", at: -1 }])] }),
    /injections\[0\]\.at: a step, a whole number from 0 to 33554431 is accepted$/,
  ],
  [
    "injections out of order",
    broken({
      events: [
        event("sched_yield", [
          { kind: "nmi", at: 9 },
          { kind: "nmi", at: 8 },
        ]),
      ],
    }),
    /injections\[1\]: injections in the order of their steps are accepted$/,
  ],
  [
    "a failure behind others",
    broken({
      events: [
        event("sched_yield", [
          { kind: "nmi", at: 1 },
          { kind: "failure", at: 1 },
        ]),
      ],
    }),
    /injections\[1\]: a failure, from the 1st attempt on, is accepted as the first injection$/,
  ],
];

for (const [what, content, says] of CORRUPT) {
  test(`${what} is no replay file: one line says where and what is accepted`, () => {
    throws(
      () => parseReplay(content, "f.json"),
      (error) => error instanceof UsageError && says.test(error.message) && !error.message.includes("\n"),
    );
  });
}

test("a replay says whether the finding came again, and why not; what the finding does not need is left out", () => {
  const replayer = new Replayer(CONFIGURATION);
  equal(replayer.run(FOUND).end, "again");
  const other = replayer.run({ ...FOUND, finding: { signature: "S2", message: "" } });
  deepEqual([other.end, other.events, other.why.slice(0, 18)], ["other", 2, "event 2 finds: S1 "]);
  // Both processes give the CPU away, and nothing else is judged.
  const nothing = replayer.run({ ...FOUND, path: [[YIELD]] });
  deepEqual([nothing.end, nothing.why], ["nothing", "every event ends without a finding"]);
  const impossible = replayer.run({ ...FOUND, path: [[encodeStart(0, 0)]] });
  deepEqual(
    [impossible.end, impossible.why],
    ["impossible", 'event 1: cpu 0 cannot begin "continue" there; it can begin KVM_RUN HLT, KVM_RUN VMCALL, sched_yield'],
  );
  const short = minimise(CONFIGURATION, FOUND);
  deepEqual(short.path, [[RUN_GUEST]]);
  equal(short.finding.signature, FORGOTTEN_TRAINING_SIGNATURE);
});
