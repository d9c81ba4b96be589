// Whole state spaces, each in seconds: how many states there are is as much a fact as that nothing is violated in them; and the reductions
// change neither.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Configuration } from "./configuration.ts";
import { namedOf } from "./named-configurations.ts";
import { type ProveOptions, prove, type Verdict } from "./prove.ts";

async function whole(configuration: Configuration, options: ProveOptions = {}): Promise<Verdict> {
  const verdict = await prove({ ...configuration, workers: 1 }, options);
  assert.ok(verdict.result.end === "closed" || verdict.outcome === "refuted", verdict.why);
  return verdict;
}

const USERSPACE: Configuration = { ...namedOf("small-userspace"), commandLine: "asi=on", injections: ["nmi"] };
const KVM: Configuration = { ...namedOf("small-kvm"), injections: [], injectionsPerEvent: 0 };

test("two processes, system calls, interrupts, an NMI before any step: 31 states, proved, with and without reduction", async () => {
  const reduced = await whole(USERSPACE);
  const full = await whole(USERSPACE, { isUnreduced: true });
  for (const { result, why } of [reduced, full]) {
    assert.deepEqual([result.states, result.found.length, why], [31, 0, ""]);
  }
  assert.ok(reduced.result.executions * 2 < full.result.executions, "the reduction leaves out more than half");
});

test("two processes with a VM each on one CPU: 125 states, proved; breadth first and deepening agree", async () => {
  const wide = await whole(KVM);
  const deep = await whole(KVM, { isDeepening: true });
  for (const { result } of [wide, deep]) assert.deepEqual([result.states, result.found.length], [125, 0]);
});

test("two workers come to the same tree as one", async () => {
  const one = await prove({ ...USERSPACE, workers: 1, depth: 2 });
  const two = await prove({ ...USERSPACE, workers: 2, depth: 2 });
  assert.deepEqual(two.result, one.result);
});

test("as posted, what a process without a domain trained stays when its mm is switched away: the shortest story", async () => {
  const { result, outcome } = await whole({ ...KVM, preset: "rfc-v2", commandLine: `${KVM.commandLine} asi_userspace=off` });
  assert.equal(outcome, "refuted");
  const [first] = result.found;
  assert.match(first?.finding.message ?? "", /^S(1|10) /);
  assert.ok((first?.path.length ?? 9) <= 2);
});

test("the same under preset cordon is proved", async () => {
  const { outcome, result } = await whole({ ...KVM, commandLine: `${KVM.commandLine} asi_userspace=off` });
  assert.deepEqual([outcome, result.found], ["proved", []]);
});
