import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel } from "../../../test/in-kernel.ts";
import { withMm } from "../../../test/mm-fixture.ts";
import { EEXIST, EINVAL } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, PTE_PRESENT, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { ESPFIX_BASE_ADDR } from "../entry/espfix-layout.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { VMALLOC_START, VMEMMAP_START, va } from "../mm/layout.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { freePages, getFreePages, nrFreePages } from "../mm/page-alloc.ts";
import { entryAt } from "../mm/page-table.ts";
import { kfree, kzalloc } from "../mm/slab.ts";
import { vfree, vmalloc } from "../mm/vmalloc.ts";
import { KERNEL_TEXT_BASE } from "../static-data.ts";
import { TRACE_WARN, WARN_INIT_NO_CLASS, WARN_POLICY } from "../trace.ts";
import { asiClassInitialized, asiInitClass, asiUninitClass } from "./asi-class.ts";
import { asiDestroy, asiInit, asiInitOwn } from "./asi-domain.ts";
import { frameIn } from "./asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiTaints, currAsi, staticPolicy } from "./asi-state.ts";
import { ASI_CLASS_KVM, ASI_CLASS_USERSPACE, ASI_TAINT_KERNEL_DATA, ASI_TAINT_USER_CONTROL, Asi, AsiTaintPolicy } from "./asi-struct.ts";

const policy = staticPolicy("asi_domain_test_policy");
/** The class for processes is free for tests. */
const NO_USER_CLASS = { commandLine: "asi=on asi_userspace=off" } as const;

test("a domain is shared by all who ask, and goes with the last (spec 2.2)", () => {
  inKernel(() => {
    const mm = mmAlloc();
    const first = asiInit(mm, ASI_CLASS_KVM);
    assert.equal(asiInit(mm, ASI_CLASS_KVM), first);
    const domain = first as Ptr<"asi">;
    assert.equal(domain, Mm.at(mm).asi.address(ASI_CLASS_KVM));
    const asi = Asi.at(domain);
    assert.deepEqual([asi.refCount, asi.mm, asi.classId], [2, mm, ASI_CLASS_KVM]);
    asiDestroy(domain);
    assert.equal(asi.refCount, 1);
    assert.notEqual(asi.pgd, 0);
    asiDestroy(domain);
    assert.deepEqual([asi.refCount, asi.pgd, asi.mm], [0, 0, NULL]);
    mmput(mm);
  });
});

test("a domain maps what the global nonsensitive tables map, to the same frames, and no user half (spec 2.2, 2.10)", () => {
  inKernel(() => {
    const mm = mmAlloc();
    const asi = Asi.at(asiInit(mm, ASI_CLASS_KVM) as Ptr<"asi">);
    const global = Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd;
    // What an IRET to a 16-bit stack goes through, the page array, and the text.
    const shared = [ESPFIX_BASE_ADDR, VMEMMAP_START, KERNEL_TEXT_BASE];
    for (const probe of [asiTaints.here(), currAsi.here(), mm, ASI_GLOBAL_NONSENSITIVE, ...shared]) {
      const frame = frameIn(Mm.at(mm).pgd, probe);
      assert.notEqual(frame, undefined);
      assert.notEqual(frameIn(asi.pgd, probe), undefined);
      assert.equal(frameIn(asi.pgd, probe), frameIn(global, probe));
    }
    asiDestroy(asi.address as Ptr<"asi">);
    mmput(mm);
  });
});

test("what becomes nonsensitive later is in the domains that are there: the tables below their roots are shared since boot (patch 12)", () => {
  withMm(
    () => {
      const root = Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd;
      // A domain is a copy of that root: nobody has used vmalloc space yet.
      const before = cpu.load64(entryAt(va(root), VMALLOC_START, 4));
      assert.notEqual(before & PTE_PRESENT, 0);
      const address = vmalloc(PAGE_SIZE);
      assert.notEqual(frameIn(root, address), undefined);
      assert.equal(cpu.load64(entryAt(va(root), VMALLOC_START, 4)), before);
      vfree(address);
    },
    { asi: true },
  );
});

test("a class that is not initialised has no domains (spec 2.2)", () => {
  const { told } = inKernel(() => {
    const mm = mmAlloc();
    assert.equal(asiInit(mm, ASI_CLASS_USERSPACE), EINVAL);
    mmput(mm);
  }, NO_USER_CLASS);
  assert.deepEqual(
    told.events.filter(([event]) => event === TRACE_WARN).map(([, warning]) => warning),
    [WARN_INIT_NO_CLASS],
  );
});

test("a class is initialised once, and again after it was given up (spec 2.1)", () => {
  inKernel(() => {
    AsiTaintPolicy.at(policy).protectData = ASI_TAINT_KERNEL_DATA;
    assert.equal(asiInitClass(ASI_CLASS_USERSPACE, policy), 0);
    assert.equal(asiInitClass(ASI_CLASS_USERSPACE, policy), EEXIST);
    asiUninitClass(ASI_CLASS_USERSPACE);
    assert.equal(asiInitClass(ASI_CLASS_USERSPACE, policy), 0);
    asiUninitClass(ASI_CLASS_USERSPACE);
  }, NO_USER_CLASS);
});

/** Initialises the class for processes with such a policy. @returns the error, and whether the class is there then. */
function initialise(protectData: number, preventControl: number): readonly [number, boolean] {
  const view = AsiTaintPolicy.at(policy);
  view.protectData = protectData;
  view.preventControl = preventControl;
  const error = asiInitClass(ASI_CLASS_USERSPACE, policy);
  const isThere = asiClassInitialized(ASI_CLASS_USERSPACE);
  asiUninitClass(ASI_CLASS_USERSPACE);
  return [error, isThere];
}

function policyWarnings(events: readonly (readonly number[])[]): number {
  return events.filter(([event, warning]) => event === TRACE_WARN && warning === WARN_POLICY).length;
}

test("a policy with a bit outside its mask, in either field, is refused and leaves no class (spec 2.1)", () => {
  const { result, told } = inKernel(
    () => [
      initialise(ASI_TAINT_USER_CONTROL, ASI_TAINT_USER_CONTROL),
      initialise(ASI_TAINT_KERNEL_DATA, ASI_TAINT_KERNEL_DATA),
      initialise(0, ASI_TAINT_USER_CONTROL),
      initialise(ASI_TAINT_KERNEL_DATA, 0),
    ],
    NO_USER_CLASS,
  );
  assert.deepEqual(result, [
    [EINVAL, false],
    [EINVAL, false],
    [0, true],
    [0, true],
  ]);
  assert.equal(policyWarnings(told.events), 2);
});

test("as posted only an empty field is warned of, and nothing refused (spec 2.1)", () => {
  const posted = { ...NO_USER_CLASS, preset: "rfc-v2" } as const;
  const wrong = inKernel(() => initialise(ASI_TAINT_USER_CONTROL | ASI_TAINT_KERNEL_DATA, ASI_TAINT_USER_CONTROL), posted);
  assert.deepEqual([wrong.result, policyWarnings(wrong.told.events)], [[0, true], 0]);
  const noData = inKernel(() => initialise(0, ASI_TAINT_USER_CONTROL), posted);
  assert.deepEqual([noData.result, policyWarnings(noData.told.events)], [[0, true], 1]);
  const noControl = inKernel(() => initialise(ASI_TAINT_KERNEL_DATA, 0), posted);
  assert.deepEqual([noControl.result, policyWarnings(noControl.told.events)], [[0, true], 1]);
});

test("with ASI off a class is never there, and may be initialised as often as anybody likes (spec 2.1)", () => {
  inKernel(
    () => {
      assert.deepEqual(initialise(ASI_TAINT_KERNEL_DATA, 0), [0, false]);
      assert.equal(asiInitClass(ASI_CLASS_USERSPACE, policy), 0);
      assert.equal(asiInitClass(ASI_CLASS_USERSPACE, policy), 0);
    },
    { commandLine: "asi=off" },
  );
});

test("a domain in a record of its own needs an initialised class too (domain_per_vm)", () => {
  const { told } = inKernel(() => {
    const mm = mmAlloc();
    const record = kzalloc(Asi.bytes, GFP_KERNEL) as Ptr<"asi">;
    assert.equal(asiInitOwn(record, mm, ASI_CLASS_USERSPACE), EINVAL);
    assert.deepEqual([Asi.at(record).pgd, Asi.at(record).refCount], [0, 0]);
    kfree(record);
    mmput(mm);
  }, NO_USER_CLASS);
  assert.deepEqual(
    told.events.filter(([event]) => event === TRACE_WARN).map(([, warning]) => warning),
    [WARN_INIT_NO_CLASS],
  );
});

test("the root of a domain is one page, two as posted, and its user half is empty whatever was in that page (spec 2.2)", () => {
  for (const [preset, pages] of [
    ["cordon", 1],
    ["rfc-v2", 2],
  ] as const) {
    inKernel(
      () => {
        const mm = mmAlloc();
        const dirty = Array.from({ length: 8 }, () => getFreePages(GFP_KERNEL, pages - 1));
        for (const page of dirty) cpu.fill(page as VirtAddr, 0xff, pages * PAGE_SIZE);
        for (const page of dirty) freePages(page as VirtAddr, pages - 1);
        const before = nrFreePages();
        const asi = Asi.at(asiInit(mm, ASI_CLASS_KVM) as Ptr<"asi">);
        assert.equal(before - nrFreePages(), pages, preset);
        for (let at = 0; at < PAGE_SIZE / 2; at += 8) assert.equal(cpu.loadWord(addVirt(va(asi.pgd), at)), 0);
        asiDestroy(asi.address as Ptr<"asi">);
        mmput(mm);
      },
      { preset },
    );
  }
});

test("every domain has a number of its own: what a TLB still holds of another one is not this one's (noflush)", () => {
  inKernel(() => {
    const [mm, other] = [mmAlloc(), mmAlloc()];
    const numberOf = (of: MmPtr): number => Asi.at(asiInit(of, ASI_CLASS_KVM) as Ptr<"asi">).id;
    const first = numberOf(mm);
    const second = numberOf(other);
    assert.notEqual(first, 0);
    assert.equal(second, first + 1);
    asiDestroy(Mm.at(mm).asi.address(ASI_CLASS_KVM) as Ptr<"asi">);
    assert.equal(numberOf(mm), second + 1);
    for (const of of [mm, other]) {
      asiDestroy(Mm.at(of).asi.address(ASI_CLASS_KVM) as Ptr<"asi">);
      mmput(of);
    }
  });
});

test("with ASI off there are no domains, and everything tolerates that (spec 2.2)", () => {
  inKernel(
    () => {
      const mm = mmAlloc();
      assert.equal(asiInit(mm, ASI_CLASS_KVM), NULL);
      asiDestroy(NULL);
      mmput(mm);
    },
    { commandLine: "asi=off" },
  );
});
