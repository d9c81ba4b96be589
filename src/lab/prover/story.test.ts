import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { encodeInjection, encodeStart } from "./event-code.ts";
import { INJECTION_KINDS } from "./injection.ts";
import { tellStory } from "./story.ts";
import { storyText } from "./story-text.ts";
import { FORGOTTEN_TRAINING } from "./testing-configuration.ts";

const RUN_GUEST = encodeStart(0, 1);
const EXPECTED = { signature: "", message: "" };

test("a story says what happened in kernel terms, where, and whose leftover it ends with", () => {
  const nmi = encodeInjection(60, INJECTION_KINDS.indexOf("nmi sensitive"));
  const story = tellStory(FORGOTTEN_TRAINING, { path: [[RUN_GUEST, nmi]], finding: EXPECTED });
  const [event] = story.events;
  deepEqual(
    event?.happenings.slice(0, 4).map(({ kind, what, functions }) => [kind, what, functions[0]]),
    [
      ["trace", "asi_relax: the critical section ends", "asi_relax"],
      ["trace", "system call ioctl", "syscall_enter_from_user_mode"],
      ["injection", "an NMI arrives; its handler reads sensitive memory", "kvm_vcpu_ioctl"],
      ["trace", "NMI, nesting depth 0", "kvm_vcpu_ioctl"],
    ],
  );
  equal(event?.happenings.find(({ kind }) => kind === "injection")?.step, 60);
  ok(
    event?.happenings.some(
      ({ kind, what }) =>
        kind === "tables" && what === "CR3: unrestricted, of process-0 (pid 1) -> restricted: KVM domain of process-0 (pid 1)",
    ),
  );
  const { property, structure, owner, functions, detail } = story.end;
  deepEqual(
    [property, structure, owner, functions[0], detail],
    ["S1", "branch target buffer", "process-1 (pid 2)", "enter_domain", "the restricted kernel runs with training that it refuses"],
  );
  deepEqual(
    [story.before[0]?.tables, event?.after[0]?.tables],
    ["unrestricted, of process-0 (pid 1)", "restricted: KVM domain of process-0 (pid 1)"],
  );
  // A story is data that goes through JSON whole, and its text fits a terminal.
  deepEqual(JSON.parse(JSON.stringify(story)), story);
  const lines = storyText(story).split("\n");
  deepEqual(
    lines.filter((line) => line.length > 100),
    [],
  );
  equal(lines.filter((line) => line.startsWith("!")).length, 1);
  ok(lines.includes("1. cpu 0 (process-0 (pid 1), user mode): KVM_RUN HLT"));
});

test("a story of events that find nothing says so", () => {
  const story = tellStory({ ...FORGOTTEN_TRAINING, properties: ["S9"] }, { path: [[RUN_GUEST]], finding: EXPECTED });
  equal(story.end.detail, "nothing was found");
  ok(story.events[0]?.happenings.some(({ what }) => what === "VM exit: HLT"));
});
