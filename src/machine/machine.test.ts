// The machine alone, with small images in place of a kernel: traps, steps, nested delivery, stubs, stack switches, turns, interrupts.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  DIRECT_MAP,
  direct,
  FRAME_ERROR,
  FRAME_RIP,
  FREE_PHYSICAL,
  type TestKernel,
  testImage,
  testSymbol,
} from "../../test/bare-kernel.ts";
import {
  APIC_ON,
  append,
  entries,
  exit,
  IPI_VECTOR,
  LOG,
  logged,
  MEMORY_BYTES,
  machineOf,
  model,
  run,
  TIMER_VECTOR,
} from "../../test/bare-machine.ts";
import { mem, rax, rdi, rsi } from "../assembler/index.ts";
import {
  BOOT_WAKEUP_MAILBOX,
  CR4_MCE,
  cpu,
  cpuId,
  ICR_FIXED,
  ICR_NMI,
  LVTT_TSC_DEADLINE,
  MCG_STATUS_MCIP,
  MCG_STATUS_RIPV,
  MSR_IA32_MC0_ADDR,
  MSR_IA32_MC0_STATUS,
  MSR_IA32_MCG_STATUS,
  MSR_IA32_TSC_DEADLINE,
  MSR_X2APIC_EOI,
  MSR_X2APIC_ICR,
  MSR_X2APIC_LVTT,
  MSR_X2APIC_SIVR,
  OWNER_USER,
  owner,
  PF_WRITE,
  PTE_PRESENT,
  PTE_WRITE,
  pfnOf,
  physAddr,
  silentObserver,
  VECTOR_MC,
  type VirtAddr,
} from "../hardware/index.ts";
import { SimulatedMachine } from "./simulated-machine.ts";

test("a trap calls its handler, whose steps act on memory, and an exit port ends the run", () => {
  const { machine, result } = run({
    start: () => {
      cpu.store(LOG, 4, 0x12345678);
      assert.equal(cpu.load(LOG, 2), 0x5678);
      assert.equal(cpu.rmw("or", LOG, 1, 0x80), 0x78);
      assert.equal(cpu.compareExchange(LOG, 4, 0x123456f8, 5), true);
      assert.equal(cpu.compareExchange(LOG, 4, 0x123456f8, 6), false);
      cpu.storeWord((LOG + 8) as VirtAddr, DIRECT_MAP);
      assert.equal(cpu.loadWord((LOG + 8) as VirtAddr), DIRECT_MAP);
      assert.equal(cpu.load64((LOG + 8) as VirtAddr), 0);
      assert.equal(cpu.high, 0xffff8880);
      exit(7);
    },
  });
  assert.deepEqual(result, { kind: "exit", status: 7 });
  assert.equal(machine.memory.read32(physAddr(FREE_PHYSICAL)), 5);
});

test("a page fault in a TypeScript load is handled and the load tried again", () => {
  const target = (DIRECT_MAP + 2 ** 39) as VirtAddr;
  const table = FREE_PHYSICAL + 0x10000;
  const seen: number[] = [];
  const { result } = run({
    start: () => {
      // Empty tables for the target, all but its last level.
      const root = cpu.readCr3();
      cpu.storeWord(direct(root + 8 * ((Math.floor(target / 2 ** 39) + 512) % 512)), table + PTE_PRESENT + PTE_WRITE);
      cpu.storeWord(direct(table), table + 0x1000 + PTE_PRESENT + PTE_WRITE);
      cpu.storeWord(direct(table + 0x1000), table + 0x2000 + PTE_PRESENT + PTE_WRITE);
      cpu.storeWord(direct(table + 0x3008), 4711);
      assert.equal(cpu.loadWord((target + 8) as VirtAddr), 4711);
      cpu.storeWord((target + 0x1000) as VirtAddr, 5);
      exit(0);
    },
    vectors: new Map([
      [
        14,
        () => {
          const frame = cpu.stackPointer();
          const address = cpu.readCr2();
          seen.push(address - target, cpu.loadWord((frame + FRAME_ERROR) as VirtAddr));
          const index = address - target >= 0x1000 ? 1 : 0;
          cpu.storeWord(direct(table + 0x2000 + 8 * index), table + 0x3000 + PTE_PRESENT + PTE_WRITE);
        },
      ],
    ]),
  });
  assert.deepEqual(result, { kind: "exit", status: 0 });
  assert.deepEqual(seen, [8, 0, 0x1000, PF_WRITE]);
});

test("an interrupt is delivered between two steps, nested on the same stack, and only while IF is 1", () => {
  const order: string[] = [];
  const { result } = run({
    start: () => {
      cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
      cpu.writeMsr(MSR_X2APIC_ICR, ICR_FIXED | IPI_VECTOR, 0);
      for (let i = 0; i < 300; i++) cpu.load(LOG, 4);
      order.push("before sti");
      cpu.enableInterrupts();
      cpu.load(LOG, 4);
      order.push("after sti");
      exit(0);
    },
    vectors: new Map([
      [
        IPI_VECTOR,
        () => {
          order.push("interrupt");
          assert.equal(cpu.readFlags() & 0x200, 0);
          cpu.writeMsr(MSR_X2APIC_EOI, 0, 0);
        },
      ],
    ]),
  });
  assert.deepEqual(result, { kind: "exit", status: 0 });
  assert.deepEqual(order, ["before sti", "interrupt", "after sti"]);
});

test("a stub is called with arguments and returns RAX; a fault inside it is handled and it goes on", () => {
  const bad = 0x5000;
  const { result } = run({
    start: () => {
      assert.equal(cpu.callStub("sum", 40, 2), 42);
      assert.equal(cpu.callStub("reader", bad), -14);
      exit(1);
    },
    code: (a) => {
      a.label("sum").mov(rax, rdi).add(rax, rsi).ret();
      a.label("reader").mov(rax, mem(rdi)).ret();
      a.label("fixup").mov(rax, -14).ret();
    },
    vectors: new Map([
      [
        14,
        () => {
          const frame = cpu.stackPointer();
          assert.equal(cpu.readCr2(), bad);
          assert.equal(cpu.loadWord((frame + FRAME_RIP) as VirtAddr), testSymbol("reader"));
          cpu.storeWord((frame + FRAME_RIP) as VirtAddr, testSymbol("fixup"));
        },
      ],
    ]),
  });
  assert.deepEqual(result, { kind: "exit", status: 1 });
});

test("two tasks switch stacks; each path sleeps as its log and goes on where it was", () => {
  const tasks = [direct(FREE_PHYSICAL + 0x1000), direct(FREE_PHYSICAL + 0x1100)] as const;
  const stackTop = direct(FREE_PHYSICAL + 0x8000);
  const second = (): void => {
    for (let i = 0; i < 3; i++) {
      append(200 + i);
      cpu.switchTo("switch_stub", tasks[1], tasks[0]);
    }
    exit(3);
  };
  const { machine, result } = run({
    start: () => {
      // A new task's stack: six registers, then stub_return and behind it the trap at which its path begins.
      const top = (stackTop - 8 * 8) as VirtAddr;
      cpu.storeWord((top + 48) as VirtAddr, testSymbol("stub_return"));
      cpu.storeWord((top + 56) as VirtAddr, testSymbol("new_task"));
      cpu.storeWord(tasks[1], top);
      for (let i = 0; ; i++) {
        append(100 + i);
        cpu.switchTo("switch_stub", tasks[0], tasks[1]);
      }
    },
    code: (a) => {
      a.label("new_task").trap("second").hlt();
    },
    handlers: new Map([["second", second]]),
  });
  assert.deepEqual(result, { kind: "exit", status: 3 });
  assert.deepEqual(entries(machine), [100, 200, 101, 201, 102, 202, 103]);
});

test("a task that is new at the address and on the stack of a dead one begins at its beginning", () => {
  const tasks = [direct(FREE_PHYSICAL + 0x1000), direct(FREE_PHYSICAL + 0x1100)] as const;
  const stackTop = direct(FREE_PHYSICAL + 0x8000);
  const second = (): void => {
    append(200);
    cpu.switchTo("switch_stub", tasks[1], tasks[0]);
    append(201);
    exit(3);
  };
  const { machine, result } = run({
    start: () => {
      const top = (stackTop - 8 * 8) as VirtAddr;
      for (let life = 0; life < 3; life++) {
        cpu.storeWord((top + 48) as VirtAddr, testSymbol("stub_return"));
        cpu.storeWord((top + 56) as VirtAddr, testSymbol("new_task"));
        cpu.storeWord(tasks[1], top);
        append(100 + life);
        cpu.switchTo("switch_stub", tasks[0], tasks[1]);
        cpu.forgetPath(tasks[1]);
      }
      exit(0);
    },
    code: (a) => {
      a.label("new_task").trap("second").hlt();
    },
    handlers: new Map([["second", second]]),
  });
  assert.deepEqual(result, { kind: "exit", status: 0 });
  assert.deepEqual(entries(machine), [100, 200, 101, 200, 102, 200]);
});

test("the TSC-deadline timer wakes a halted CPU at its time", () => {
  let woken = 0;
  const { result } = run({
    start: () => {
      cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
      cpu.writeMsr(MSR_X2APIC_LVTT, LVTT_TSC_DEADLINE | TIMER_VECTOR, 0);
      cpu.writeMsr(MSR_IA32_TSC_DEADLINE, 1_000_000, 0);
      cpu.halt();
      woken = cpu.readTsc();
      append(1);
      exit(0);
    },
    vectors: new Map([
      [
        TIMER_VECTOR,
        () => {
          append(0);
          cpu.writeMsr(MSR_X2APIC_EOI, 0, 0);
        },
      ],
    ]),
  });
  assert.deepEqual(result, { kind: "exit", status: 0 });
  assert.ok(woken >= 1_000_000 && woken < 1_002_000, `woken at ${woken}`);
});

test("a CPU started through the mailbox and the boot CPU exchange interrupts", () => {
  const flag = direct(FREE_PHYSICAL + 0x100);
  const { machine, result } = run(
    {
      start: () => {
        cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
        cpu.storeWord(direct(BOOT_WAKEUP_MAILBOX + 8), testSymbol("start"));
        cpu.store(direct(BOOT_WAKEUP_MAILBOX + 4), 4, 1);
        cpu.store(direct(BOOT_WAKEUP_MAILBOX), 2, 1);
        while (cpu.load(flag, 4) === 0) cpu.pause();
        append(10);
        cpu.writeMsr(MSR_X2APIC_ICR, ICR_FIXED | IPI_VECTOR, 1);
        while (cpu.load(flag, 4) !== 2) cpu.pause();
        append(11);
        exit(0);
      },
      startOther: () => {
        cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
        append(20);
        cpu.store(flag, 4, 1);
        cpu.halt();
        append(22);
        cpu.store(flag, 4, 2);
        cpu.halt();
      },
      vectors: new Map([
        [
          IPI_VECTOR,
          () => {
            append(21);
            cpu.writeMsr(MSR_X2APIC_EOI, 0, 0);
          },
        ],
      ]),
    },
    2,
  );
  assert.deepEqual(result, { kind: "exit", status: 0 });
  assert.deepEqual(entries(machine), [20, 10, 21, 22, 11]);
});

test("an NMI comes through a masked IF, a second one waits for the IRET of the first", () => {
  const { machine, result } = run({
    start: () => {
      cpu.writeMsr(MSR_X2APIC_SIVR, APIC_ON, 0);
      cpu.writeMsr(MSR_X2APIC_ICR, ICR_NMI, 0);
      for (let i = 0; i < 300; i++) cpu.load(LOG, 1);
      append(9);
      exit(0);
    },
    vectors: new Map([
      [
        2,
        () => {
          const depth = cpu.loadWord(LOG);
          append(1);
          if (depth === 0) cpu.writeMsr(MSR_X2APIC_ICR, ICR_NMI, 0);
          for (let i = 0; i < 300; i++) cpu.load(LOG, 1);
          append(2);
        },
      ],
    ]),
  });
  assert.deepEqual(result, { kind: "exit", status: 0 });
  assert.deepEqual(entries(machine), [1, 2, 1, 2, 9]);
});

test("a machine check comes at the next step through masked interrupts, with the error in bank 0; without CR4.MCE it is a shutdown", () => {
  const kernel = (isEnabled: boolean): TestKernel => ({
    start: () => {
      if (isEnabled) cpu.writeCr4(cpu.readCr4() | CR4_MCE);
      append(1);
      append(2);
      exit(0);
    },
    vectors: new Map([
      [
        VECTOR_MC,
        () => {
          append(cpu.readMsr(MSR_IA32_MCG_STATUS));
          append(cpu.readMsr(MSR_IA32_MC0_ADDR));
          append(cpu.readMsr(MSR_IA32_MC0_STATUS));
          cpu.writeMsr(MSR_IA32_MC0_STATUS, 0, 0);
          cpu.writeMsr(MSR_IA32_MCG_STATUS, 0, 0);
        },
      ],
    ]),
  });
  const inject = (isEnabled: boolean): SimulatedMachine => {
    const machine = machineOf(kernel(isEnabled));
    let done = false;
    machine.setStepHook((running) => {
      // Between the two entries of the log.
      if (done || running.path.depth > 0 || logged(machine, 0) !== 1) return;
      done = true;
      machine.injectMachineCheck(cpuId(0), { errorCode: 0x134, address: 0x123000, isRestartable: true });
    });
    return machine;
  };
  const machine = inject(true);
  assert.deepEqual(machine.run(10_000_000), { kind: "exit", status: 0 });
  assert.deepEqual(entries(machine), [1, MCG_STATUS_MCIP | MCG_STATUS_RIPV, 0x123000, 0x134, 2]);
  assert.deepEqual(inject(false).run(10_000_000), { kind: "triple-fault", cpu: 0 });
});

test("siblings of a core share its L1D, CPUs of different cores do not; labels follow frames", () => {
  const target = FREE_PHYSICAL + 0x40000;
  const observed = (threadsPerCore: number): boolean => {
    const machine = new SimulatedMachine({
      model,
      memoryBytes: MEMORY_BYTES,
      cpus: 2,
      threadsPerCore,
      gear: "detailed",
      image: testImage({
        start: () => {
          cpu.observer.frameOwner(pfnOf(physAddr(target)), owner(OWNER_USER, 5, true));
          cpu.load(direct(target), 4);
          exit(0);
        },
      }),
      commandLine: "",
      observer: silentObserver,
    });
    assert.deepEqual(machine.run(1_000_000), { kind: "exit", status: 0 });
    assert.equal(machine.inspection.isCached("l1d", 0, target), true);
    assert.ok(machine.inspection.holdsSensitive(0, "L1D").has(owner(OWNER_USER, 5, true)));
    return machine.inspection.isCached("l1d", 1, target);
  };
  assert.equal(observed(1), false);
  assert.equal(observed(2), true);
});
