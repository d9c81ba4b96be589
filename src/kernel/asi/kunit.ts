// The published KUnit suite "asi", as kernel code: each case runs on the boot CPU at the end of its boot, in the idle task, on whichever
// machine boots the kernel. It expects through the context that it is given; the sensitive byte and the flags that handlers write lie
// in simulated memory, where the handlers find them.
import { isErr } from "../../abi/index.ts";
import {
  addVirt,
  assert,
  cpu,
  fail,
  i32,
  NULL,
  PAGE_SIZE,
  type PhysAddr,
  type Ptr,
  struct,
  u32,
  type VirtAddr,
  virtual,
} from "../../hardware/index.ts";
import { sendIpi, sendNmi } from "../entry/ipi.ts";
import { IRQ_WORK_VECTOR } from "../entry/vectors.ts";
import { kvmX86InitAsiClass } from "../kvm/asi-class.ts";
import { GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL } from "../mm/gfp.ts";
import { mmAlloc, mmput } from "../mm/mm.ts";
import { initMm, Mm, type MmPtr } from "../mm/mm-struct.ts";
import { allocPages, freePages } from "../mm/page-alloc.ts";
import { type PagePtr, pageAddress } from "../mm/page-struct.ts";
import { allocPercpu, freePercpu, nrCpuIds, perCpuBase } from "../mm/percpu.ts";
import { vfree, vmMapRam } from "../mm/vmalloc.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { staticStruct } from "../static-data.ts";
import { EXIT_PAGE_FAULT, EXIT_REQUESTED } from "../trace.ts";
import { asiDestroy, asiInit } from "./asi-domain.ts";
import { asiIntrNestDepth } from "./asi-intr.ts";
import { asiMap, asiUnmap, isMappedIn } from "./asi-map.ts";
import { ASI_GLOBAL_NONSENSITIVE, asiClassPolicy, asiTaints, setAsiClassPolicy, staticPolicy } from "./asi-state.ts";
import { asiExitTotal } from "./asi-stats.ts";
import {
  ASI_CLASS_KVM,
  ASI_CLASS_USERSPACE,
  ASI_TAINT_GUEST_CONTROL,
  ASI_TAINT_KERNEL_DATA,
  ASI_TAINT_OTHER_MM_CONTROL,
  ASI_TAINT_OTHER_MM_DATA,
  ASI_TAINT_USER_CONTROL,
  ASI_TAINT_USER_DATA,
  ASI_TAINTS_CONTROL_MASK,
  ASI_TAINTS_DATA_MASK,
  Asi,
  type AsiClassId,
  AsiTaintPolicy,
} from "./asi-struct.ts";
import { asiEnter, asiExit, asiInCriticalSection, asiIsRelaxed, asiIsRestricted, asiRelax } from "./asi-transition.ts";
import { kunitBranchCases } from "./kunit-branches.ts";
import { kunitMemoryCases } from "./kunit-memory.ts";
import { kunitMermapCases } from "./kunit-mermap.ts";

/** What a case expects with, and what it asks of the run it is part of. */
export interface KunitContext {
  expect(condition: boolean, what: string): void;
  /** Flushes of one kind (FLUSH_*) so far. */
  flushes(kind: number): number;
}

export interface KunitCase {
  /** Name in the published suite. */
  readonly name: string;
  readonly run: (context: KunitContext) => void;
  /** Options of the command line that it needs beside asi=on. */
  readonly options?: string;
}

/** What the handlers see and note. */
const Notes = struct("asi_kunit", {
  /** Sensitive byte that the NMI handler reads, or 0. */
  sensitive: virtual,
  copied: u32,
  nmis: u32,
  irqs: u32,
  irqCpu: i32,
  nmiCpu: i32,
  irqDepth: i32,
  nmiDepth: i32,
  irqEntryRestricted: u32,
  nmiExitRestricted: u32,
  irqExitRestricted: u32,
});
const notes = staticStruct("asi_kunit", Notes);
const everythingPolicy = staticPolicy("asi_kunit_everything_policy");

/** NMI handler of the suite's runs: reads the sensitive byte, which a restricted address space does not map. */
export function kunitNmi(): void {
  const view = Notes.at(notes);
  const { sensitive } = view;
  if (sensitive === NULL) return;
  view.nmis += 1;
  view.nmiCpu = cpu.id;
  view.nmiDepth = asiIntrNestDepth();
  view.copied = cpu.load(sensitive, 1);
  view.nmiExitRestricted = asiIsRestricted() ? 1 : 0;
}

/** Interrupt work of the suite's runs: takes an NMI in its middle. */
export function kunitIrqWork(): void {
  const view = Notes.at(notes);
  view.irqs += 1;
  view.irqCpu = cpu.id;
  view.irqDepth = asiIntrNestDepth();
  view.irqEntryRestricted = asiIsRestricted() ? 1 : 0;
  sendNmi(cpu.id);
  waitFor(() => view.nmis > 0, "the nested NMI");
  view.irqExitRestricted = asiIsRestricted() ? 1 : 0;
}

/** An IPI to oneself arrives within a few steps. */
function waitFor(condition: () => boolean, what: string): void {
  for (let i = 0; i < 1000; i++) {
    if (condition()) return;
    cpu.pause();
  }
  fail(`${what} does not come`);
}

function newMm(): MmPtr {
  const mm = mmAlloc();
  assert(mm !== NULL, () => "no memory for the test's mm");
  return mm;
}

function newPage(gfp: number): PagePtr {
  const page = allocPages(gfp, 0);
  assert(page !== NULL, () => "no memory for the test's page");
  return page;
}

function newDomain(mm: MmPtr, id: AsiClassId): Ptr<"asi"> {
  const domain = asiInit(mm, id);
  assert(!isErr(domain) && domain !== NULL, () => `asi_init(): ${domain}`);
  return domain as Ptr<"asi">; // not an error
}

/** Runs `body` in a domain of a fresh mm whose class protects, prevents and sets everything: once for each class. */
export function withTestDomain(body: (domain: Ptr<"asi">) => void): void {
  for (const id of [ASI_CLASS_KVM, ASI_CLASS_USERSPACE] as const) inTestDomain(id, body);
}

function inTestDomain(id: AsiClassId, body: (domain: Ptr<"asi">) => void): void {
  const policy = AsiTaintPolicy.at(everythingPolicy);
  policy.preventControl = ASI_TAINTS_CONTROL_MASK;
  policy.protectData = ASI_TAINTS_DATA_MASK;
  policy.set = ASI_TAINTS_CONTROL_MASK | ASI_TAINTS_DATA_MASK;
  const before = replacePolicy(id, everythingPolicy);
  const mm = newMm();
  kthreadUseMm(mm);
  const domain = newDomain(mm, id);
  body(domain);
  asiExit(EXIT_REQUESTED);
  asiDestroy(domain);
  kthreadUnuseMm();
  mmput(mm);
  replacePolicy(id, before);
}

/** The suite's class is one of the real ones under another policy: no process and no VM is there yet. @returns the policy that it had */
function replacePolicy(id: AsiClassId, policy: Ptr<"asi_taint_policy">): Ptr<"asi_taint_policy"> {
  const before = asiClassPolicy(id);
  setAsiClassPolicy(id, policy);
  return before;
}

function restrictedRoot(): PhysAddr {
  return Asi.at(ASI_GLOBAL_NONSENSITIVE).pgd;
}

function isRestrictedMapped(address: VirtAddr): boolean {
  return isMappedIn(restrictedRoot(), address);
}

function isUnrestrictedMapped(address: VirtAddr): boolean {
  return isMappedIn(Mm.at(initMm).pgd, address);
}

function testAsiState({ expect }: KunitContext): void {
  withTestDomain((domain) => {
    asiEnter(domain);
    expect(asiIsRestricted() && !asiIsRelaxed(), "after enter: restricted, not relaxed");
    asiRelax();
    expect(asiIsRestricted() && asiIsRelaxed(), "after relax: still restricted, relaxed");
    asiExit(EXIT_REQUESTED);
    expect(!asiIsRestricted() && asiIsRelaxed(), "after exit: not restricted, relaxed");
  });
}

type TaintStep = "enter userspace" | "enter KVM" | "exit" | "switch mm";
const TAINT_STEPS: readonly TaintStep[] = ["enter userspace", "enter KVM", "exit", "switch mm"];

function checkTaints(expect: KunitContext["expect"], where: string, afterStep: TaintStep): void {
  const taints = asiTaints.get();
  const has = (bit: number): boolean => (taints & bit) !== 0;
  const implies = (a: boolean, b: boolean, rule: string): void => expect(!a || b, `${where}: ${rule} (taints ${taints})`);
  implies(afterStep === "enter userspace", has(ASI_TAINT_USER_DATA) && has(ASI_TAINT_USER_CONTROL), "user taints after entering userspace");
  implies(afterStep === "enter KVM", has(ASI_TAINT_GUEST_CONTROL), "GUEST_CONTROL after entering KVM");
  implies(afterStep === "exit", has(ASI_TAINT_KERNEL_DATA), "KERNEL_DATA after exit");
  implies(
    has(ASI_TAINT_KERNEL_DATA) || has(ASI_TAINT_OTHER_MM_DATA),
    !has(ASI_TAINT_USER_CONTROL) && !has(ASI_TAINT_GUEST_CONTROL),
    "data of the kernel or another mm excludes control by user or guest",
  );
  implies(has(ASI_TAINT_KERNEL_DATA), !has(ASI_TAINT_OTHER_MM_CONTROL), "KERNEL_DATA excludes OTHER_MM_CONTROL");
  implies(
    has(ASI_TAINT_USER_DATA),
    !has(ASI_TAINT_OTHER_MM_CONTROL) && !has(ASI_TAINT_GUEST_CONTROL),
    "USER_DATA excludes others' control",
  );
}

/** Every sequence of three steps, with the real policies. */
function testAsiTainting({ expect }: KunitContext): void {
  kvmX86InitAsiClass();
  const mm = newMm();
  const other = newMm();
  kthreadUseMm(mm);
  const user = newDomain(mm, ASI_CLASS_USERSPACE);
  const kvm = newDomain(mm, ASI_CLASS_KVM);
  const enter = (domain: Ptr<"asi">): void => {
    asiEnter(domain);
    asiRelax();
  };
  const perform: { readonly [S in TaintStep]: () => void } = {
    "enter userspace": () => enter(user),
    "enter KVM": () => enter(kvm),
    exit: () => asiExit(EXIT_REQUESTED),
    "switch mm": () => {
      kthreadUnuseMm();
      kthreadUseMm(other);
      kthreadUnuseMm();
      kthreadUseMm(mm);
    },
  };
  for (const first of TAINT_STEPS) {
    for (const second of TAINT_STEPS) {
      for (const third of TAINT_STEPS) {
        const sequence = [first, second, third];
        for (const [i, step] of sequence.entries()) {
          perform[step]();
          checkTaints(expect, sequence.slice(0, i + 1).join(", "), step);
        }
        asiExit(EXIT_REQUESTED);
      }
    }
  }
  asiDestroy(user);
  asiDestroy(kvm);
  kthreadUnuseMm();
  mmput(other);
  mmput(mm);
}

function testAsiMapGlobalNonsensitive({ expect }: KunitContext): void {
  const pages = [newPage(GFP_KERNEL), newPage(GFP_KERNEL)];
  const base = vmMapRam(pages);
  assert(base !== NULL, () => "no memory for vm_map_ram()");
  const last = addVirt(base, 2 * PAGE_SIZE - 8);
  const mapped = (): readonly boolean[] => [isRestrictedMapped(base), isRestrictedMapped(last)];
  const expectMapped = (first: boolean, second: boolean, when: string): void => {
    const [a, b] = mapped();
    expect(a === first && b === second, `${when}: ${a}, ${b}`);
  };
  expect(isUnrestrictedMapped(base) && isUnrestrictedMapped(last), "both pages are mapped unrestricted");
  expectMapped(false, false, "before asi_map");
  asiMap(ASI_GLOBAL_NONSENSITIVE, base, PAGE_SIZE);
  expectMapped(true, false, "after mapping the first");
  asiMap(ASI_GLOBAL_NONSENSITIVE, base, 2 * PAGE_SIZE);
  expectMapped(true, true, "after mapping all");
  asiUnmap(ASI_GLOBAL_NONSENSITIVE, base, PAGE_SIZE);
  expectMapped(false, true, "after unmapping the first");
  asiUnmap(ASI_GLOBAL_NONSENSITIVE, base, 2 * PAGE_SIZE);
  expectMapped(false, false, "after unmapping all");
  vfree(base);
  for (const page of pages) freePages(page, 0);
}

function testAllocPagesSensitivity({ expect }: KunitContext): void {
  const sensitive = newPage(GFP_HIGHUSER_MOVABLE);
  const nonsensitive = newPage(GFP_KERNEL);
  expect(isUnrestrictedMapped(pageAddress(sensitive)), "a sensitive page is in the direct map");
  expect(!isRestrictedMapped(pageAddress(sensitive)), "a sensitive page is absent from the restricted direct map");
  expect(isRestrictedMapped(pageAddress(nonsensitive)), "a GFP_KERNEL page is in the restricted direct map");
  freePages(sensitive, 0);
  freePages(nonsensitive, 0);
}

function testPercpuAlloc({ expect }: KunitContext): void {
  const bytes = 2 * PAGE_SIZE;
  const offset = allocPercpu(bytes);
  expect(offset !== 0, "dynamic per-CPU memory");
  for (let id = 0; id < nrCpuIds(); id++) {
    const base = perCpuBase(id);
    const probes = [asiTaints.at(base), addVirt(base, offset), addVirt(base, offset + bytes - 8)];
    for (const probe of probes) expect(isUnrestrictedMapped(probe) && isRestrictedMapped(probe), `per-CPU object of CPU ${id}`);
  }
  freePercpu(offset);
}

function testPageAllocRestricted({ expect }: KunitContext): void {
  withTestDomain((domain) => {
    asiEnter(domain);
    asiRelax();
    const page = allocPages(GFP_ATOMIC, 0);
    expect(page !== NULL, "an atomic allocation");
    expect(asiIsRestricted(), "it leaves the CPU restricted");
    freePages(page, 0);
  });
}

/** A sensitive byte for the NMI handler. @returns its page. */
function armNmi(value: number): PagePtr {
  const page = newPage(GFP_HIGHUSER_MOVABLE);
  cpu.store(pageAddress(page), 1, value);
  cpu.fill(notes, 0, Notes.bytes);
  Notes.at(notes).sensitive = pageAddress(page);
  return page;
}

function disarmNmi(page: PagePtr): void {
  Notes.at(notes).sensitive = NULL;
  freePages(page, 0);
}

function testAsiIntr({ expect }: KunitContext): void {
  withTestDomain((domain) => {
    const page = armNmi(0x5a);
    const view = Notes.at(notes);
    const flags = localIrqSave();
    const pageFaultExits = (): number => asiExitTotal(EXIT_PAGE_FAULT);
    const before = pageFaultExits();
    asiEnter(domain);
    sendNmi(cpu.id);
    waitFor(() => view.nmis === 1, "the first NMI");
    expect(view.copied === 0x5a, "the handler read the sensitive byte");
    expect(asiIsRestricted() && asiInCriticalSection(), "after an NMI in the critical section: restricted, still in it");
    expect(pageFaultExits() - before >= 1, "the NMI's access left the restricted address space");
    asiRelax();
    sendNmi(cpu.id);
    waitFor(() => view.nmis === 2, "the second NMI");
    expect(!asiIsRestricted() && !asiInCriticalSection(), "after an NMI while relaxed: unrestricted");
    expect(pageFaultExits() - before >= 2, "the second NMI's access left it too");
    localIrqRestore(flags);
    disarmNmi(page);
  });
}

function testAsiIntrNesting({ expect }: KunitContext): void {
  withTestDomain((domain) => {
    const page = armNmi(0xa5);
    const view = Notes.at(notes);
    asiEnter(domain);
    sendIpi(cpu.id, IRQ_WORK_VECTOR);
    waitFor(() => view.irqs === 1, "the interrupt");
    expect(asiIsRestricted() && asiInCriticalSection(), "back in the task: restricted, in the critical section");
    asiRelax();
    expect(view.irqCpu === cpu.id && view.nmiCpu === cpu.id, "the same CPU throughout");
    expect(view.irqDepth >= 1 && view.nmiDepth > view.irqDepth, "the NMI is nested in the interrupt");
    expect(view.irqEntryRestricted === 1, "restricted at the interrupt's entry");
    expect(view.nmiExitRestricted === 0, "unrestricted at the NMI's exit");
    expect(view.irqExitRestricted === 0, "unrestricted at the interrupt's exit");
    disarmNmi(page);
  });
}

/** The cases, under their published names. */
export const kunitCases: readonly KunitCase[] = [
  { name: "test_asi_state", run: testAsiState },
  { name: "test_asi_tainting", run: testAsiTainting },
  { name: "test_asi_map_global_nonsensitive", run: testAsiMapGlobalNonsensitive },
  { name: "test_alloc_pages_sensitivity", run: testAllocPagesSensitivity },
  { name: "test_percpu_alloc", run: testPercpuAlloc },
  { name: "test_asi_intr", run: testAsiIntr },
  { name: "test_asi_intr_nesting", run: testAsiIntrNesting },
  { name: "test_page_alloc_restricted", run: testPageAllocRestricted },
  ...kunitMemoryCases,
  ...kunitBranchCases,
  ...kunitMermapCases,
];
