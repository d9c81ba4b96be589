// Each property is shown to find what it is about: an NMI handler breaks the rule on purpose, once, and the checker must name it.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  addVirt,
  cpu,
  cr3Root,
  fail,
  findCpuModel,
  NULL,
  OWNER_NONE,
  PAGE_SIZE,
  type Pfn,
  physAddr,
  VMCS,
  virtAddr,
} from "../../hardware/index.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiMap, asiTaints, currAsi, current, loadedMm, Mm, TaskStruct } from "../../kernel/index.ts";
import { bareMachine, onBareMachine } from "../../residue/index.ts";
import { PROPERTIES, type PropertyName, PropertyViolation, type Violation } from "../properties/index.ts";
import { checkedObserver, checkKvmRun, KvmRunFixture, ResidueCheck } from "./index.ts";

/** Nothing but ASI: the flush of KVM itself would hide what ASI forgets. */
const COMMAND_LINE = "asi=on mitigations=off kvm-intel.vmentry_l1d_flush=never";
const skx = findCpuModel("skx") ?? fail("no CPU model skx");
const DIRECT_MAP = -0x778000000000;

/** What is violated first when an NMI whose handler runs `breakIt` comes before some step of a KVM_RUN; by property. */
function violationsOf(breakIt: () => void): Map<PropertyName, Violation> {
  const report = checkKvmRun({
    model: skx,
    preset: "cordon",
    commandLine: COMMAND_LINE,
    choices: ["VMCALL"],
    injections: ["NMI"],
    stride: 3,
    handler: breakIt,
  });
  return new Map(report.violations.map(({ violation }) => [violation.property, violation]));
}

test("S4: curr_asi cleared while CR3 is restricted", () => {
  const found = violationsOf(() => currAsi.set(NULL)).get("S4");
  assert.equal(found?.structure, "curr_asi");
});

test("S4: curr_asi set for longer than the windows last", () => {
  const found = violationsOf(() => {
    if (currAsi.get() === NULL) currAsi.set(ASI_GLOBAL_NONSENSITIVE);
  }).get("S4");
  assert.match(found?.detail ?? "", /CR3 has been unrestricted for 41 steps|curr_asi is/);
});

test("S10, S1 and S2: a taint byte that is cleared owes flushes that are then not made", () => {
  const found = violationsOf(() => asiTaints.set(0));
  assert.match(found.get("S10")?.detail ?? "", /would owe no flush by the taints/);
  assert.match(found.get("S1")?.owner ?? "", /^mm \d \(sensitive\)$/);
  assert.match(found.get("S2")?.structure ?? "", /L1D|fill buffers/);
  assert.match(found.get("S2")?.owner ?? "", /^(mm|VM) \d \(sensitive\)$/);
});

test("S3: HOST_CR3 changed after it was refreshed", () => {
  const found = violationsOf(() => {
    if (currAsi.get() !== NULL) cpu.vmwrite(VMCS.HOST_CR3, Mm.at(loadedMm.get()).pgd, 0);
  }).get("S3");
  assert.equal(found?.structure, "HOST_CR3");
});

test("S7: the guest would run with a handler still counted", () => {
  const found = violationsOf(() => {
    TaskStruct.at(current()).thread.asiState.intrNestDepth += 1;
  }).get("S7");
  assert.match(found?.detail ?? "", /nesting depth 1/);
});

test("S9: the root of the tables in use is freed", () => {
  const found = violationsOf(() => {
    cpu.observer.freed?.("pages", virtAddr(DIRECT_MAP + cr3Root(cpu.readCr3())), PAGE_SIZE);
  }).get("S9");
  assert.match(found?.detail ?? "", /taken back, but not handed out|freed while it is loaded/);
});

test("S5: a sensitive page mapped in every restricted address space", () => {
  const holder: { fixture?: KvmRunFixture } = {};
  const fixture = new KvmRunFixture({
    model: skx,
    preset: "cordon",
    commandLine: COMMAND_LINE,
    handler: () => {
      const secret = holder.fixture?.secret;
      if (secret !== undefined) asiMap(ASI_GLOBAL_NONSENSITIVE, secret, PAGE_SIZE);
    },
  });
  holder.fixture = fixture;
  fixture.run("HLT", false, (step) => {
    if (step === 20) fixture.inject("NMI");
  });
  fixture.audit();
  const found = fixture.check.checker.violations.at(0);
  assert.equal(found?.property, "S5");
  assert.match(found?.owner ?? "", /mm \d+ \(sensitive\)/);
});

test("S8: a translation is used after its frame was used again", () => {
  const observer = checkedObserver({
    trace: () => undefined,
    frameOwner: () => undefined,
    context: () => undefined,
    print: () => undefined,
  });
  onBareMachine({ observer }, (machine) => {
    const check = new ResidueCheck(machine, observer, { isCollecting: true });
    const page = virtAddr(DIRECT_MAP + 0x3000000);
    cpu.load(page, 4);
    // The 1 GiB page of the direct map moves away; the TLB is not told.
    cpu.store(virtAddr(DIRECT_MAP + 0x11000), 4, 0x40000083);
    cpu.load(page, 4);
    assert.equal(check.checker.occurred.get("S8: a cached translation was used whose entry had changed"), 1);
    assert.equal(check.checker.violations.length, 0);
    cpu.observer.frameOwner((0x3000000 / PAGE_SIZE) as Pfn, OWNER_NONE);
    cpu.load(addVirt(page, 8), 4);
    assert.equal(check.checker.violations[0]?.property, "S8");
    cpu.memory.write32(physAddr(0x11000), 0x83);
  });
});

test("a violation names property, step, CPU, structure and owner; properties can be switched off", () => {
  const violation = { property: "S2", cpu: 1, step: 77, structure: "L1D", owner: "mm 3 (sensitive)", detail: "why" } as const;
  assert.equal(new PropertyViolation(violation).message, `S2 (${PROPERTIES.S2}): cpu 1, step 77, L1D of mm 3 (sensitive): why`);
  const report = checkKvmRun({
    model: skx,
    preset: "cordon",
    commandLine: COMMAND_LINE,
    choices: ["HLT"],
    injections: ["NMI"],
    stride: 40,
    handler: () => asiTaints.set(0),
    properties: new Set(["S4"]),
  });
  assert.deepEqual(report.violations, []);
});

test("a bare machine is not judged before its kernel is up", () => {
  const observer = checkedObserver({
    trace: () => undefined,
    frameOwner: () => undefined,
    context: () => undefined,
    print: () => undefined,
  });
  const machine = bareMachine({ observer });
  const check = new ResidueCheck(machine, observer);
  machine.cpu(0).runAside(() => cpu.load(virtAddr(DIRECT_MAP), 4));
  assert.equal(check.checker.occurred.size, 0);
});
