// The class for processes: what a domain's user half maps, when a process is in its domain, and what is undone when there is none.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inKernel, type TraceRecord } from "../../../test/in-kernel.ts";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE, SYS } from "../../abi/index.ts";
import { cpu, NULL, PAGE_SIZE, type PhysAddr, type Ptr, PUPPET_STATE, type Puppet, type VirtAddr, virtAddr } from "../../hardware/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { failAlloc } from "../mm/fail-alloc.ts";
import { va } from "../mm/layout.ts";
import { mmAlloc, mmdrop, mmgrab, mmput } from "../mm/mm.ts";
import { Mm, type MmPtr } from "../mm/mm-struct.ts";
import { doMmap } from "../mm/mmap.ts";
import { asiAsyncFreeWork, nrFreePages } from "../mm/page-alloc.ts";
import { entryAt } from "../mm/page-table.ts";
import { getUserPage } from "../mm/user-memory.ts";
import {
  EXIT_REASONS,
  TRACE_ASI_ENTER,
  TRACE_ASI_ENTER_NOOP,
  TRACE_ASI_EXIT,
  TRACE_ASI_RELAX,
  TRACE_PROCESS_EXIT,
  TRACE_SYSCALL,
  TRACE_USER_RETURN,
  TRACE_WARN,
} from "../trace.ts";
import { asiInitClass } from "./asi-class.ts";
import { asiDestroy, asiInit } from "./asi-domain.ts";
import { asiClassPolicy, asiTaints, staticPolicy } from "./asi-state.ts";
import {
  ASI_CLASS_KVM,
  ASI_CLASS_USERSPACE,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_CONTROL,
  ASI_TAINT_USER_DATA,
  type AsiClassId,
  AsiTaintPolicy,
} from "./asi-struct.ts";

const latePolicy = staticPolicy("asi_user_test_policy");
const ADDRESS = virtAddr(0x5555_0000_0000);

function userEntry(root: PhysAddr, address: VirtAddr): number {
  const low = cpu.load64(entryAt(va(root), address, 4));
  return low + cpu.high * 2 ** 32;
}

function domainRoot(mm: MmPtr, id: AsiClassId): PhysAddr {
  return Mm.at(mm).asi.get(id).pgd;
}

function mapPage(mm: MmPtr): void {
  const at = doMmap(mm, ADDRESS, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0);
  assert.equal(at, ADDRESS);
  assert.ok(!isErr(getUserPage(mm, ADDRESS, true)));
}

test("asi_init_userspace_class(): protects the kernel's and others' data, refuses guests' and others' training, leaves its own (spec 2.5)", () => {
  inKernel(() => {
    const { protectData, preventControl, set } = AsiTaintPolicy.at(asiClassPolicy(ASI_CLASS_USERSPACE));
    assert.equal(protectData, ASI_TAINT_KERNEL_DATA | ASI_TAINT_OTHER_MM_DATA);
    assert.equal(preventControl, ASI_TAINT_GUEST_CONTROL | ASI_TAINT_OTHER_MM_CONTROL);
    assert.equal(set, ASI_TAINT_USER_CONTROL | ASI_TAINT_USER_DATA);
  });
});

test("asi_clone_user_pgtbl(): a root entry of the user half appears in the process's domain when it is made, in no KVM domain, and goes with it (patch 24)", () => {
  inKernel(() => {
    const mm = mmAlloc();
    const kvm = asiInit(mm, ASI_CLASS_KVM);
    assert.ok(!isErr(kvm));
    const own = Mm.at(mm).pgd;
    const user = domainRoot(mm, ASI_CLASS_USERSPACE);
    assert.notEqual(user, 0);
    assert.equal(userEntry(user, ADDRESS), 0);
    mapPage(mm);
    assert.notEqual(userEntry(own, ADDRESS), 0);
    assert.equal(userEntry(user, ADDRESS), userEntry(own, ADDRESS));
    assert.equal(userEntry(domainRoot(mm, ASI_CLASS_KVM), ADDRESS), 0);
    mmgrab(mm);
    mmput(mm);
    assert.equal(userEntry(own, ADDRESS), 0);
    assert.equal(userEntry(user, ADDRESS), 0, "no entry of a table that is freed is left");
    Mm.at(mm).asi.get(ASI_CLASS_KVM).refCount = 0;
    mmdrop(mm);
  });
});

test("__asi_init_user_pgds(): a domain that is made late has what its process has mapped by then (patch 24)", () => {
  inKernel(
    () => {
      const mm = mmAlloc();
      mapPage(mm);
      AsiTaintPolicy.at(latePolicy).protectData = ASI_TAINT_KERNEL_DATA;
      assert.equal(asiInitClass(ASI_CLASS_USERSPACE, latePolicy), 0);
      const domain = asiInit(mm, ASI_CLASS_USERSPACE);
      assert.ok(!isErr(domain));
      assert.equal(userEntry(domainRoot(mm, ASI_CLASS_USERSPACE), ADDRESS), userEntry(Mm.at(mm).pgd, ADDRESS));
      asiDestroy(domain as Ptr<"asi">); // not an error
      mmput(mm);
    },
    { commandLine: "asi=on asi_userspace=off" },
  );
});

test("an mm without memory for its domain is not made, and nothing of it is left (asi_init_mm_state(), patch 25)", () => {
  inKernel(() => {
    mmput(mmAlloc());
    failAlloc.arm(1000);
    mmput(mmAlloc());
    const attempts = failAlloc.attempts();
    failAlloc.disarm();
    asiAsyncFreeWork();
    const free = nrFreePages();
    for (let nth = 1; nth <= attempts; nth++) {
      failAlloc.arm(nth);
      const mm = mmAlloc();
      const failed = failAlloc.failed();
      failAlloc.disarm();
      assert.equal(failed, 1);
      if (mm === NULL) continue;
      // An attempt that has another way, like an optional mapping.
      assert.notEqual(domainRoot(mm, ASI_CLASS_USERSPACE), 0);
      mmput(mm);
    }
    asiAsyncFreeWork();
    assert.equal(nrFreePages(), free);
  });
});

/** Makes `count` system calls, touches its memory in between, and exits. */
const CALLS = 5;
/** Far more than a run has; a process whose memory never comes faults for ever. */
const EVENTS = 20_000;
const caller: Puppet = ({ state }) => {
  const at = state.getUint32(0);
  state.setUint32(0, at + 1);
  if (at >= 2 * CALLS) return { kind: "syscall", number: SYS.exit, args: [0] };
  return at % 2 === 0 ? { kind: "touch", address: PUPPET_STATE, count: 2 } : { kind: "syscall", number: SYS.sched_yield, args: [] };
};

function runCaller(machine: MachineName, commandLine: string): readonly TraceRecord[] {
  const image = buildKernelImage({
    preset: "cordon",
    processes: [{ name: "caller", puppet: "caller" }],
    puppets: new Map([["caller", caller]]),
  });
  const { events } = runKernel(machine, image, {
    commandLine,
    until: (seen) => seen.length > EVENTS || seen.some(([event]) => event === TRACE_PROCESS_EXIT),
  });
  assert.ok(events.length <= EVENTS, "the process gets on");
  assert.deepEqual(
    events.filter(([event]) => event === TRACE_WARN),
    [],
  );
  return events;
}

for (const machine of MACHINES) {
  test(`a process is entered into its domain once, and its system calls are served there: relax first, enter last (patch 25; ${machine})`, () => {
    const events = runCaller(machine, "asi=on");
    const first = events.findIndex(([event]) => event === TRACE_SYSCALL);
    const last = events.findLastIndex(([event]) => event === TRACE_SYSCALL);
    const between = events.slice(first - 1, last - 1).map(([event]) => event);
    const count = (event: number): number => between.filter((one) => one === event).length;
    assert.equal(count(TRACE_SYSCALL), CALLS);
    assert.equal(count(TRACE_ASI_RELAX), CALLS);
    assert.equal(count(TRACE_ASI_ENTER_NOOP), CALLS);
    assert.equal(count(TRACE_ASI_EXIT), 0, "sched_yield() with nobody to yield to touches nothing sensitive");
    assert.equal(between[0], TRACE_ASI_RELAX, "before anything else of the call");
    for (const [i, event] of between.entries()) {
      if (event === TRACE_USER_RETURN) assert.equal(between[i + 1], TRACE_ASI_ENTER_NOOP, "the last act");
    }
  });
}

test("asi_userspace=off: processes run on their own tables, and their traces are remembered all the same", () => {
  const events = runCaller("residue", "asi=on asi_userspace=off");
  assert.equal(events.filter(([event]) => event === TRACE_ASI_ENTER).length, 0);
  inKernel(
    () => {
      const mm = mmAlloc();
      assert.equal(domainRoot(mm, ASI_CLASS_USERSPACE), 0);
      assert.equal(asiClassPolicy(ASI_CLASS_USERSPACE), NULL);
      assert.notEqual(asiTaints.get(), 0);
      mmput(mm);
    },
    { commandLine: "asi=on asi_userspace=off" },
  );
});

test("a process that exits leaves its domain for the next mm's switch, and the domain goes with the mm", () => {
  const events = runCaller("residue", "asi=on");
  const reasons = events.filter(([event]) => event === TRACE_ASI_EXIT).map(([, reason]) => EXIT_REASONS[reason] ?? "?");
  assert.ok(!reasons.includes("domain destroyed"), "nobody is in a domain when its mm goes");
});
