// The data of local descriptor tables (arch/x86/include/asm/mmu_context.h). Only declarations.
import { struct, u32, type View, virtual } from "../../hardware/index.ts";

/** Kernel: LDT_ENTRIES, LDT_ENTRY_SIZE. */
export const LDT_ENTRIES = 8192;
export const LDT_ENTRY_BYTES = 8;

/**
 * Kernel: struct ldt_struct. Never changed once it is installed: a change makes a new one. Nonsensitive, like the entries: the processor
 * reads them in every address space.
 */
export const LdtStruct = struct("ldt_struct", {
  /** The descriptors: whole pages, in the direct map. */
  entries: virtual,
  nrEntries: u32,
  /** Log2 of the pages. */
  order: u32,
  /** With PTI: which of both places of the user tables it is mapped at. */
  slot: u32,
});
export type LdtStruct = View<typeof LdtStruct>;
