// Per-CPU state of the TLB code (kernel: struct tlb_state): which mm is loaded under which address space number, and what each number holds.
import { bytes, type Ptr, perCpu, perCpuInteger, pointer, struct, u32, type View, word } from "../../hardware/index.ts";

/** Address space numbers that one CPU uses at a time (kernel: TLB_NR_DYN_ASIDS). */
export const TLB_NR_DYN_ASIDS = 6;

/** Kernel: struct tlb_context: what the slot of an ASID holds, and up to which flush it is current. */
export const TlbContext = struct("tlb_context", { ctxId: u32, tlbGen: u32 });
export type TlbContext = View<typeof TlbContext>;

/** Kernel: LOADED_MM_SWITCHING: CR3 is about to change. */
export const LOADED_MM_SWITCHING = 1 as Ptr<"mm_struct">;

/** The mm whose tables CR3 holds, or whose domain's (kernel: cpu_tlbstate.loaded_mm). */
export const loadedMm = perCpu("cpu_tlbstate.loaded_mm", pointer("mm_struct"));
/** Kernel: cpu_tlbstate.loaded_mm_asid. */
export const loadedMmAsid = perCpuInteger("cpu_tlbstate.loaded_mm_asid", 2);
/** Kernel: cpu_tlbstate.next_asid. */
export const nextAsid = perCpuInteger("cpu_tlbstate.next_asid", 2);
/** Every other ASID must be flushed when it is next loaded (kernel: cpu_tlbstate.invalidate_other). */
export const invalidateOther = perCpuInteger("cpu_tlbstate.invalidate_other", 1);
/** Kernel PCIDs whose user counterpart must be flushed on the way to user mode, a bit each; PTI only (kernel: user_pcid_flush_mask). */
export const userPcidFlushMask = perCpuInteger("cpu_tlbstate.user_pcid_flush_mask", 4);
/** A kernel thread runs on borrowed tables (kernel: cpu_tlbstate_shared.is_lazy). */
export const isLazy = perCpuInteger("cpu_tlbstate_shared.is_lazy", 1);
/** Kernel: cpu_tlbstate.ctxs. */
export const tlbContexts = perCpu("cpu_tlbstate.ctxs", bytes(TLB_NR_DYN_ASIDS * TlbContext.bytes, 8));

/** Kernel: struct flush_tlb_info: one request; addresses are page aligned. */
export const FlushTlbInfo = struct("flush_tlb_info", {
  /** NULL: a kernel range, in every address space. */
  mm: pointer("mm_struct"),
  start: word,
  /** TLB_FLUSH_ALL: everything. */
  end: word,
  newTlbGen: u32,
  /** 1: not translations, but the mm's LDT changed. */
  isLdt: u32,
  /** CPUs that have not answered yet. */
  waiting: u32,
});
export type FlushTlbInfo = View<typeof FlushTlbInfo>;
/** This CPU's own request. */
export const flushTlbInfo = perCpu("flush_tlb_info", bytes(FlushTlbInfo.bytes, 8));
/** CPUs whose request waits for this CPU. */
export const flushPending = perCpuInteger("flush_pending", 4);

/** End of a request for everything. Above every address. */
export const TLB_FLUSH_ALL = 2 ** 48;
/** Ranges of more pages are flushed whole (kernel: tlb_single_page_flush_ceiling). */
export const TLB_SINGLE_PAGE_FLUSH_CEILING = 33;
