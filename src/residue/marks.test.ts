import assert from "node:assert/strict";
import { test } from "node:test";
import {
  cpu,
  LVTT_TSC_DEADLINE,
  MSR_IA32_TSC_DEADLINE,
  MSR_X2APIC_EOI,
  MSR_X2APIC_LVTT,
  OWNER_USER,
  owner,
  virtAddr,
} from "../hardware/index.ts";
import { boot, busyMachine } from "./busy-machine.ts";
import type { Mark, ResidueCpu, ResidueMachine } from "./index.ts";
import { IRQ_VECTOR, SCRATCH } from "./small-kernel.ts";

function hashOf(machine: ResidueMachine): string {
  return `${machine.hashHigh >>> 0} ${machine.hashLow >>> 0}`;
}

function hashAnew(machine: ResidueMachine): string {
  const { high, low } = machine.hashFromScratch();
  return `${high >>> 0} ${low >>> 0}`;
}

function looking(look: (cpu: ResidueCpu) => void): { beforeStep: (cpu: ResidueCpu) => void; beforeEntry: () => void } {
  return { beforeStep: look, beforeEntry: () => undefined };
}

test("a mark before any step: the machine goes back into the middle of the path, again and again, and ends where it ended", () => {
  const machine = busyMachine();
  machine.startTracking();
  const marks: { readonly mark: Mark; readonly hash: string; readonly memory: string }[] = [];
  machine.cpu(0).setHook(looking(() => marks.push({ mark: machine.mark(), hash: hashOf(machine), memory: machine.memory.hash() })));
  machine.run();
  const expected = hashOf(machine);
  const steps = machine.cpu(0).steps;
  assert.equal(marks.length, 320);
  assert.equal(new Set(marks.map(({ hash }) => hash)).size, marks.length, "each step changes the state: at least the log is longer");
  for (const { mark, hash, memory } of marks.reverse()) {
    for (let again = 0; again < 2; again++) {
      machine.cpu(0).setHook(looking(() => undefined));
      machine.rewind(mark);
      assert.equal(hashOf(machine), hash);
      assert.equal(machine.memory.hash(), memory);
      machine.run();
      assert.equal(hashOf(machine), expected);
      assert.equal(machine.cpu(0).steps, steps, "counted once each");
    }
  }
});

test("a turn that a hook abandoned goes on from a mark before the step", () => {
  const machine = busyMachine();
  machine.startTracking();
  const start = machine.mark();
  machine.run();
  const expected = hashOf(machine);
  for (let at = 0; at < 320; at += 7) {
    machine.rewind(start);
    let seen = 0;
    let here: Mark | undefined;
    machine.cpu(0).setHook(
      looking((on) => {
        if (seen === at) here = machine.mark();
        if (seen++ === at + 5) on.abandon();
      }),
    );
    for (let turns = 0; turns < 40 && seen <= at + 5; turns++) if (machine.cpu(0).canRun) machine.cpu(0).turn();
    machine.cpu(0).setHook(undefined);
    if (here === undefined) continue;
    machine.rewind(here);
    machine.run();
    assert.equal(hashOf(machine), expected, `step ${at}`);
  }
});

test("the hash that follows the changes is the hash of the state, before every step and after going back", () => {
  const machine = busyMachine();
  machine.startTracking();
  const start = machine.mark();
  let seen = 0;
  machine.cpu(0).setHook(
    looking(() => {
      if (seen++ % 40 === 0) assert.equal(hashOf(machine), hashAnew(machine), `step ${seen}`);
    }),
  );
  machine.run();
  assert.equal(hashOf(machine), hashAnew(machine));
  machine.rewind(start);
  assert.equal(hashOf(machine), hashAnew(machine));
});

test("what is pending, a register, a translation or a label alone makes another state", () => {
  const machine = busyMachine();
  machine.run();
  machine.startTracking();
  const start = machine.mark();
  const before = hashOf(machine);
  const one = machine.cpu(0);
  const changes: readonly (() => void)[] = [
    () => one.raise(IRQ_VECTOR),
    () => one.raiseNmi(),
    () => one.state.setRegister(3, 7),
    () => one.runAside(() => cpu.invlpg(virtAddr(-0x778000000000))),
    () => one.runAside(() => cpu.writeMsr(0x48, 1, 0)),
    () => one.labels.executed(owner(OWNER_USER, 1, false)),
  ];
  const hashes = new Set([before]);
  for (const change of changes) {
    change();
    hashes.add(hashOf(machine));
    assert.equal(hashOf(machine), hashAnew(machine));
    machine.rewind(start);
    assert.equal(hashOf(machine), before);
  }
  assert.equal(hashes.size, changes.length + 1);
});

test("while time stands still no step costs any, and a timer fires when it is told to and shows its time once", () => {
  const told: number[] = [];
  const machine = boot(
    (m) => {
      cpu.writeMsr(MSR_X2APIC_LVTT, LVTT_TSC_DEADLINE | IRQ_VECTOR, 0);
      cpu.writeMsr(MSR_IA32_TSC_DEADLINE, cpu.readTsc() + 20, 0);
      for (let i = 0; i < 100; i++) cpu.storeWord(SCRATCH, i);
      cpu.charge(1000);
      if (cpu.isLive) m.cpu(0).fireTimer();
      told.push(cpu.readTsc());
      cpu.enableInterrupts();
      told.push(cpu.readTsc());
    },
    {
      irq: () => {
        told.push(-1, cpu.readTsc(), cpu.readTsc());
        cpu.writeMsr(MSR_X2APIC_EOI, 0, 0);
      },
    },
  );
  machine.freezeTime();
  const { now } = machine.cpu(0);
  machine.run();
  assert.deepEqual(told, [now, -1, now + 20, now, now]);
  assert.equal(machine.cpu(0).now, now);
});
