// What goes into CR3: a root table and a process-context identifier, which says in two bits whose restricted address space it is.
//
//   PCID   11 PTI's user tables | 10..9 ASI class + 1, 0 = unrestricted | 8..0 ASID + 1      (spec 2.8, PTI configured)
import {
  assert,
  CR4_PCIDE,
  CR4_PGE,
  type Cr3,
  cpu,
  cr3,
  cr3Root,
  hex,
  INVPCID_ALL_GLOBAL,
  NULL,
  type Pcid,
  type PhysAddr,
  type Ptr,
  pcid,
} from "../../hardware/index.ts";
import { asiEnabled, currAsi } from "../asi/asi-state.ts";
import { Asi, type AsiClassId } from "../asi/asi-struct.ts";
import { asiExit } from "../asi/asi-transition.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { staticKey } from "../static-key.ts";
import { EXIT_CR3_ACCESS } from "../trace.ts";
import { Mm } from "./mm-struct.ts";
import { loadedMm, loadedMmAsid } from "./tlb-struct.ts";

/** Kernel: X86_CR3_ASI_PCID_BITS_SHIFT, in the layout with a PTI bit. */
const ASI_PCID_SHIFT = 9;
/** Kernel: X86_CR3_PTI_PCID_USER_BIT, as a mask. */
const PTI_USER_PCID_BIT = 1 << 11;

/** Kernel: X86_FEATURE_PCID, X86_FEATURE_INVPCID, X86_FEATURE_PGE. */
const featurePcid = staticKey("X86_FEATURE_PCID");
const featureInvpcid = staticKey("X86_FEATURE_INVPCID");
const featurePge = staticKey("X86_FEATURE_PGE");

const CPUID_1_ECX_PCID = 1 << 17;
const CPUID_1_EDX_PGE = 1 << 13;
const CPUID_7_EBX_INVPCID = 1 << 10;

/** Finds out what the CPU has for TLB tagging. Boot CPU, before the kernel's own tables are built. */
export function detectTlbFeatures(): void {
  const pge = (cpu.cpuid(1, 0, 3) & CPUID_1_EDX_PGE) !== 0;
  featurePge.set(pge ? 1 : 0);
  // PCIDs without global pages are not used (kernel: setup_pcid()).
  featurePcid.set(pge && (cpu.cpuid(1, 0, 2) & CPUID_1_ECX_PCID) !== 0 ? 1 : 0);
  featureInvpcid.set((cpu.cpuid(7, 0, 1) & CPUID_7_EBX_INVPCID) !== 0 ? 1 : 0);
}

/** Turns PCIDs on for this CPU (kernel: `setup_pcid()`, `cr4_init()`). CR3 must hold PCID 0. */
export function enablePcid(): void {
  if (featurePcid.isEnabled()) cpu.writeCr4(cpu.readCr4() | CR4_PCIDE);
}

/** Kernel: X86_FEATURE_PCID. */
export function hasPcid(): boolean {
  return featurePcid.isEnabled();
}

/** Kernel pages carry the Global bit unless other address spaces differ in them: restricted ones (spec 2.9, rule 1), PTI's user tables. */
export function kernelPagesAreGlobal(): boolean {
  return featurePge.isEnabled() && !asiEnabled() && !ptiFeature.isEnabled();
}

/** Single translations of other PCIDs can be flushed (kernel: X86_FEATURE_INVPCID). */
export function hasInvpcid(): boolean {
  return featureInvpcid.isEnabled();
}

/** PCID of the unrestricted address space of ASID `asid`, 0..5 (kernel: `kern_pcid()`). */
export function kernPcid(asid: number): Pcid {
  return pcid(featurePcid.isEnabled() ? asid + 1 : 0);
}

/** PCID of PTI's user tables under ASID `asid`; only with PCIDs (kernel: `user_pcid()`). */
export function userPcid(asid: number): Pcid {
  return pcid((asid + 1) | PTI_USER_PCID_BIT);
}

/** PCID of the restricted address space of class `id` under ASID `asid` (kernel: `asi_pcid()`). */
export function asiPcid(asid: number, id: AsiClassId): Pcid {
  return pcid(featurePcid.isEnabled() ? (asid + 1) | ((id + 1) << ASI_PCID_SHIFT) : 0);
}

/** Kernel: `build_cr3()`. */
export function buildCr3(pgd: PhysAddr, asid: number): Cr3 {
  return cr3(pgd, kernPcid(asid));
}

// Access to CR3 from C (spec 2.11). Restricted, CR3 is unstable: an NMI may leave the restricted address space between a read and a
// write, and the write would go back there behind curr_asi's back. So the ordinary ones leave first.

/** CR3, after leaving the restricted address space (kernel: `__read_cr3()`). */
export function readCr3(): Cr3 {
  asiExit(EXIT_CR3_ACCESS);
  return cpu.readCr3();
}

/** Loads CR3, after leaving the restricted address space; flushes its PCID (kernel: `write_cr3()`). */
export function writeCr3(value: Cr3): void {
  asiExit(EXIT_CR3_ACCESS);
  cpu.writeCr3(value, false);
}

/**
 * CR3 as it is (kernel: `__read_cr3_raw()`): for reports, for the page-fault path after its own exit, and for values that need not hold.
 */
export function readCr3Raw(): Cr3 {
  return cpu.readCr3();
}

/** Kernel: `native_write_cr3_raw()`: for the transitions themselves, and for loading an mm, whose switch forbids an exit. */
export function writeCr3Raw(value: Cr3, keepsTlb: boolean): void {
  cpu.writeCr3(value, keepsTlb);
}

/**
 * What CR3 holds, computed rather than read, which would be slower (kernel: `__get_current_cr3_fast()`). Interrupts off, and stable
 * only inside a critical section or while unrestricted: an NMI may leave the restricted address space at any time.
 */
export function getCurrentCr3Fast(): Cr3 {
  const asid = loadedMmAsid.get();
  const restricted = currAsi.get();
  const expected = restricted === NULL ? buildCr3(Mm.at(loadedMm.get()).pgd, asid) : restrictedCr3(restricted, asid);
  const found = cpu.readCr3();
  assert(found === expected, () => `CR3 is ${hex(found)}, but curr_asi and the loaded mm make it ${hex(expected)}`);
  return expected;
}

function restrictedCr3(domain: Ptr<"asi">, asid: number): Cr3 {
  const { pgd, classId } = Asi.at(domain);
  return cr3(pgd, asiPcid(asid, classId as AsiClassId)); // written by asiInit() alone
}

/**
 * May an NMI handler touch user memory: does CR3 hold tables of the running task's mm? (Kernel: `nmi_uaccess_okay()`,
 * cr3_matches_current_mm() of patch 8.) The domain's count: its user half is the mm's. curr_asi is read first: an NMI that comes in
 * between can only leave the domain, and then CR3 is the mm's own.
 */
export function nmiUaccessOkay(): boolean {
  const { mm } = TaskStruct.at(current());
  const loaded = loadedMm.get();
  if (mm === NULL || loaded !== mm) return false;
  const domain = currAsi.get();
  const root = cr3Root(readCr3Raw());
  return root === Mm.at(mm).pgd || (domain !== NULL && root === Asi.at(domain).pgd);
}

/** Drops every translation of this CPU, all PCIDs and global ones included (kernel: `native_flush_tlb_global()`). */
export function flushTlbGlobal(): void {
  if (featureInvpcid.isEnabled()) {
    cpu.invpcid(INVPCID_ALL_GLOBAL, 0, 0 as never);
    return;
  }
  // A write that changes CR4.PGE does the same. SDM vol. 3, 5.10.4.1.
  const cr4 = cpu.readCr4();
  cpu.writeCr4(cr4 ^ CR4_PGE);
  cpu.writeCr4(cr4);
}
