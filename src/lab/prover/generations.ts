// Generations of flushes count up for ever, and only how they stand to each other means anything. While nobody is in the middle of comparing two,
// they are renumbered, so that states that differ in nothing else are one.
import type { PhysAddr } from "../../hardware/index.ts";
import { FlushTlbInfo, flushTlbInfo, Mm, MmContext, TLB_NR_DYN_ASIDS, TlbContext, tlbContexts } from "../../kernel/index.ts";
import type { ResidueMachine } from "../../residue/index.ts";
import type { GroundTruth, KernelView } from "../properties/index.ts";

/** What the generation of an mm becomes; those of the slots keep their distance, as far as it can matter. */
const NEWEST = 16;

/** Renumbers the generations of every mm and of the slots that hold it. */
export function renumberGenerations(machine: ResidueMachine, truth: GroundTruth, view: KernelView): void {
  const { memory } = machine;
  const slots: { readonly at: number; readonly ctxId: number }[] = [];
  for (const cpu of truth.cpus) {
    if (!view.isUp(cpu)) continue;
    const base = view.physical(cpu.perCpuBase + tlbContexts.offset);
    for (let i = 0; i < TLB_NR_DYN_ASIDS; i++) {
      const at = base + i * TlbContext.bytes;
      slots.push({ at: at + TlbContext.offset.tlbGen, ctxId: memory.read32((at + TlbContext.offset.ctxId) as PhysAddr) });
    }
    // A request that was answered is of no use to anybody.
    const request = view.physical(cpu.perCpuBase + flushTlbInfo.offset);
    for (let at = 0; at < FlushTlbInfo.bytes; at += 4) memory.write32((request + at) as PhysAddr, 0);
  }
  for (const mm of view.allMms(truth.cpus)) {
    const context = view.physical(mm) + Mm.offset.context;
    const ctxId = memory.read32((context + MmContext.offset.ctxId) as PhysAddr);
    const at = (context + MmContext.offset.tlbGen) as PhysAddr;
    const newest = memory.read32(at);
    memory.write32(at, NEWEST);
    for (const slot of slots) {
      if (slot.ctxId !== ctxId) continue;
      const behind = Math.min(newest - memory.read32(slot.at as PhysAddr), NEWEST - 1);
      memory.write32(slot.at as PhysAddr, NEWEST - behind);
    }
  }
}
