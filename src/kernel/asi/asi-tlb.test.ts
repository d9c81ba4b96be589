// Option noflush: what a transition keeps must be right (S8). A page is made to map another frame while the CPU is in one address space, and
// read in the other, which has seen it before; on machines whose TLB would give the old frame.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { isErr } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, type PhysAddr, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { initMm, Mm, type MmPtr } from "../mm/mm-struct.ts";
import { allocPages, freePages } from "../mm/page-alloc.ts";
import { pageAddress, pageToPhys } from "../mm/page-struct.ts";
import { lookupAddress, PAGE_KERNEL, setLeaf } from "../mm/page-table.ts";
import { flushTlbKernelRange } from "../mm/tlb.ts";
import { vfree, vmMapRam } from "../mm/vmalloc.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { EXIT_REQUESTED, TRACE_TLB_KEPT } from "../trace.ts";
import { asiDestroy, asiInit } from "./asi-domain.ts";
import { asiMap, asiUnmap } from "./asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE } from "./asi-state.ts";
import { ASI_CLASS_KVM, Asi } from "./asi-struct.ts";
import { asiEnter, asiExit, asiRelax } from "./asi-transition.ts";

const OLD = 0x1111;
const NEW = 0x2222;

/** Runs `body` at the end of a boot. */
function onMachine(machine: MachineName, options: string, body: (events: TraceRecord[]) => void): void {
  const events: TraceRecord[] = [];
  let hasRun = false;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      body(events);
      hasRun = true;
    },
  });
  runKernel(machine, image, { commandLine: `asi=on ${options}`, events });
  assert.ok(hasRun, "the case ran to its end");
}

function kept(events: readonly TraceRecord[]): number {
  return events.filter(([event]) => event === TRACE_TLB_KEPT).length;
}

interface Scene {
  readonly page: VirtAddr;
  readonly mm: MmPtr;
  readonly domain: Ptr<"asi">;
  /** From here on the page's address is that of another frame, and every TLB was told. */
  remap(): void;
  /** Reads the page in the domain, and comes back. */
  inside(): number;
}

function enterAndLeave(domain: Ptr<"asi">, body: () => void): void {
  asiEnter(domain);
  asiRelax();
  body();
  asiExit(EXIT_REQUESTED);
}

function newDomain(mm: MmPtr): Ptr<"asi"> {
  const domain = asiInit(mm, ASI_CLASS_KVM);
  assert.ok(!isErr(domain) && domain !== NULL);
  return domain;
}

/** A kernel page, mapped in every domain, and a domain in which it was read. */
function withScene(body: (scene: Scene) => void): void {
  const pages = [allocPages(GFP_KERNEL, 0), allocPages(GFP_KERNEL, 0)] as const;
  cpu.store(pageAddress(pages[0]), 4, OLD);
  cpu.store(pageAddress(pages[1]), 4, NEW);
  const page = vmMapRam([pages[0]]);
  assert.notEqual(page, NULL);
  assert.equal(asiMap(ASI_GLOBAL_NONSENSITIVE, page, PAGE_SIZE), 0);
  const mm = mmAlloc();
  kthreadUseMm(mm);
  const domain = newDomain(mm);
  const point = (root: PhysAddr, frame: PhysAddr): void => setLeaf(lookupAddress(root, page).entry, frame, PAGE_KERNEL, true);
  const pointBoth = (frame: PhysAddr): void => {
    point(Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd, frame);
    point(Mm.at(initMm).pgd, frame);
    flushTlbKernelRange(page, addVirt(page, PAGE_SIZE));
  };
  body({
    page,
    mm,
    domain,
    remap: () => pointBoth(pageToPhys(pages[1])),
    inside: () => {
      let value = 0;
      enterAndLeave(domain, () => {
        value = cpu.load(page, 4);
      });
      return value;
    },
  });
  asiExit(EXIT_REQUESTED);
  pointBoth(pageToPhys(pages[0]));
  asiUnmap(ASI_GLOBAL_NONSENSITIVE, page, PAGE_SIZE);
  vfree(page);
  asiDestroy(domain);
  kthreadUnuseMm();
  mmput(mm);
  for (const one of pages) freePages(one, 0);
}

for (const machine of MACHINES) {
  test(`noflush: a transition to where the CPU was before keeps translations, without the option none does (${machine})`, () => {
    onMachine(machine, "cordon.noflush=on", (events) => {
      withScene(({ inside }) => {
        inside();
        const before = kept(events);
        inside();
        assert.equal(kept(events) - before, 2, "in and out");
      });
    });
    onMachine(machine, "cordon.noflush=off", (events) => {
      withScene(({ inside }) => {
        inside();
        inside();
        assert.equal(kept(events), 0);
      });
    });
  });

  test(`noflush: a flush outside the domain reaches what the domain has cached (S8; ${machine})`, () => {
    onMachine(machine, "cordon.noflush=on", () => {
      withScene(({ inside, remap }) => {
        assert.equal(inside(), OLD);
        remap();
        assert.equal(inside(), NEW);
      });
    });
  });

  test(`noflush: a flush inside the domain reaches what the unrestricted tables have cached (S8; ${machine})`, () => {
    onMachine(machine, "cordon.noflush=on", () => {
      withScene(({ page, domain, remap }) => {
        assert.equal(cpu.load(page, 4), OLD);
        enterAndLeave(domain, () => {
          assert.equal(cpu.load(page, 4), OLD);
          remap();
          assert.equal(cpu.load(page, 4), NEW);
        });
        assert.equal(cpu.load(page, 4), NEW);
      });
    });
  });

  test(`noflush: another mm's domain under the same ASID, and another domain of the mm, begin empty (S8; ${machine})`, () => {
    onMachine(machine, "cordon.noflush=on", (events) => {
      withScene(({ mm, domain, inside }) => {
        inside();
        inside();
        // Made anew it is another domain, at the same address and with the same identifier.
        asiDestroy(domain);
        assert.equal(newDomain(mm), domain);
        const before = kept(events);
        enterAndLeave(domain, () => undefined);
        assert.equal(kept(events) - before, 1, "only the way out keeps");
        // Seven more mm's take every ASID.
        const others = Array.from({ length: 7 }, () => mmAlloc());
        for (const other of others) {
          kthreadUnuseMm();
          kthreadUseMm(other);
          const theirs = newDomain(other);
          const count = kept(events);
          enterAndLeave(theirs, () => undefined);
          assert.equal(kept(events) - count, 1, "a domain that was never entered here begins empty");
          asiDestroy(theirs);
        }
        kthreadUnuseMm();
        kthreadUseMm(mm);
        const last = kept(events);
        enterAndLeave(domain, () => undefined);
        assert.equal(kept(events) - last, 1, "its ASID was lost");
        kthreadUnuseMm();
        for (const other of others) mmput(other);
        kthreadUseMm(mm);
      });
    });
  });
}
