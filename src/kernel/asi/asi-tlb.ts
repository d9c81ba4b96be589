// Keeping translations across transitions (option noflush). Each ASID of a CPU has a process-context identifier for the unrestricted tables
// and one for each class; a flush reaches only the one in use. So this remembers which of the others have missed one, and which domain
// each was last used for: who loads one of them flushes it then, and only then. As posted every transition flushes what it enters.
import { addVirt, bytes, cpu, perCpu, type VirtAddr } from "../../hardware/index.ts";
import { hasPcid } from "../mm/cr3.ts";
import { TLB_NR_DYN_ASIDS } from "../mm/tlb-struct.ts";
import { noflush } from "./asi-options.ts";
import { ASI_MAX_NUM_CLASSES, type AsiClassId } from "./asi-struct.ts";

/** Of each ASID: bit 0 the unrestricted identifier, bit class + 1 that of the class: it has missed a flush. */
const missed = perCpu("asi_tlb_missed", bytes(TLB_NR_DYN_ASIDS, 4));
/** Of each ASID and class: `Asi.id` of the domain that the identifier was last used for. */
const lastDomain = perCpu("asi_tlb_domain", bytes(4 * TLB_NR_DYN_ASIDS * ASI_MAX_NUM_CLASSES, 4));

const UNRESTRICTED = 1;
const ALL = (1 << (ASI_MAX_NUM_CLASSES + 1)) - 1;

function missedAt(asid: number): VirtAddr {
  return addVirt(missed.here(), asid);
}

/** Transitions may keep translations. Without identifiers every CR3 write flushes. */
export function asiKeepsTlb(): boolean {
  return noflush.key.isEnabled() && hasPcid();
}

/**
 * Whether what the unrestricted identifier of `asid` holds is right; the caller loads it next, with a flush if not. Interrupts off: a flush
 * that came in between would be missed.
 */
export function asiTlbKeepsUnrestricted(asid: number): boolean {
  return (cpu.rmw("and", missedAt(asid), 1, ~UNRESTRICTED & 0xff) & UNRESTRICTED) === 0;
}

/** The same for domain `id` of a class. */
export function asiTlbKeepsDomain(asid: number, classId: AsiClassId, id: number): boolean {
  const mask = 2 << classId;
  const slot = addVirt(lastDomain.here(), 4 * (asid * ASI_MAX_NUM_CLASSES + classId));
  const hasMissed = (cpu.rmw("and", missedAt(asid), 1, ~mask & 0xff) & mask) !== 0;
  return cpu.rmw("exchange", slot, 4, id) === id && !hasMissed;
}

/**
 * A flush of `asid` is about to reach only the identifier in use. Before it: an NMI in between that leaves the restricted address space
 * then flushes what it enters. (The one in use is marked with the others, which costs it a flush more when it is next loaded.)
 */
export function asiTlbFlushIsPartial(asid: number): void {
  if (asiKeepsTlb()) cpu.rmw("or", missedAt(asid), 1, ALL);
}

/** `asid` becomes another mm's, or its mm was flushed while it was not loaded; the unrestricted identifier is flushed by who says so. */
export function asiTlbForget(asid: number): void {
  if (asiKeepsTlb()) cpu.rmw("or", missedAt(asid), 1, ALL & ~UNRESTRICTED);
}
