import { deepEqual, equal, ok } from "node:assert/strict";
import { test } from "node:test";
import { fail } from "../../hardware/index.ts";
import { Random } from "../random.ts";
import { CONFIGURATIONS } from "./named-configurations.ts";
import { memoryOf, stateDifference } from "./state-difference.ts";
import { type EventChoice, System } from "./system.ts";

const STANDARD = CONFIGURATIONS.get("standard") ?? fail("no standard configuration");

function hashOf({ machine }: System): string {
  return `${machine.hashHigh >>> 0} ${machine.hashLow >>> 0}`;
}

function run(system: System, choice: EventChoice): void {
  system.begin(choice);
  equal(system.runEvent(choice), "edge");
}

/** Does `operation` on CPU 0, as soon as the process that runs there can: others go on or give the CPU back before. */
function perform(system: System, operation: string): void {
  for (let tries = 0; tries < 20; tries++) {
    const choices = system.choices();
    const waiting = choices.filter((choice) => choice.operation === "continue");
    const pending = waiting[tries % Math.max(1, waiting.length)];
    const wanted = choices.find((choice) => choice.cpu === 0 && choice.operation === operation);
    const next = pending ?? wanted ?? { cpu: 0, operation: "sched_yield" };
    run(system, next);
    if (next === wanted) return;
  }
  fail(`${operation} never became possible`);
}

const ROUNDS: readonly (readonly string[])[] = [
  ["getppid"],
  ["sched_yield"],
  ["KVM_RUN HLT"],
  ["KVM_RUN VMCALL"],
  ["KVM_RUN EPT violation"],
  ["KVM_RUN external interrupt"],
  ["KVM_RUN NMI"],
  ["KVM_RUN port output"],
  ["interrupt"],
  ["sensitive interrupt"],
  ["nmi"],
  ["timer"],
  ["mprotect"],
  ["read file"],
  ["write file"],
  ["pipe write", "pipe read"],
  ["TLB flush"],
];
/** Until structures and tables are as they stay: processes take turns, the TLB's slots fill. */
const MOST_ROUNDS = 8;

const system = new System({ ...STANDARD, operations: [...new Set(ROUNDS.flat())] });
const start = system.machine.mark();
const checked = system.check.checker.mark();

function startAnew(): void {
  system.machine.rewind(start);
  system.check.checker.rewind(checked);
}

for (const operations of ROUNDS) {
  test(`the same again and again comes back to the same state: ${operations.join(", ")}`, () => {
    startAnew();
    const seen = new Set<string>();
    let before: Int32Array = new Int32Array(0);
    for (let round = 0; round < MOST_ROUNDS; round++) {
      if (round === MOST_ROUNDS - 1) before = memoryOf(system);
      for (const operation of operations) perform(system, operation);
      const hash = hashOf(system);
      if (seen.has(hash)) return;
      seen.add(hash);
    }
    deepEqual(stateDifference(system, before), [], "what tells the last two rounds apart");
    fail("the states differ by something that is no memory");
  });
}

test("the hash that follows the changes is the hash of the state, at each edge of a random walk and after going back", () => {
  startAnew();
  const random = new Random(7);
  const scratch = (): string => {
    const { high, low } = system.machine.hashFromScratch();
    return `${high >>> 0} ${low >>> 0}`;
  };
  const marks: { readonly mark: ReturnType<System["machine"]["mark"]>; readonly checked: number; readonly hash: string }[] = [];
  for (let event = 0; event < 60; event++) {
    if (event % 6 === 0) {
      marks.push({ mark: system.machine.mark(), checked: system.check.checker.mark(), hash: hashOf(system) });
      equal(hashOf(system), scratch(), `before event ${event}`);
    }
    const choices = system.choices();
    run(system, choices[random.next() % choices.length] ?? fail("nobody can go on"));
  }
  for (const place of marks.reverse()) {
    system.machine.rewind(place.mark);
    system.check.checker.rewind(place.checked);
    equal(hashOf(system), place.hash);
    equal(hashOf(system), scratch());
  }
});

test("events of two CPUs that have nothing to do with each other lead to one state in either order", () => {
  for (const [first, second] of [
    ["getppid", "getppid"],
    ["getppid", "KVM_RUN VMCALL"],
    ["nmi", "KVM_RUN HLT"],
    ["interrupt", "read file"],
  ] as const) {
    startAnew();
    // Each once before, so that nothing is allocated or faulted in any more.
    for (let warm = 0; warm < 2; warm++) {
      run(system, { cpu: 0, operation: first });
      run(system, { cpu: 1, operation: second });
    }
    const here = system.machine.mark();
    const judged = system.check.checker.mark();
    const before = hashOf(system);
    run(system, { cpu: 0, operation: first });
    run(system, { cpu: 1, operation: second });
    const one = hashOf(system);
    system.machine.rewind(here);
    system.check.checker.rewind(judged);
    equal(hashOf(system), before);
    run(system, { cpu: 1, operation: second });
    run(system, { cpu: 0, operation: first });
    equal(hashOf(system), one, `${first}, ${second}`);
  }
  ok(system.check.checker.violations.length === 0);
});
