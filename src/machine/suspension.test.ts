// Law 3 on the machine alone: a suspended path is its log; and snapshots.
import assert from "node:assert/strict";
import { test } from "node:test";
import { direct, FREE_PHYSICAL, type TestKernel, testSymbol } from "../../test/bare-kernel.ts";
import { APIC_ON, append, entries, exit, LOG, machineOf, run, TIMER_VECTOR } from "../../test/bare-machine.ts";
import { rax, rdi, rsi } from "../assembler/index.ts";
import {
  BOOT_WAKEUP_MAILBOX,
  cpu,
  LVTT_TSC_DEADLINE,
  MSR_IA32_TSC_DEADLINE,
  MSR_X2APIC_EOI,
  MSR_X2APIC_LVTT,
  MSR_X2APIC_SIVR,
  physAddr,
  type VirtAddr,
} from "../hardware/index.ts";
import type { SimulatedMachine } from "./simulated-machine.ts";

test("a path that gives up its turn again and again leaves the memory of one that never does (law 3)", () => {
  const kernel = (isShared: boolean): TestKernel => ({
    start: () => {
      cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
      if (isShared) {
        cpu.storeWord(direct(BOOT_WAKEUP_MAILBOX + 8), testSymbol("start"));
        cpu.store(direct(BOOT_WAKEUP_MAILBOX + 4), 4, 1);
        cpu.store(direct(BOOT_WAKEUP_MAILBOX), 2, 1);
      }
      let sum = 1;
      for (let i = 0; i < 20_000; i++) {
        const at = (LOG + 0x1000 + 8 * (sum % 4096)) as VirtAddr;
        sum = (sum * 31 + cpu.loadWord(at) + i) % 1_000_003;
        cpu.storeWord(at, sum);
        cpu.charge(20);
      }
      append(sum);
      exit(0);
    },
    startOther: () => {
      for (let i = 0; i < 20_000; i++) {
        cpu.storeWord((LOG + 0x20000) as VirtAddr, i);
        cpu.charge(20);
      }
    },
  });
  const alone = run(kernel(false), 1);
  const shared = run(kernel(true), 2);
  assert.deepEqual(shared.result, { kind: "exit", status: 0 });
  const part = (machine: SimulatedMachine): Uint8Array => machine.memory.slice(physAddr(FREE_PHYSICAL), 0x10000).slice();
  assert.deepEqual(part(shared.machine), part(alone.machine));
  assert.ok(shared.machine.memory.readWord(physAddr(FREE_PHYSICAL + 0x20000)) > 0);
});

test("a path suspended before every one of its steps, with an NMI at every third, leaves the same memory", () => {
  let hasTables = false;
  const kernel: TestKernel = {
    start: () => {
      hasTables = true;
      cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
      let sum = 1;
      for (let i = 0; i < 60; i++) {
        const at = (LOG + 0x1000 + 8 * (sum % 64)) as VirtAddr;
        sum = (sum * 31 + cpu.loadWord(at) + cpu.callStub("sum", sum, i)) % 1_000_003;
        cpu.storeWord(at, sum);
      }
      append(sum);
      exit(0);
    },
    code: (a) => {
      a.label("sum").mov(rax, rdi).add(rax, rsi).ret();
    },
    vectors: new Map([[2, () => void cpu.rmw("add", (LOG + 0x2000) as VirtAddr, 4, 1)]]),
  };
  const plain = run(kernel);
  hasTables = false;
  const disturbed = machineOf(kernel);
  let suspendedAt = "";
  let interruptedAt = -1;
  disturbed.setStepHook((running) => {
    const { depth, steps } = running.path;
    if (hasTables && depth === 0 && steps % 3 === 0 && steps !== interruptedAt) {
      interruptedAt = steps;
      running.apic.send(running.now, 2, true);
    }
    if (suspendedAt === `${depth} ${steps}`) return;
    suspendedAt = `${depth} ${steps}`;
    running.suspendOnce();
  });
  assert.deepEqual(disturbed.run(50_000_000), { kind: "exit", status: 0 });
  const part = (machine: SimulatedMachine): Uint8Array => machine.memory.slice(physAddr(FREE_PHYSICAL), 0x2000).slice();
  assert.deepEqual(part(disturbed), part(plain.machine));
  assert.ok(disturbed.memory.read32(physAddr(FREE_PHYSICAL + 0x2000)) > 60, "NMIs were handled");
});

test("a machine that is put back to a snapshot does the same again", () => {
  const machine = machineOf({
    start: () => {
      cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
      cpu.writeMsr(MSR_X2APIC_LVTT, LVTT_TSC_DEADLINE | TIMER_VECTOR, 0);
      for (let i = 0; i < 4; i++) {
        append(cpu.readTsc());
        cpu.writeMsr(MSR_IA32_TSC_DEADLINE, cpu.readTsc() + 100_000, 0);
        cpu.halt();
      }
      exit(0);
    },
    vectors: new Map([[TIMER_VECTOR, () => cpu.writeMsr(MSR_X2APIC_EOI, 0, 0)]]),
  });
  assert.deepEqual(machine.run(250_000), { kind: "limit" });
  const snapshot = machine.snapshot();
  assert.deepEqual(machine.run(), { kind: "exit", status: 0 });
  const first = entries(machine);
  machine.restore(snapshot);
  assert.equal(entries(machine).length, 3);
  assert.deepEqual(machine.run(), { kind: "exit", status: 0 });
  assert.deepEqual(entries(machine), first);
});
