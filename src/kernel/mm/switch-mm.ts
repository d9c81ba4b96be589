// Switching between user address spaces (arch/x86/mm/tlb.c: switch_mm_irqs_off()) and choosing address space numbers.
import { addVirt, cpu, OWNER_USER, owner, type PhysAddr, type Ptr } from "../../hardware/index.ts";
import { switchRestricted } from "../asi/asi-options.ts";
import { asiTlbForget } from "../asi/asi-tlb.ts";
import { asiExit, asiHandleSwitchMm } from "../asi/asi-transition.ts";
import { localIrqRestore, localIrqSave } from "../spinlock.ts";
import { EXIT_SWITCH_MM, TRACE_SWITCH_MM, trace } from "../trace.ts";
import { condMitigation } from "./cond-mitigation.ts";
import { buildCr3, hasPcid, writeCr3Raw } from "./cr3.ts";
import { switchLdt } from "./ldt.ts";
import { initMm, Mm, type MmPtr } from "./mm-struct.ts";
import { invalidateUserAsid, tlbContext } from "./tlb.ts";
import { invalidateOther, isLazy, LOADED_MM_SWITCHING, loadedMm, loadedMmAsid, nextAsid, TLB_NR_DYN_ASIDS } from "./tlb-struct.ts";

/** `switchMmIrqsOff` for callers with interrupts on (kernel: `switch_mm()`). */
export function switchMm(prev: MmPtr, next: MmPtr, task: Ptr<"task_struct">): void {
  const flags = localIrqSave();
  switchMmIrqsOff(prev, next, task);
  localIrqRestore(flags);
}

/**
 * Makes `next` the loaded mm of this CPU, for `task`, or NULL where no task comes to run by it (kernel: `switch_mm_irqs_off()`). Interrupts
 * off. The CPU is unrestricted afterwards.
 */
export function switchMmIrqsOff(_prev: MmPtr, next: MmPtr, task: Ptr<"task_struct">): void {
  // First of all: CR3 must hold still from here on, and callers may come while still restricted (spec 2.11, patch 19).
  // Not where the mm stays and nothing was missed: then CR3 is not written (option switch_restricted).
  const isSame = switchRestricted.key.isEnabled() && loadedMm.get() === next;
  if (!isSame) asiExit(EXIT_SWITCH_MM);
  const prev = loadedMm.get();
  const asid = loadedMmAsid.get();
  const wasLazy = isLazy.get() !== 0;
  if (wasLazy) isLazy.set(0);
  if (prev === next) {
    if (!wasLazy) return;
    // While lazy this CPU may have missed flushes.
    const generation = Mm.at(next).context.tlbGen;
    if (tlbContext(asid).tlbGen === generation) return;
    asiExit(EXIT_SWITCH_MM);
    tlbContext(asid).tlbGen = generation;
    loadNewMmCr3(Mm.at(next).pgd, asid, true);
    return;
  }
  asiHandleSwitchMm();
  condMitigation(task);
  const mine = (1 << cpu.id) >>> 0;
  if (prev !== initMm) cpu.rmw("and", addVirt(prev, Mm.offset.cpumask), 4, ~mine >>> 0);
  if (next !== initMm) cpu.rmw("or", addVirt(next, Mm.offset.cpumask), 4, mine);
  // After the mask: a flush from here on reaches this CPU, or is in the generation that is read now.
  const view = Mm.at(next);
  const { ctxId, tlbGen } = view.context;
  const choice = chooseNewAsid(ctxId, tlbGen);
  const number = view.number;
  // NMIs must see that CR3 and loaded_mm do not match for a moment.
  loadedMm.set(LOADED_MM_SWITCHING);
  if (choice.mustFlush) {
    const slot = tlbContext(choice.asid);
    slot.ctxId = ctxId;
    slot.tlbGen = tlbGen;
  }
  loadNewMmCr3(view.pgd, choice.asid, choice.mustFlush);
  loadedMm.set(next);
  loadedMmAsid.set(choice.asid);
  switchLdt(prev, next);
  trace(TRACE_SWITCH_MM, prev, next, choice.asid);
  if (cpu.isLive && next !== initMm) cpu.observer.context(cpu.id, OWNER_USER, owner(OWNER_USER, number, true));
}

/** A kernel thread goes on with the tables that are loaded (kernel: `enter_lazy_tlb()`). */
export function enterLazyTlb(): void {
  if (loadedMm.get() !== initMm) isLazy.set(1);
}

/** Without NOFLUSH the address space number starts empty. Raw: the caller has left the restricted address space, and marked the switch. */
function loadNewMmCr3(pgd: PhysAddr, asid: number, mustFlush: boolean): void {
  if (mustFlush) {
    asiTlbForget(asid);
    invalidateUserAsid(asid);
  }
  writeCr3Raw(buildCr3(pgd, asid), !mustFlush);
}

interface AsidChoice {
  readonly asid: number;
  readonly mustFlush: boolean;
}

/** The ASID that holds the mm, or the next in turn (kernel: `choose_new_asid()`). */
function chooseNewAsid(ctxId: number, generation: number): AsidChoice {
  if (!hasPcid()) return { asid: 0, mustFlush: true };
  if (invalidateOther.get() !== 0) clearAsidOther();
  for (let asid = 0; asid < TLB_NR_DYN_ASIDS; asid++) {
    const slot = tlbContext(asid);
    if (slot.ctxId === ctxId) return { asid, mustFlush: slot.tlbGen !== generation };
  }
  const next = nextAsid.get();
  const asid = next >= TLB_NR_DYN_ASIDS ? 0 : next;
  nextAsid.set(asid + 1);
  return { asid, mustFlush: true };
}

/** Forgets what every ASID but the loaded one holds (kernel: `clear_asid_other()`). */
function clearAsidOther(): void {
  const loaded = loadedMmAsid.get();
  for (let asid = 0; asid < TLB_NR_DYN_ASIDS; asid++) {
    if (asid !== loaded) tlbContext(asid).ctxId = 0;
  }
  invalidateOther.set(0);
}
