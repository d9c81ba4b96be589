// Flushing translations on this CPU and on others (arch/x86/mm/tlb.c), with what address space isolation adds (spec 2.9): transitions
// flush the tables they enter, so it is enough to flush the address space number in use and to remember that the others are stale.
import {
  addVirt,
  assert,
  cpu,
  ICR_FIXED,
  INVPCID_ADDRESS,
  MSR_X2APIC_ICR,
  NULL,
  PAGE_SIZE,
  type Ptr,
  type VirtAddr,
} from "../../hardware/index.ts";
import { asiEnabled } from "../asi/asi-state.ts";
import type { AsiClassId } from "../asi/asi-struct.ts";
import { asiTlbFlushIsPartial } from "../asi/asi-tlb.ts";
import { asiExit, asiInCriticalSection } from "../asi/asi-transition.ts";
import { CALL_FUNCTION_VECTOR } from "../entry/vectors.ts";
import { ptiFeature } from "../mitigations/feature-keys.ts";
import { irqsDisabled, localIrqRestore, localIrqSave } from "../spinlock.ts";
import { EXIT_TLB_FLUSH, WARN_FLUSH_IN_CRITICAL, warn } from "../trace.ts";
import {
  asiPcid,
  buildCr3,
  flushTlbGlobal,
  hasInvpcid,
  hasPcid,
  kernelPagesAreGlobal,
  kernPcid,
  readCr3Raw,
  userPcid,
  writeCr3,
  writeCr3Raw,
} from "./cr3.ts";
import { flushLdt } from "./ldt.ts";
import { initMm, Mm, MmContext, type MmPtr } from "./mm-struct.ts";
import { onlineCpus, perCpuBase } from "./percpu.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import {
  FlushTlbInfo,
  flushPending,
  flushTlbInfo,
  invalidateOther,
  isLazy,
  loadedMm,
  loadedMmAsid,
  nextAsid,
  TLB_FLUSH_ALL,
  TLB_SINGLE_PAGE_FLUSH_CEILING,
  TlbContext,
  tlbContexts,
  userPcidFlushMask,
} from "./tlb-struct.ts";

/** The slot of ASID `asid` on this CPU. */
export function tlbContext(asid: number): TlbContext {
  return TlbContext.at(addVirt(tlbContexts.here(), asid * TlbContext.bytes) as Ptr<"tlb_context">);
}

/** First use of the TLB code on this CPU: it runs on the kernel's own tables (kernel: `initialize_tlbstate_and_flush()`). */
export function initializeTlbstateAndFlush(): void {
  loadedMm.set(initMm);
  loadedMmAsid.set(0);
  nextAsid.set(1);
  const { context, pgd } = Mm.at(initMm);
  const slot = tlbContext(0);
  slot.ctxId = context.ctxId;
  slot.tlbGen = context.tlbGen;
  writeCr3(buildCr3(pgd, 0));
}

/**
 * Flushes this CPU's translations of the current address space number (kernel: `flush_tlb_local()`). Leaves the restricted address
 * space first: the CR3 that is read must be the one that is written back (else an NMI's exit in between would be undone).
 */
export function flushTlbLocal(): void {
  if (asiEnabled() && asiInCriticalSection()) {
    warn(WARN_FLUSH_IN_CRITICAL);
    flushTlbGlobal();
    return;
  }
  invalidateUserAsid(loadedMmAsid.get());
  asiExit(EXIT_TLB_FLUSH);
  asiTlbFlushIsPartial(loadedMmAsid.get());
  writeCr3Raw(readCr3Raw(), false);
}

/** What PTI's user tables of ASID `asid` hold is flushed on the way to user mode (kernel: `invalidate_user_asid()`). */
export function invalidateUserAsid(asid: number): void {
  // Without PCIDs the switch of tables is a flush.
  if (ptiFeature.isEnabled() && hasPcid()) userPcidFlushMask.or((1 << kernPcid(asid)) >>> 0);
}

/** One page of the loaded mm on this CPU, of PTI's user tables too (kernel: `flush_tlb_one_user()`). Interrupts off. */
function flushTlbOneUser(address: VirtAddr): void {
  cpu.invlpg(address);
  if (!ptiFeature.isEnabled() || !hasPcid()) return;
  const asid = loadedMmAsid.get();
  if (hasInvpcid()) cpu.invpcid(INVPCID_ADDRESS, userPcid(asid), address);
  else invalidateUserAsid(asid);
}

/**
 * One page that only this CPU used, under the loaded ASID, by the unrestricted tables and the domain of `classId`: both identifiers lose it
 * (INVPCID), or the one in use does and the other when it is next loaded.
 */
export function flushTlbOneLocal(address: VirtAddr, classId: AsiClassId): void {
  const asid = loadedMmAsid.get();
  if (hasInvpcid()) {
    cpu.invpcid(INVPCID_ADDRESS, kernPcid(asid), address);
    cpu.invpcid(INVPCID_ADDRESS, asiPcid(asid, classId), address);
    return;
  }
  asiTlbFlushIsPartial(asid);
  cpu.invlpg(address);
}

/** One kernel page on this CPU, in every address space (kernel: `flush_tlb_one_kernel()`). */
function flushTlbOneKernel(address: VirtAddr): void {
  flushTlbOneUser(address);
  // Not global: the other address space numbers may hold it as well. They are flushed when they are next loaded.
  if (!kernelPagesAreGlobal()) invalidateOther.set(1);
}

/**
 * Flushes a kernel range on every CPU (kernel: `flush_tlb_kernel_range()`). Interrupts on when other CPUs run; returns when all have
 * answered.
 */
export function flushTlbKernelRange(start: VirtAddr, end: VirtAddr): void {
  const isWhole = (end - start) / PAGE_SIZE > TLB_SINGLE_PAGE_FLUSH_CEILING;
  const info = prepare(NULL, start, isWhole ? TLB_FLUSH_ALL : end, 0);
  shootDown(info, 0xffffffff);
  const flags = localIrqSave();
  flushKernel(info);
  localIrqRestore(flags);
}

/** Flushes every translation of every CPU, global ones too (kernel: `flush_tlb_all()`). As `flushTlbKernelRange`. */
export function flushTlbAll(): void {
  flushTlbKernelRange(NULL, TLB_FLUSH_ALL as VirtAddr);
}

/**
 * Flushes a range of a user address space wherever it is loaded (kernel: `flush_tlb_mm_range()`). Interrupts on. `freedTables`: page tables
 * go too, which the processor's caches of paging structures must forget, those of CPUs that only borrow the tables included.
 */
export function flushTlbMmRange(mm: MmPtr, start: VirtAddr, end: number, freedTables = false): void {
  const view = Mm.at(mm);
  const generation = (cpu.rmw("add", addVirt(view.context.address, MmContext.offset.tlbGen), 4, 1) + 1) >>> 0;
  const isWhole = end === TLB_FLUSH_ALL || (end - start) / PAGE_SIZE > TLB_SINGLE_PAGE_FLUSH_CEILING;
  const info = prepare(mm, start, isWhole ? TLB_FLUSH_ALL : end, generation);
  shootDown(info, freedTables ? view.cpumask : notLazy(view.cpumask));
  if (loadedMm.get() !== mm) return;
  const flags = localIrqSave();
  flushTlbFunc(info);
  localIrqRestore(flags);
}

/**
 * Of `mask`, the CPUs that do not merely borrow the tables: a lazy one uses no user translation, and looks at the generation before it
 * does again (kernel: `tlb_is_not_lazy()`). After the generation was counted up: who is found lazy here will see it.
 */
function notLazy(mask: number): number {
  let busy = 0;
  const others = mask & ~(1 << cpu.id);
  for (let id = 0; others >>> id !== 0; id++) {
    if ((others & (1 << id)) !== 0 && cpu.load(isLazy.at(perCpuBase(id)), 1) === 0) busy |= 1 << id;
    if (id === 31) break;
  }
  return busy >>> 0;
}

/** Flushes a user address space wherever it is loaded (kernel: `flush_tlb_mm()`). */
export function flushTlbMm(mm: MmPtr): void {
  flushTlbMmRange(mm, NULL, TLB_FLUSH_ALL);
}

/** Every CPU that has `mm` loaded loads its LDT again; on return none has the old one (kernel: the call of `flush_ldt()`). Interrupts on. */
export function flushLdtOnCpus(mm: MmPtr): void {
  const info = prepare(mm, NULL, 0, 0);
  info.isLdt = 1;
  shootDown(info, Mm.at(mm).cpumask);
  const flags = localIrqSave();
  flushLdt(mm);
  localIrqRestore(flags);
}

/** Handler of CALL_FUNCTION_VECTOR: does what other CPUs asked for. Interrupts off; the caller sends the EOI. */
export function flushTlbInterrupt(): void {
  const pending = flushPending.exchange(0);
  const mine = (1 << cpu.id) >>> 0;
  for (let id = 0; pending >>> id !== 0; id++) {
    if ((pending & (1 << id)) === 0) continue;
    const info = FlushTlbInfo.at(flushTlbInfo.at(perCpuBase(id)) as Ptr<"flush_tlb_info">);
    if (info.isLdt !== 0) flushLdt(info.mm);
    else if (info.mm === NULL) flushKernel(info);
    else flushTlbFunc(info);
    cpu.rmw("and", addVirt(info.address, FlushTlbInfo.offset.waiting), 4, ~mine >>> 0);
    if (id === 31) break;
  }
}

function prepare(mm: MmPtr, start: number, end: number, generation: number): FlushTlbInfo {
  const info = FlushTlbInfo.at(flushTlbInfo.here() as Ptr<"flush_tlb_info">);
  info.mm = mm;
  info.start = start;
  info.end = end;
  info.newTlbGen = generation;
  info.isLdt = 0;
  return info;
}

/** Asks the other CPUs of `mask` to act on this CPU's request, and waits for them (kernel: `smp_call_function_many()`). */
function shootDown(info: FlushTlbInfo, mask: number): void {
  const mine = (1 << cpu.id) >>> 0;
  const targets = mask & onlineCpus() & ~mine;
  if (targets === 0) return;
  assert(!irqsDisabled(), () => "a TLB shootdown with interrupts off: two CPUs would wait for each other");
  info.waiting = targets >>> 0;
  for (let id = 0; id < 32; id++) {
    if ((targets & (1 << id)) === 0) continue;
    cpu.rmw("or", flushPending.at(perCpuBase(id)), 4, mine);
    cpu.writeMsr(MSR_X2APIC_ICR, ICR_FIXED | CALL_FUNCTION_VECTOR, id);
  }
  while (info.waiting !== 0) cpu.pause();
}

/** Kernel: `do_kernel_range_flush()`, `do_flush_tlb_all()`. */
function flushKernel(info: FlushTlbInfo): void {
  const { start, end } = info;
  if (end === TLB_FLUSH_ALL) {
    flushTlbGlobal();
    return;
  }
  asiTlbFlushIsPartial(loadedMmAsid.get());
  for (let at = start; at < end; at += PAGE_SIZE) flushTlbOneKernel(at as VirtAddr);
}

/** Kernel: `flush_tlb_func()`. Interrupts off. */
function flushTlbFunc(info: FlushTlbInfo): void {
  const mm = loadedMm.get();
  if (mm === initMm || mm !== info.mm) return;
  if (isLazy.get() !== 0) {
    // A kernel thread needs no user translations: off these tables, rather than flushing again and again.
    switchMmIrqsOff(NULL, initMm, NULL);
    return;
  }
  const slot = tlbContext(loadedMmAsid.get());
  const local = slot.tlbGen;
  const generation = Mm.at(mm).context.tlbGen;
  if (local === generation) return; // a flush that covered this one came first
  const { start, end, newTlbGen } = info;
  // Page by page only if exactly this request is missing; behind by more, everything goes.
  if (end !== TLB_FLUSH_ALL && newTlbGen === local + 1 && newTlbGen === generation) {
    asiTlbFlushIsPartial(loadedMmAsid.get());
    for (let at = start; at < end; at += PAGE_SIZE) flushTlbOneUser(at as VirtAddr);
  } else {
    flushTlbLocal();
  }
  slot.tlbGen = generation;
}
