import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel, type TraceRecord } from "../../../test/in-kernel.ts";
import { cpu, cr3, type Ptr, pcid } from "../../hardware/index.ts";
import { buildCr3, getCurrentCr3Fast } from "../mm/cr3.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { loadedMmAsid } from "../mm/tlb-struct.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import {
  EXIT_REQUESTED,
  FLUSH_CONTROL,
  FLUSH_DATA,
  TRACE_ASI_ENTER,
  TRACE_ASI_ENTER_NOOP,
  TRACE_FLUSH,
  TRACE_WARN,
  WARN_ENTER_TWICE,
  WARN_EXIT_IN_CRITICAL,
} from "../trace.ts";
import { asiInitClass } from "./asi-class.ts";
import { asiDestroy, asiInit } from "./asi-domain.ts";
import { asiTaints, currAsi, staticPolicy } from "./asi-state.ts";
import {
  ASI_CLASS_KVM,
  ASI_CLASS_USERSPACE,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_GUEST_DATA,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_CONTROL,
  ASI_TAINT_USER_DATA,
  Asi,
  AsiTaintPolicy,
} from "./asi-struct.ts";
import { asiEnter, asiExit, asiHandleSwitchMm, asiRelax, asiReturnToUserWithoutDomain } from "./asi-transition.ts";

/** Runs `body` with the KVM domain of a fresh mm that is loaded. */
function withKvmDomain(body: (domain: Ptr<"asi">, mm: MmPtr) => void): void {
  const mm = mmAlloc();
  kthreadUseMm(mm);
  const domain = asiInit(mm, ASI_CLASS_KVM) as Ptr<"asi">;
  body(domain, mm);
  asiExit(EXIT_REQUESTED);
  asiDestroy(domain);
  kthreadUnuseMm();
  mmput(mm);
}

function flushesOf(events: readonly TraceRecord[], kind: number): number {
  return events.filter(([event, flushed]) => event === TRACE_FLUSH && flushed === kind).length;
}

test("CR3 follows the domain: its root and PCID inside, the mm's own outside; __get_current_cr3_fast() agrees (spec 2.3, 2.4, 2.8)", () => {
  inKernel(() => {
    withKvmDomain((domain, mm) => {
      const asid = loadedMmAsid.get();
      asiEnter(domain);
      assert.equal(cpu.readCr3(), cr3(Asi.at(domain).pgd, pcid((asid + 1) | 0x200)));
      assert.equal(getCurrentCr3Fast(), cpu.readCr3());
      asiRelax();
      asiExit(EXIT_REQUESTED);
      assert.equal(cpu.readCr3(), buildCr3(Mm.at(mm).pgd, asid));
      assert.equal(getCurrentCr3Fast(), cpu.readCr3());
      assert.equal(currAsi.get(), 0);
    });
  });
});

test("re-entering the current domain owes nothing (spec 2.3, step 2)", () => {
  inKernel((events) => {
    withKvmDomain((domain) => {
      asiEnter(domain);
      asiRelax();
      const before = events.length;
      const taints = asiTaints.get();
      asiEnter(domain);
      asiRelax();
      assert.equal(events.slice(before).filter(([event]) => event === TRACE_FLUSH || event === TRACE_ASI_ENTER).length, 0);
      assert.equal(events.slice(before).filter(([event]) => event === TRACE_ASI_ENTER_NOOP).length, 1);
      assert.equal(asiTaints.get(), taints);
    });
  });
});

test("entering after the kernel ran unrestricted flushes data; leaving after a guest flushes control (spec 2.5)", () => {
  inKernel((events) => {
    withKvmDomain((domain) => {
      assert.equal(asiTaints.get() & ASI_TAINT_KERNEL_DATA, ASI_TAINT_KERNEL_DATA);
      const [control, data] = [flushesOf(events, FLUSH_CONTROL), flushesOf(events, FLUSH_DATA)];
      asiEnter(domain);
      assert.equal(flushesOf(events, FLUSH_DATA) - data, 1);
      assert.equal(flushesOf(events, FLUSH_CONTROL) - control, 0);
      assert.equal(asiTaints.get(), ASI_TAINT_GUEST_DATA | ASI_TAINT_GUEST_CONTROL);
      asiRelax();
      asiExit(EXIT_REQUESTED);
      assert.equal(flushesOf(events, FLUSH_CONTROL) - control, 1);
      assert.equal(asiTaints.get(), ASI_TAINT_GUEST_DATA | ASI_TAINT_KERNEL_DATA);
    });
  });
});

const policy = staticPolicy("asi_transition_test_policy");
/** The class for processes is free for tests. */
const NO_USER_CLASS = { commandLine: "asi=on asi_userspace=off" } as const;

test("a data flush clears every data taint; as posted it leaves GUEST_DATA (spec 8)", () => {
  const taintsAfterEnter = (): number => {
    const view = AsiTaintPolicy.at(policy);
    view.preventControl = 0;
    view.protectData = ASI_TAINT_KERNEL_DATA;
    view.set = 0;
    asiInitClass(ASI_CLASS_USERSPACE, policy);
    const mm = mmAlloc();
    kthreadUseMm(mm);
    const domain = asiInit(mm, ASI_CLASS_USERSPACE) as Ptr<"asi">;
    asiTaints.set(ASI_TAINT_KERNEL_DATA | ASI_TAINT_USER_DATA | ASI_TAINT_GUEST_DATA | ASI_TAINT_OTHER_MM_DATA);
    asiEnter(domain);
    const taints = asiTaints.get();
    asiRelax();
    asiExit(EXIT_REQUESTED);
    asiDestroy(domain);
    kthreadUnuseMm();
    mmput(mm);
    return taints;
  };
  assert.equal(inKernel(taintsAfterEnter, NO_USER_CLASS).result, 0);
  assert.equal(inKernel(taintsAfterEnter, { ...NO_USER_CLASS, preset: "rfc-v2" }).result, ASI_TAINT_GUEST_DATA);
});

test("a switch of mm turns what this mm left into another's, and keeps what the kernel left (spec 2.6)", () => {
  inKernel(() => {
    const after = (taints: number): number => {
      asiTaints.set(taints);
      asiHandleSwitchMm();
      return asiTaints.get();
    };
    assert.equal(after(0), 0);
    assert.equal(after(ASI_TAINT_GUEST_CONTROL), ASI_TAINT_OTHER_MM_CONTROL);
    assert.equal(after(ASI_TAINT_GUEST_DATA), ASI_TAINT_OTHER_MM_DATA);
    assert.equal(after(ASI_TAINT_USER_CONTROL | ASI_TAINT_USER_DATA), ASI_TAINT_OTHER_MM_CONTROL | ASI_TAINT_OTHER_MM_DATA);
    assert.equal(after(ASI_TAINT_KERNEL_DATA), ASI_TAINT_KERNEL_DATA | ASI_TAINT_OTHER_MM_DATA);
    assert.equal(after(ASI_TAINT_OTHER_MM_CONTROL), ASI_TAINT_OTHER_MM_CONTROL);
    asiTaints.set(ASI_TAINT_KERNEL_DATA);
  });
});

test("loading another mm does so: what a guest of the last one left is another mm's (patch 3)", () => {
  inKernel(() => {
    withKvmDomain((domain, mm) => {
      const other = mmAlloc();
      asiEnter(domain);
      asiRelax();
      kthreadUnuseMm();
      kthreadUseMm(other);
      assert.equal(asiTaints.get() & ASI_TAINT_GUEST_DATA, 0);
      assert.equal(asiTaints.get() & ASI_TAINT_OTHER_MM_DATA, ASI_TAINT_OTHER_MM_DATA);
      kthreadUnuseMm();
      mmput(other);
      kthreadUseMm(mm);
    });
  });
});

test("user code without a domain leaves user taints; as posted it leaves none (spec 2.5)", () => {
  const taints = (): number => {
    asiTaints.set(ASI_TAINT_KERNEL_DATA);
    asiReturnToUserWithoutDomain();
    return asiTaints.get();
  };
  assert.equal(inKernel(taints).result, ASI_TAINT_KERNEL_DATA | ASI_TAINT_USER_CONTROL | ASI_TAINT_USER_DATA);
  assert.equal(inKernel(taints, { preset: "rfc-v2" }).result, ASI_TAINT_KERNEL_DATA);
});

test("an enter without a relax before it, and an exit inside a critical section, are reported (spec 2.3, 2.4)", () => {
  const { told } = inKernel(() => {
    withKvmDomain((domain) => {
      asiEnter(domain);
      asiEnter(domain);
      asiExit(EXIT_REQUESTED);
      asiRelax();
    });
  });
  assert.deepEqual(
    told.events.filter(([event]) => event === TRACE_WARN).map(([, warning]) => warning),
    [WARN_ENTER_TWICE, WARN_EXIT_IN_CRITICAL],
  );
});

test("without L1TF no flush of L1D is made ready, and the taints are kept all the same (patch 27; clx)", () => {
  inKernel(
    (events) => {
      withKvmDomain((domain) => {
        const before = flushesOf(events, FLUSH_DATA);
        asiEnter(domain);
        assert.equal(flushesOf(events, FLUSH_DATA) - before, 1);
        asiRelax();
      });
    },
    { model: "clx" },
  );
});
