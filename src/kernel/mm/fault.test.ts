// Faults, fixups and shootdowns on a booted kernel: the code under test runs at the end of the boot CPU's boot.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, cpu, cpuId, InvariantError, NULL, type VirtAddr } from "../../hardware/index.ts";
import { asiDestroy, asiInit } from "../asi/asi-domain.ts";
import { ASI_CLASS_KVM } from "../asi/asi-struct.ts";
import { asiEnter, asiExit, asiIsRestricted, asiRelax } from "../asi/asi-transition.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { sendIpi } from "../entry/ipi.ts";
import { IRQ_WORK_VECTOR } from "../entry/vectors.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { staticBytes } from "../static-data.ts";
import {
  EXIT_PAGE_FAULT,
  EXIT_REQUESTED,
  FAULT_FIXED_UP,
  FAULT_RETRY_AFTER_ASI,
  FAULT_USER_PAGE,
  TRACE_ASI_EXIT,
  TRACE_PAGE_FAULT,
  TRACE_WARN,
} from "../trace.ts";
import { GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "./gfp.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { initMm, Mm, type MmPtr } from "./mm-struct.ts";
import { doMmap, doMunmap } from "./mmap.ts";
import { allocPages, asiAsyncFreeWork, freePages } from "./page-alloc.ts";
import { type PagePtr, pageAddress, pageToPhys } from "./page-struct.ts";
import { lookupAddress, PAGE_KERNEL, setLeaf } from "./page-table.ts";
import { kfree, kmalloc } from "./slab.ts";
import { flushTlbKernelRange } from "./tlb.ts";
import { copyFromUser, copyToUser } from "./uaccess.ts";
import { vfree, vmalloc } from "./vmalloc.ts";

const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;

/** What the irq_work handler of another CPU reads, and what it read plus one. */
const probeAddress = staticBytes("test_probe_address", 8, 8);
const probeResult = staticBytes("test_probe_result", 8, 8);

interface Run {
  /** Outcomes of page faults (FAULT_*) so far. */
  readonly faults: () => number[];
  /** Addresses of page faults that left the restricted address space. */
  readonly exits: () => number[];
  readonly warnings: () => number[];
}

function inKernel(machine: MachineName, commandLine: string, body: (run: Run) => void, cpus = 1): void {
  const events: TraceRecord[] = [];
  const run: Run = {
    faults: () => events.filter(([event]) => event === TRACE_PAGE_FAULT).map(([, , , outcome]) => outcome),
    exits: () => events.filter(([event, reason]) => event === TRACE_ASI_EXIT && reason === EXIT_PAGE_FAULT).map(([, , address]) => address),
    warnings: () => events.filter(([event]) => event === TRACE_WARN).map(([, warning]) => warning),
  };
  let hasRun = false;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    hooks: { irqWork: () => cpu.storeWord(probeResult, cpu.loadWord(cpu.loadWord(probeAddress) as VirtAddr) + 1) },
    lateInitcall: () => {
      body(run);
      hasRun = true;
    },
  });
  runKernel(machine, image, { commandLine, cpus, events });
  assert.ok(hasRun);
}

/** One test per machine: the copy loop is machine code on two of them, steps on the third. */
function onEveryMachine(name: string, body: (machine: MachineName) => void): void {
  for (const machine of MACHINES) test(`${name} (${machine})`, () => body(machine));
}

/** Runs `body` in a new mm with `pages` anonymous pages at BASE. */
function withUserMemory(pages: number, body: (mm: MmPtr) => void): void {
  const mm = mmAlloc();
  const address = doMmap(mm, BASE, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
  assert.ok(!isErr(address));
  kthreadUseMm(mm);
  body(mm);
  kthreadUnuseMm();
  mmput(mm);
}

onEveryMachine("copy_to_user() makes pages present as it goes; asi=off", (machine) => {
  inKernel(machine, "asi=off", ({ faults }) => {
    withUserMemory(2, () => {
      const buffer = kmalloc(300, GFP_KERNEL);
      cpu.fill(buffer, 0x41, 300);
      assert.equal(copyToUser(addVirt(BASE, PAGE - 100), buffer, 300), 0);
      assert.deepEqual(faults(), [FAULT_USER_PAGE, FAULT_USER_PAGE]);
      cpu.fill(buffer, 0, 300);
      assert.equal(copyFromUser(buffer, addVirt(BASE, PAGE - 100), 300), 0);
      assert.equal(cpu.load(addVirt(buffer, 299), 1), 0x41);
      kfree(buffer);
    });
  });
});

onEveryMachine(
  "a copy that runs into a hole stops there: the fixup counts what is left, the rest of the kernel's buffer is zero",
  (machine) => {
    inKernel(machine, "asi=off", ({ faults }) => {
      withUserMemory(1, () => {
        const buffer = kmalloc(64, GFP_KERNEL);
        cpu.fill(buffer, 0x42, 64);
        assert.equal(copyToUser(addVirt(BASE, PAGE - 10), buffer, 64), 54);
        assert.equal(copyFromUser(buffer, addVirt(BASE, PAGE - 10), 64), 54);
        assert.equal(cpu.load(addVirt(buffer, 9), 1), 0x42);
        assert.equal(cpu.load(addVirt(buffer, 10), 1), 0);
        assert.deepEqual(faults(), [FAULT_USER_PAGE, FAULT_FIXED_UP, FAULT_FIXED_UP]);
        kfree(buffer);
      });
    });
  },
);

onEveryMachine("after munmap the copy faults again, and fails (S8)", (machine) => {
  inKernel(machine, "asi=on", () => {
    withUserMemory(1, (mm) => {
      const buffer = kmalloc(8, GFP_KERNEL);
      assert.equal(copyToUser(BASE, buffer, 8), 0);
      assert.equal(doMunmap(mm, BASE, PAGE), 0);
      assert.equal(copyToUser(BASE, buffer, 8), 8);
      kfree(buffer);
    });
  });
});

onEveryMachine(
  "a kernel access to nothing is an oops that names the address, with ASI on too: it is not tried for ever (S6)",
  (machine) => {
    for (const asi of ["on", "off"]) {
      assert.throws(
        () => inKernel(machine, `asi=${asi}`, () => void cpu.load((-0x3700_0000_0000 + 0x123) as VirtAddr, 1)),
        (error) => error instanceof InvariantError && /kernel oops: page fault at 0xffffc90000000123, error code 0/.test(error.message),
      );
    }
  },
);

onEveryMachine("a write to kernel text is an oops, with ASI on too", (machine) => {
  for (const asi of ["on", "off"]) {
    assert.throws(() => inKernel(machine, `asi=${asi}`, () => cpu.store(-0x7f000000 as VirtAddr, 1, 0x90)), /kernel oops.*error code 3/);
  }
});

/** Runs `body` restricted to the KVM domain of a new mm, relaxed, interrupts off. */
function restricted(body: (mm: MmPtr, secret: PagePtr) => void): void {
  withUserMemory(1, (mm) => {
    const secret = allocPages(GFP_HIGHUSER_MOVABLE, 0);
    const domain = asiInit(mm, ASI_CLASS_KVM);
    assert.ok(!isErr(domain));
    const flags = localIrqSave();
    asiEnter(domain);
    asiRelax();
    assert.equal(asiIsRestricted(), true);
    body(mm, secret);
    asiExit(EXIT_REQUESTED);
    localIrqRestore(flags);
    asiDestroy(domain);
    freePages(secret, 0);
    asiAsyncFreeWork();
  });
}

onEveryMachine("a sensitive access leaves the restricted address space and is tried again, once (spec 2.13)", (machine) => {
  inKernel(machine, "asi=on", ({ faults, exits, warnings }) => {
    restricted((_mm, secret) => {
      cpu.storeWord(addVirt(pageAddress(secret), 16), 0x5ec);
      assert.equal(asiIsRestricted(), false);
      assert.equal(cpu.loadWord(addVirt(pageAddress(secret), 16)), 0x5ec);
      assert.deepEqual(exits(), [pageAddress(secret) + 16]);
      assert.deepEqual(faults(), [FAULT_RETRY_AFTER_ASI]);
      assert.deepEqual(warnings(), []);
    });
  });
});

onEveryMachine(
  "allocating and freeing nonsensitive memory, and looking at kernel tables, needs no exit (test_page_alloc_restricted)",
  (machine) => {
    inKernel(machine, "asi=on", ({ exits }) => {
      restricted((mm) => {
        const GFP_ATOMIC = 0x820;
        const page = allocPages(GFP_ATOMIC, 0);
        cpu.storeWord(pageAddress(page), 1);
        const object = kmalloc(100, GFP_ATOMIC);
        lookupAddress(Mm.at(mm).pgd, object);
        kfree(object);
        freePages(page, 0);
        assert.equal(asiIsRestricted(), true);
        assert.deepEqual(exits(), []);
      });
    });
  },
);

onEveryMachine("a demand fault in kernel mode exits too, whatever it was (spec 2.13)", (machine) => {
  inKernel(machine, "asi=on", ({ faults, exits }) => {
    restricted(() => {
      const buffer = kmalloc(8, 0x820);
      assert.equal(asiIsRestricted(), true);
      assert.equal(copyToUser(BASE, buffer, 8), 0);
      assert.equal(asiIsRestricted(), false);
      assert.deepEqual(exits(), [BASE]);
      assert.deepEqual(faults(), [FAULT_USER_PAGE]);
      kfree(buffer);
    });
  });
});

/** What CPU `target` reads at `address` in its interrupt handler. */
function readOn(target: number, address: VirtAddr): number {
  cpu.storeWord(probeAddress, address);
  cpu.storeWord(probeResult, 0);
  sendIpi(target, IRQ_WORK_VECTOR);
  while (cpu.loadWord(probeResult) === 0) cpu.pause();
  return cpu.loadWord(probeResult) - 1;
}

for (const asi of ["on", "off"]) {
  onEveryMachine(
    `a kernel page that changes its frame is stale on another CPU until the shootdown, and not after it (S8, asi=${asi})`,
    (machine) => {
      inKernel(
        machine,
        `asi=${asi}`,
        () => {
          assert.equal(cpu.id, cpuId(0));
          const address = vmalloc(PAGE);
          cpu.storeWord(address, 1);
          const next = allocPages(GFP_KERNEL, 0);
          cpu.storeWord(pageAddress(next), 2);
          assert.equal(readOn(1, address), 1);
          assert.equal(readOn(2, address), 1);
          const { entry, low } = lookupAddress(Mm.at(initMm).pgd, address);
          const old = { frame: lookupAddress(Mm.at(initMm).pgd, address), flags: low & 0xfff };
          setLeaf(entry, pageToPhys(next), old.flags | PAGE_KERNEL, true);
          assert.equal(readOn(1, address), 1, "the machine keeps what nobody flushed");
          flushTlbKernelRange(address, addVirt(address, PAGE));
          assert.equal(readOn(1, address), 2);
          assert.equal(readOn(2, address), 2);
          assert.equal(cpu.loadWord(address), 2);
          // Put back for vfree().
          cpu.store64(entry, old.frame.low, old.frame.high);
          flushTlbKernelRange(address, addVirt(address, PAGE));
          vfree(address);
          freePages(next, 0);
        },
        3,
      );
    },
  );
}
