// No translation of a kernel address outlives what took it away (S8; spec 2.9, patch 20), on all machines: not on another CPU, not under
// another address space number, not in the restricted address space nor out of it, with transitions that keep the TLB too.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { isErr } from "../../abi/index.ts";
import { cpu, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { asiDestroy, asiInit } from "../asi/asi-domain.ts";
import { ASI_CLASS_KVM } from "../asi/asi-struct.ts";
import { asiEnter, asiExit, asiRelax } from "../asi/asi-transition.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { sendIpi } from "../entry/ipi.ts";
import { IRQ_WORK_VECTOR } from "../entry/vectors.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { staticBytes } from "../static-data.ts";
import { EXIT_REQUESTED } from "../trace.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { allocPages, freePages } from "./page-alloc.ts";
import { type PagePtr, pageAddress } from "./page-struct.ts";
import { vfree, vmap } from "./vmalloc.ts";

/** Address that the other CPU reads when it is interrupted, what it found, and how often. */
const probe = staticBytes("tlb_kernel_test_probe", 24, 8);
const found = (probe + 8) as VirtAddr;
const count = (probe + 16) as VirtAddr;

function onKernel(machine: MachineName, commandLine: string, cpus: number, body: () => void): void {
  let hasRun = false;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    hooks: {
      irqWork: () => {
        cpu.storeWord(found, cpu.loadWord(cpu.loadWord(probe) as VirtAddr));
        cpu.rmw("add", count, 4, 1);
      },
    },
    lateInitcall: () => {
      body();
      hasRun = true;
    },
  });
  runKernel(machine, image, { commandLine, cpus });
  assert.ok(hasRun);
}

function pageWith(value: number): PagePtr {
  const page = allocPages(GFP_KERNEL, 0);
  cpu.storeWord(pageAddress(page), value);
  return page;
}

/** What CPU 1 reads at `address`. */
function readElsewhere(address: VirtAddr): number {
  cpu.storeWord(probe, address);
  const before = cpu.load(count, 4);
  sendIpi(1, IRQ_WORK_VECTOR);
  for (let i = 0; i < 100_000 && cpu.load(count, 4) === before; i++) cpu.pause();
  assert.equal(cpu.load(count, 4), before + 1, "the other CPU answered");
  return cpu.loadWord(found);
}

for (const machine of MACHINES) {
  for (const asi of ["on", "off"]) {
    test(`an address that vunmap() took away is another page's on every CPU when it is mapped again (asi=${asi}; ${machine})`, () => {
      onKernel(machine, `asi=${asi}`, 2, () => {
        const pages = [pageWith(1), pageWith(2)] as const;
        const first = vmap([pages[0]]);
        assert.deepEqual([cpu.loadWord(first), readElsewhere(first)], [1, 1]);
        vfree(first);
        const second = vmap([pages[1]]);
        assert.equal(second, first);
        assert.deepEqual([cpu.loadWord(second), readElsewhere(second)], [2, 2]);
        vfree(second);
        for (const page of pages) freePages(page, 0);
      });
    });
  }

  for (const noflush of ["off", "on"]) {
    test(`it is so in the restricted address space and out of it, wherever it was flushed (cordon.noflush=${noflush}; ${machine})`, () => {
      onKernel(machine, `asi=on cordon.noflush=${noflush}`, 1, () => {
        const mm = mmAlloc();
        kthreadUseMm(mm);
        const made = asiInit(mm, ASI_CLASS_KVM);
        assert.ok(!isErr(made));
        const domain = made as Ptr<"asi">; // not an error
        const enter = (): void => {
          asiEnter(domain);
          asiRelax();
        };
        const pages = [pageWith(1), pageWith(2)] as const;
        const value = (page: PagePtr): number => (page === pages[0] ? 1 : 2);
        let address = vmap([pages[0]]);
        let current = pages[0];
        for (let round = 0; round < 4; round++) {
          const next = current === pages[0] ? pages[1] : pages[0];
          enter();
          assert.equal(cpu.loadWord(address), value(current), "restricted");
          asiExit(EXIT_REQUESTED);
          assert.equal(cpu.loadWord(address), value(current), "unrestricted");
          // Taken away in the one and in the other in turn: both have it in the TLB.
          if (round % 2 === 0) enter();
          vfree(address);
          const again = vmap([next]);
          assert.equal(again, address);
          assert.equal(cpu.loadWord(again), value(next), `round ${round}: where it was flushed`);
          asiExit(EXIT_REQUESTED);
          assert.equal(cpu.loadWord(again), value(next), `round ${round}: unrestricted`);
          enter();
          assert.equal(cpu.loadWord(again), value(next), `round ${round}: restricted`);
          asiExit(EXIT_REQUESTED);
          address = again;
          current = next;
        }
        vfree(address);
        asiDestroy(domain);
        kthreadUnuseMm();
        mmput(mm);
        for (const page of pages) freePages(page, 0);
      });
    });
  }
}
