import assert from "node:assert/strict";
import { test } from "node:test";
import {
  addVirt,
  CR4_MCE,
  cpu,
  INVPCID_ALL_GLOBAL,
  MCG_STATUS_MCIP,
  MCG_STATUS_RIPV,
  MSR_IA32_MC0_ADDR,
  MSR_IA32_MCG_STATUS,
  type PhysAddr,
  physAddr,
  VECTOR_MC,
  VECTOR_NMI,
  virtAddr,
} from "../hardware/index.ts";
import { boot, busyMachine, countIrq, countNmi, FAULTING, mapFaulting, TASK_A, TASK_B } from "./busy-machine.ts";
import type { ResidueCpu, ResidueMachine } from "./index.ts";
import { IDT, IRQ_VECTOR, prepareSecondTask, SCRATCH } from "./small-kernel.ts";

const DIRECT_MAP = -0x778000000000;

function word(machine: ResidueMachine, offset: number): number {
  return machine.memory.readWord(physAddr(0x2000000 + offset));
}

test("an interrupt is delivered at the step after STI, masked before it, and wakes HLT", () => {
  const machine = boot(
    () => {
      cpu.storeWord(SCRATCH, 7);
    },
    { irq: countIrq },
  );
  machine.cpu(0).turn();
  assert.equal(machine.cpu(0).state.isHalted, true);
  machine.cpu(0).raise(IRQ_VECTOR);
  assert.equal(machine.run(), "idle");
  assert.equal(word(machine, 8), 1);
  assert.equal(machine.cpu(0).state.isHalted, true);
});

test("a page fault in a kernel step is handled and the step tried again", () => {
  const machine = boot(
    () => {
      cpu.storeWord(addVirt(FAULTING, 0x20), 41);
      cpu.storeWord(addVirt(SCRATCH, 0x28), cpu.loadWord(addVirt(FAULTING, 0x20)) + 1);
    },
    { fault: mapFaulting },
  );
  machine.run();
  assert.equal(word(machine, 0x20), 41);
  assert.equal(word(machine, 0x28), 42);
  assert.equal(machine.cpu(0).faults, 1);
});

test("a fault that nobody repairs ends the run as a breach of S6", () => {
  const machine = boot(() => {
    cpu.storeWord(FAULTING, 1);
  });
  assert.throws(() => machine.run(), /S6: the access to 0x7000 faulted 8 times/);
});

test("an NMI is blocked until the IRET of the handler, then the pending one comes", () => {
  const machine: ResidueMachine = boot(() => cpu.storeWord(SCRATCH, 1), {
    nmi: () => {
      const depth = cpu.loadWord(addVirt(SCRATCH, 24));
      cpu.storeWord(addVirt(SCRATCH, 24), depth + 1);
      // A second NMI, raised inside the handler.
      if (cpu.loadWord(addVirt(SCRATCH, 16)) === 0 && cpu.isLive) machine.cpu(0).raiseNmi();
      cpu.storeWord(addVirt(SCRATCH, 32), Math.max(cpu.loadWord(addVirt(SCRATCH, 32)), depth + 1));
      countNmi();
      cpu.storeWord(addVirt(SCRATCH, 24), depth);
    },
  });
  machine.cpu(0).turn();
  machine.cpu(0).raiseNmi();
  machine.run();
  assert.equal(word(machine, 16), 2);
  assert.equal(word(machine, 32), 1, "they did not nest");
});

test("two tasks switch stacks and go on where they slept", () => {
  const machine = boot(
    (m) => {
      prepareSecondTask(m, TASK_B);
      for (let round = 0; round < 3; round++) {
        cpu.storeWord(SCRATCH, cpu.loadWord(SCRATCH) * 10 + 1);
        cpu.switchTo("switch", TASK_A, TASK_B);
      }
    },
    {},
    () => {
      for (;;) {
        cpu.storeWord(SCRATCH, cpu.loadWord(SCRATCH) * 10 + 2);
        cpu.switchTo("switch", TASK_B, TASK_A);
      }
    },
  );
  machine.run();
  assert.equal(word(machine, 0), 121212);
});

test("a task that is new at the address and on the stack of a dead one begins at its beginning", () => {
  const machine = boot(
    (m) => {
      for (let life = 0; life < 3; life++) {
        prepareSecondTask(m, TASK_B);
        cpu.storeWord(SCRATCH, cpu.loadWord(SCRATCH) * 10 + 1);
        cpu.switchTo("switch", TASK_A, TASK_B);
        cpu.forgetPath(TASK_B);
      }
    },
    {},
    () => {
      cpu.storeWord(SCRATCH, cpu.loadWord(SCRATCH) * 10 + 2);
      cpu.switchTo("switch", TASK_B, TASK_A);
      cpu.storeWord(SCRATCH, 9);
    },
  );
  machine.run();
  assert.equal(word(machine, 0), 121212);
});

test("a translation that was used stays until it is invalidated", () => {
  const seen: number[] = [];
  const machine = boot(
    () => {
      const low = cpu.load(FAULTING, 4);
      // The entry now names the frame behind SCRATCH's; nobody has told the TLB.
      cpu.store64(virtAddr(DIRECT_MAP + 0x2202000 + 7 * 8), 0x2001000 | 3, 0);
      cpu.store(virtAddr(DIRECT_MAP + 0x2001000), 4, 99);
      if (cpu.isLive) seen.push(low, cpu.load(FAULTING, 4));
      cpu.invpcid(INVPCID_ALL_GLOBAL, 0, virtAddr(0));
      if (cpu.isLive) seen.push(cpu.load(FAULTING, 4));
    },
    { fault: mapFaulting },
  );
  machine.run();
  assert.deepEqual(seen, [0, 0, 99]);
});

test("law 3: a path suspended at each of its steps in turn leaves the same memory", () => {
  const machine = busyMachine();
  machine.startTracking();
  const start = machine.mark();
  let steps = 0;
  machine.cpu(0).setHook({ beforeStep: () => steps++, beforeEntry: () => undefined });
  machine.run();
  const expected = machine.memory.hash();
  assert.equal(word(machine, 0x40), 42);
  assert.equal(word(machine, 0x60), 6);
  assert.equal(word(machine, 8), 2, "both interrupts came");
  assert.equal(word(machine, 16), 1, "the NMI came");
  assert.equal(steps, 320);
  for (let at = 0; at < steps; at++) {
    machine.rewind(start);
    let seen = 0;
    machine.cpu(0).setHook({
      beforeStep: (c: ResidueCpu) => {
        if (seen++ === at) c.suspendAtNextStep();
      },
      beforeEntry: () => undefined,
    });
    machine.run();
    assert.ok(seen > steps, "a step was looked at again");
    assert.equal(machine.memory.hash(), expected, `suspended before step ${at}`);
  }
});

test("law 3: what observers are told once is not told again by a path that is brought back", () => {
  let told = 0;
  const machine = boot(
    (m) => {
      prepareSecondTask(m, TASK_B);
      for (let i = 0; i < 4; i++) {
        cpu.storeWord(SCRATCH, i);
        if (cpu.isLive) told++;
      }
      cpu.switchTo("switch", TASK_A, TASK_B);
      if (cpu.isLive) told++;
      cpu.storeWord(SCRATCH, 9);
    },
    {},
    () => {
      cpu.switchTo("switch", TASK_B, TASK_A);
    },
  );
  machine.startTracking();
  const start = machine.mark();
  let steps = 0;
  machine.cpu(0).setHook({ beforeStep: () => steps++, beforeEntry: () => undefined });
  machine.run();
  assert.equal(told, 5);
  for (let at = 0; at < steps; at++) {
    machine.rewind(start);
    told = 0;
    let seen = 0;
    machine.cpu(0).setHook({
      beforeStep: (c: ResidueCpu) => {
        if (seen++ === at) c.suspendAtNextStep();
      },
      beforeEntry: () => undefined,
    });
    machine.run();
    assert.equal(told, 5, `suspended before step ${at}`);
  }
});

test("memory goes back to a mark, hash and frame labels included", () => {
  const machine = boot(() => undefined);
  const { memory } = machine;
  memory.startTracking();
  const before = memory.hash();
  const mark = memory.mark();
  memory.fill(physAddr(0x300000), 0x5a, 5000);
  memory.write8(physAddr(0x300001), 3);
  memory.writeWord(physAddr(0x400004), -5);
  const changed = memory.hash();
  assert.notEqual(changed, before);
  memory.rewindTo(mark);
  assert.equal(memory.hash(), before);
  assert.equal(memory.read8(physAddr(0x300001) as PhysAddr), 0);
  memory.startTracking();
  assert.equal(memory.hash(), before, "the difference is what a fresh sum gives");
});

test("a machine check comes at the next step although interrupts are off, with the error in bank 0", () => {
  const told: number[] = [];
  const machine = boot(
    (m) => {
      cpu.writeCr4(cpu.readCr4() | CR4_MCE);
      // The gate of NMIs serves both.
      cpu.copy(addVirt(IDT, 16 * VECTOR_MC), addVirt(IDT, 16 * VECTOR_NMI), 16);
      if (cpu.isLive) m.cpu(0).raiseMachineCheck({ errorCode: 0x134, address: 0x123000, isRestartable: true });
      cpu.storeWord(SCRATCH, 1);
    },
    {
      nmi: () => {
        told.push(cpu.loadWord(SCRATCH), cpu.readMsr(MSR_IA32_MCG_STATUS), cpu.readMsr(MSR_IA32_MC0_ADDR));
        cpu.writeMsr(MSR_IA32_MCG_STATUS, 0, 0);
      },
    },
  );
  machine.run();
  assert.deepEqual(told, [0, MCG_STATUS_MCIP | MCG_STATUS_RIPV, 0x123000]);
  assert.equal(word(machine, 0), 1);
});
