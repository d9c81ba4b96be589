// Who touches CR3 from C, and how (spec 2.11, patches 1, 7, 8, 19, 22, 23).
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { isErr } from "../../abi/index.ts";
import { cpu, cr3Root, type Ptr } from "../../hardware/index.ts";
import { asiDestroy, asiInit } from "../asi/asi-domain.ts";
import { currAsi } from "../asi/asi-state.ts";
import { asiExitTotal } from "../asi/asi-stats.ts";
import { ASI_CLASS_KVM, ASI_CLASS_USERSPACE, Asi, type AsiClassId } from "../asi/asi-struct.ts";
import { asiSuspend } from "../asi/asi-suspend.ts";
import { asiEnter, asiExit, asiIsRestricted, asiRelax } from "../asi/asi-transition.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import {
  EXIT_CR3_ACCESS,
  EXIT_REQUESTED,
  EXIT_SUSPEND,
  EXIT_SWITCH_MM,
  EXIT_TLB_FLUSH,
  TRACE_ASI_FAULT,
  TRACE_PAGE_FAULT,
  TRACE_WARN,
  WARN_FLUSH_IN_CRITICAL,
} from "../trace.ts";
import { nmiUaccessOkay, readCr3, readCr3Raw, writeCr3 } from "./cr3.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { switchMm } from "./switch-mm.ts";
import { flushTlbLocal } from "./tlb.ts";

/** Runs `body` relaxed in a domain of a fresh mm, as the kernel is after a VM exit. */
function restricted(id: AsiClassId, body: (domain: Ptr<"asi">, mm: MmPtr) => void): void {
  const mm = mmAlloc();
  kthreadUseMm(mm);
  const domain = asiInit(mm, id);
  assert.ok(!isErr(domain));
  asiEnter(domain);
  asiRelax();
  body(domain, mm);
  asiExit(EXIT_REQUESTED);
  asiDestroy(domain);
  kthreadUnuseMm();
  mmput(mm);
}

/** Exits because of `reason` that `body` makes. */
function exitsOf(reason: Parameters<typeof asiExitTotal>[0], body: () => void): number {
  const before = asiExitTotal(reason);
  body();
  return asiExitTotal(reason) - before;
}

/**
 * The helpers themselves; and effects of stubs, which are machine code and not C: the switch between the kernel's and the user's tables
 * (PTI, hence without ASI), the way into another kernel and back, the way out of sleep.
 */
const MACHINE_CODE: ReadonlySet<string> = new Set(["mm/cr3.ts", "entry/entry-switches.ts", "power/kexec-stub.ts", "power/suspend-stub.ts"]);

test("only cr3.ts touches CR3, and the raw ways are taken where the specification says", () => {
  const kernel = new URL("../../../../src/kernel/", import.meta.url);
  const raw = new Set<string>();
  for (const name of readdirSync(kernel, { recursive: true, encoding: "utf8" })) {
    if (!name.endsWith(".ts") || name.endsWith(".test.ts")) continue;
    const text = readFileSync(new URL(name, kernel), "utf8");
    if (!MACHINE_CODE.has(name)) assert.doesNotMatch(text, /cpu\.(?:read|write)Cr3\(/, name);
    if (/\b(?:read|write)Cr3Raw\(/.test(text)) raw.add(name);
  }
  // Transitions; a switch of mm, which forbids an exit; the page-fault path; the flush, after its exit; a guess for a VMCS; first tables;
  // what a sleep takes back, before per-CPU variables are there again.
  assert.deepEqual([...raw].sort(), [
    "asi/asi-transition.ts",
    "kvm/vmx/setup.ts",
    "mm/boot-memory.ts",
    "mm/cr3.ts",
    "mm/fault.ts",
    "mm/switch-mm.ts",
    "mm/tlb.ts",
    "power/processor-state.ts",
  ]);
});

test("the ordinary CR3 helpers leave the restricted address space first, the raw ones do not (patch 22)", () => {
  inKernel(() => {
    restricted(ASI_CLASS_KVM, (domain, mm) => {
      const before = readCr3Raw();
      assert.equal(cr3Root(before), Asi.at(domain).pgd);
      assert.ok(asiIsRestricted());
      let seen = before;
      assert.equal(
        exitsOf(EXIT_CR3_ACCESS, () => {
          seen = readCr3();
        }),
        1,
      );
      assert.equal(cr3Root(seen), Mm.at(mm).pgd);
      assert.equal(currAsi.get(), 0);
      asiEnter(domain);
      asiRelax();
      // Read-modify-write as of old: nothing undoes an exit.
      assert.equal(
        exitsOf(EXIT_CR3_ACCESS, () => writeCr3(seen)),
        1,
      );
      assert.equal(readCr3Raw(), seen);
      assert.equal(currAsi.get(), 0);
    });
  });
});

test("switch_mm_irqs_off() leaves first of all, also where the mm stays (patch 19)", () => {
  inKernel(() => {
    restricted(ASI_CLASS_KVM, (_domain, mm) => {
      assert.equal(
        exitsOf(EXIT_SWITCH_MM, () => switchMm(mm, mm, 0 as Ptr<"task_struct">)),
        1,
      );
      assert.ok(!asiIsRestricted());
    });
  });
});

test("a local flush leaves first; inside a critical section it warns and flushes everything instead (patch 20)", () => {
  const { told } = inKernel(() => {
    restricted(ASI_CLASS_KVM, (domain) => {
      assert.equal(exitsOf(EXIT_TLB_FLUSH, flushTlbLocal), 1);
      assert.ok(!asiIsRestricted());
      asiEnter(domain);
      assert.equal(exitsOf(EXIT_TLB_FLUSH, flushTlbLocal), 0);
      assert.ok(asiIsRestricted());
      asiRelax();
    });
  });
  assert.deepEqual(
    told.events.filter(([event]) => event === TRACE_WARN).map(([, warning]) => warning),
    [WARN_FLUSH_IN_CRITICAL],
  );
});

test("the syscore suspend callback leaves (patch 23)", () => {
  inKernel(() => {
    restricted(ASI_CLASS_KVM, () => {
      assert.equal(exitsOf(EXIT_SUSPEND, asiSuspend), 1);
      assert.ok(!asiIsRestricted());
    });
  });
});

test("nmi_uaccess_okay(): yes on the mm's own tables and on its domain's, no on a kernel thread's borrowed ones (patch 8)", () => {
  inKernel(() => {
    assert.ok(!nmiUaccessOkay());
    restricted(ASI_CLASS_USERSPACE, (_domain, mm) => {
      assert.ok(asiIsRestricted() && nmiUaccessOkay());
      asiExit(EXIT_REQUESTED);
      assert.ok(nmiUaccessOkay());
      kthreadUnuseMm();
      assert.ok(!nmiUaccessOkay());
      kthreadUseMm(mm);
      // CR3 is neither: as in the middle of loading another mm's.
      const before = cpu.readCr3();
      currAsi.set(0 as Ptr<"asi">);
      assert.ok(nmiUaccessOkay());
      cpu.writeCr3(before, false);
    });
  });
});

test("what transitions touch is mapped in every domain: none of them faults (noinstr, patch 1)", () => {
  const { told } = inKernel(() => {
    restricted(ASI_CLASS_KVM, (domain) => {
      for (let i = 0; i < 3; i++) {
        asiExit(EXIT_REQUESTED);
        asiEnter(domain);
        asiRelax();
        asiEnter(domain);
        asiRelax();
      }
    });
  });
  assert.deepEqual(
    told.events.filter(([event]) => event === TRACE_PAGE_FAULT || event === TRACE_ASI_FAULT),
    [],
  );
});
