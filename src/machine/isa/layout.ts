// Everything the core and its host keep in linear memory, as data: where a field is, how wide, what it means. The generator
// (`expand-layout.ts`) chains the records, aligns the fields and prints `core/layout.gen.ts`, which both sides import, so that no
// offset is ever written twice. Fields of the detailed gear stand in `layout-detailed.ts` and are appended to the same records.
import { detailedConstants, detailedCpuFields, detailedRecords, detailedRegionsFor } from "./layout-detailed.ts";

export type FieldType = "u8" | "u16" | "u32" | "i32" | "u64" | "i64" | "f64";

export interface Field {
  readonly name: string;
  readonly type: FieldType;
  /** Number of elements; 1 unless given. */
  readonly count?: number;
  readonly comment: string;
}

/** A record of fields. Offsets are relative; the active CPU block has absolute names too. */
export interface LayoutRecord {
  /** Prefix of every constant: `CPU_RIP`. */
  readonly prefix: string;
  readonly comment: string;
  readonly fields: readonly Field[];
  /** Total size, when fixed by arithmetic elsewhere (a shift instead of a multiplication). */
  readonly bytes?: number;
  /** True: constants are absolute addresses, the record stands once, at the region of the same name. */
  readonly absolute?: boolean;
}

/** A stretch of linear memory. Regions follow each other in table order. */
export interface Region {
  readonly name: string;
  readonly bytes: number;
  readonly align: number;
  readonly comment: string;
}

export interface ConstantGroup {
  readonly comment: string;
  readonly values: readonly (readonly [name: string, value: number, comment: string])[];
}

const KIB = 1024;
const MIB = 1024 * KIB;

/** Most logical CPUs that one core instance holds. */
export const MAX_CPUS = 8;

const cpuFields: readonly Field[] = [
  // The register file. A register operand of a micro-op is a byte offset from CPU_REGS, so it must stay within 256 bytes.
  { name: "REGS", type: "u64", count: 16, comment: "RAX RCX RDX RBX RSP RBP RSI RDI R8..R15" },
  { name: "ZERO", type: "u64", comment: "always 0: absent base or index register" },
  { name: "TEMP0", type: "u64", comment: "between micro-ops of one instruction" },
  { name: "TEMP1", type: "u64", comment: "between micro-ops of one instruction" },
  { name: "PAGE_BASE", type: "u64", comment: "virtual address of the page that executes: base of RIP-relative operands" },
  { name: "FS_BASE", type: "u64", comment: "IA32_FS_BASE" },
  { name: "GS_BASE", type: "u64", comment: "IA32_GS_BASE" },
  { name: "TEMP2", type: "u64", comment: "between micro-ops of one instruction" },
  { name: "SPARE_REGS", type: "u64", count: 9, comment: "rest of the 32 slots" },
  { name: "XMM", type: "u64", count: 32, comment: "XMM0..XMM15, 16 bytes each (moves only)" },
  {
    name: "RIP",
    type: "u64",
    comment: "exact between runs, at faults and at exits; in compatibility mode the linear address: CS base and EIP",
  },
  { name: "RFLAGS", type: "u64", comment: "system bits always; arithmetic bits when FLAG_KIND is FLAGS_RAW" },
  { name: "FLAG_A", type: "i64", comment: "lazy flags: first operand, sign-extended" },
  { name: "FLAG_B", type: "i64", comment: "lazy flags: second operand" },
  { name: "FLAG_R", type: "i64", comment: "lazy flags: result" },
  { name: "FLAG_KIND", type: "i32", comment: "FLAGS_*" },
  { name: "CPL", type: "u32", comment: "current privilege level, 0..3" },
  { name: "CR0", type: "u64", comment: "" },
  { name: "CR2", type: "u64", comment: "address of the last page fault" },
  { name: "CR3", type: "u64", comment: "root and PCID; NOFLUSH is never stored" },
  { name: "CR4", type: "u64", comment: "" },
  { name: "CR8", type: "u64", comment: "task priority" },
  { name: "EFER", type: "u64", comment: "IA32_EFER" },
  { name: "DR", type: "u64", count: 8, comment: "DR0..DR7 (stored, not acted upon)" },
  { name: "SEG_BASE", type: "u64", count: 8, comment: "ES CS SS DS - - LDTR TR (FS and GS: see FS_BASE, GS_BASE)" },
  { name: "SEG_LIMIT", type: "u32", count: 8, comment: "in bytes" },
  { name: "SEG_ACCESS", type: "u32", count: 8, comment: "access rights as in the VMCS (SDM vol. 3, 25.4.1)" },
  { name: "SEG_SELECTOR", type: "u32", count: 8, comment: "ES CS SS DS FS GS LDTR TR" },
  { name: "GDTR_BASE", type: "u64", comment: "" },
  { name: "IDTR_BASE", type: "u64", comment: "" },
  { name: "GDTR_LIMIT", type: "u32", comment: "" },
  { name: "IDTR_LIMIT", type: "u32", comment: "" },
  { name: "MSR_STAR", type: "u64", comment: "IA32_STAR" },
  { name: "MSR_LSTAR", type: "u64", comment: "IA32_LSTAR" },
  { name: "MSR_CSTAR", type: "u64", comment: "IA32_CSTAR: where SYSCALL goes from compatibility mode, on AMD processors" },
  { name: "MSR_FMASK", type: "u64", comment: "IA32_FMASK" },
  { name: "MSR_FRED_CONFIG", type: "u64", comment: "IA32_FRED_CONFIG: entry, red zone, current stack level" },
  { name: "MSR_FRED_RSP", type: "u64", count: 4, comment: "IA32_FRED_RSP0..3" },
  { name: "MSR_FRED_STKLVLS", type: "u64", comment: "IA32_FRED_STKLVLS: stack level of each vector below 32" },
  { name: "MSR_SYSENTER_CS", type: "u64", comment: "IA32_SYSENTER_CS" },
  { name: "MSR_SYSENTER_ESP", type: "u64", comment: "IA32_SYSENTER_ESP" },
  { name: "MSR_SYSENTER_EIP", type: "u64", comment: "IA32_SYSENTER_EIP" },
  { name: "MSR_KERNEL_GS_BASE", type: "u64", comment: "IA32_KERNEL_GS_BASE" },
  { name: "MSR_TSC_AUX", type: "u64", comment: "IA32_TSC_AUX, read by RDTSCP and RDPID" },
  { name: "SHADOW", type: "u32", comment: "1: STI or MOV SS was the last instruction; no interrupt before the next one" },
  { name: "NMI_BLOCKED", type: "u32", comment: "1 from the delivery of an NMI to the next IRET" },
  { name: "INTERRUPT_PENDING", type: "u32", comment: "set by the host: end the run as soon as an interrupt could be taken" },
  { name: "HALTED", type: "u32", comment: "1: in HLT" },
  { name: "LINK_PC", type: "u32", comment: "micro-op whose link the dispatcher shall fill" },
  { name: "LINK_SLOT", type: "u32", comment: "offset of that link in the micro-op" },
  { name: "PC", type: "u32", comment: "micro-op at which the executor left" },
  { name: "BUDGET", type: "i32", comment: "what is left of the slice, in instructions or cycles" },
  { name: "SLICE", type: "i32", comment: "what the slice began with" },
  { name: "SINGLE_STEP", type: "u32", comment: "1: blocks of one instruction (close to the budget, interrupt shadow)" },
  // Leaving the executor: which exit, and what the host needs to act.
  { name: "EXIT", type: "i32", comment: "EXIT_*" },
  { name: "EXIT_LENGTH", type: "u32", comment: "length of the instruction at RIP" },
  { name: "EXIT_KIND", type: "u32", comment: "ASSIST_* or INTERCEPT_*" },
  { name: "EXIT_REGISTER", type: "u32", comment: "number of the register operand (0..15) or control register" },
  { name: "EXIT_REGISTER2", type: "u32", comment: "number of the second register operand" },
  { name: "EXIT_SIZE", type: "u32", comment: "operand bytes (I/O)" },
  { name: "EXIT_PORT", type: "u32", comment: "I/O port" },
  { name: "EXIT_STRING", type: "u32", comment: "I/O: IO_IN, IO_STRING, IO_REP bits" },
  { name: "EXIT_ADDRESS", type: "u64", comment: "linear address of a memory operand" },
  { name: "EXIT_PHYSICAL", type: "u64", comment: "TRAP: physical address of the instruction; EPT: guest-physical address" },
  { name: "EXIT_QUALIFICATION", type: "u64", comment: "EPT violation: as in the VMCS (SDM vol. 3, table 28-7)" },
  { name: "EXIT_VECTOR", type: "u32", comment: "intercepted exception" },
  { name: "EXIT_ERROR", type: "u32", comment: "its error code" },
  { name: "EXIT_HAS_ERROR", type: "u32", comment: "1: EXIT_ERROR is valid" },
  // A fault on its way: from the access that failed to the delivery.
  { name: "FAULT_VECTOR", type: "u32", comment: "vector, or FAULT_EPT_VIOLATION, FAULT_EPT_MISCONFIG" },
  { name: "FAULT_ERROR", type: "u32", comment: "error code" },
  { name: "FAULT_ADDRESS", type: "u64", comment: "linear address (becomes CR2)" },
  { name: "FAULT_NONCANONICAL", type: "u32", comment: "1: #GP for an address that is not canonical; through the stack segment it is #SS" },
  { name: "DELIVERING", type: "u32", comment: "1 while an event is being delivered: an EPT violation then is one of the delivery" },
  { name: "DELIVERING_VECTOR", type: "u32", comment: "which event" },
  { name: "DELIVERING_TYPE", type: "u32", comment: "EVENT_*" },
  { name: "DELIVERING_ERROR", type: "u32", comment: "its error code" },
  { name: "DELIVERING_HAS_ERROR", type: "u32", comment: "1: it pushes an error code" },
  { name: "DELIVERING_LENGTH", type: "u32", comment: "software events: instruction length" },
  // Host accesses (kernel code in TypeScript): the outcome of the last one.
  { name: "ACCESS_STATUS", type: "u32", comment: "0: done; else 1, and FAULT_VECTOR, FAULT_ERROR, FAULT_ADDRESS say why" },
  { name: "ACCESS_HIGH", type: "u32", comment: "high half of a 64-bit result" },
  // Address-space context.
  { name: "GENERATION", type: "u64", comment: "context generation of soft-TLB and jump-cache tags, below 4096" },
  { name: "CONTEXT_BASE", type: "u32", comment: "generation of this address space with mode bits 0" },
  { name: "GUEST_MODE", type: "u32", comment: "1: VMX non-root operation" },
  { name: "CODE_MODE", type: "u32", comment: "CODE_*: what the bytes at RIP mean; 0 in 64-bit mode" },
  { name: "FEATURES", type: "u32", comment: "FEATURE_*: what the core itself must know of the model" },
  { name: "CODE_TAG", type: "u64", comment: "the mode as part of a jump-cache tag; 0 in 64-bit mode" },
  { name: "RIP_ABSENT", type: "u64", comment: "bits that an instruction pointer does not have: in compatibility mode the upper half" },
  { name: "EPTP", type: "u64", comment: "EPT pointer; root in bits 12..51; 0: no EPT" },
  { name: "VPID", type: "u32", comment: "0: host" },
  { name: "EXCEPTION_BITMAP", type: "u32", comment: "guest: exceptions that leave" },
  { name: "INTERCEPTS", type: "u32", comment: "guest: INTERCEPT_* classes that leave, one bit each" },
  { name: "PF_ERROR_MASK", type: "u32", comment: "guest: VMCS page-fault error-code mask" },
  { name: "PF_ERROR_MATCH", type: "u32", comment: "guest: VMCS page-fault error-code match" },
  { name: "CPU_ID", type: "u32", comment: "number of this logical CPU" },
  { name: "CONTEXT_LABEL", type: "u16", comment: "owner label of the context that executes (ground truth)" },
  // Counters.
  { name: "RETIRED", type: "u64", comment: "instructions retired before the current slice" },
  { name: "CYCLES", type: "u64", comment: "cycles before the current slice" },
  { name: "TSC_OFFSET", type: "i64", comment: "added to the cycles by RDTSC" },
  { name: "CYCLES_PER_INSTRUCTION", type: "u32", comment: "architectural gear: cycles charged per instruction" },
  { name: "SPENT", type: "i32", comment: "what the last slice used of the budget" },
  {
    name: "FAULT_LEVEL",
    type: "u32",
    comment: "not-present and reserved-bit faults: shift of the level that ended the walk (12, 21, 30, 39)",
  },
  { name: "FAULT_ENTRY", type: "u64", comment: "and the entry found there" },
  { name: "FAULT_TERMINAL", type: "u32", comment: "1: the last fault was not-present or reserved-bit, and FAULT_ENTRY is valid" },
  { name: "FAULT_PHYSICAL", type: "u64", comment: "permission faults: where the access would have gone; all ones: nowhere" },
  { name: "WALK_ENTRIES", type: "u64", count: 4, comment: "walk in progress: physical addresses of the entries, leaf last" },
  {
    name: "UNIMPLEMENTED",
    type: "u32",
    comment: "number (in the host's list) of the last instruction that is #UD for want of an implementation",
  },
  ...detailedCpuFields,
  // Reads of CR0 and CR4 by a guest: SDM vol. 3, 26.6.6. The masks are 0 outside a guest.
  { name: "CR0_MASK", type: "u64", comment: "guest: CR0 bits that the host owns" },
  { name: "CR0_SHADOW", type: "u64", comment: "guest: what reads of those bits give" },
  { name: "CR4_MASK", type: "u64", comment: "guest: CR4 bits that the host owns" },
  { name: "CR4_SHADOW", type: "u64", comment: "guest: what reads of those bits give" },
];

export const records: readonly LayoutRecord[] = [
  {
    prefix: "CPU",
    comment: "The logical CPU that runs, at a fixed address so that its fields are constants. The others wait in SAVED_CPUS.",
    fields: cpuFields,
    absolute: true,
  },
  {
    prefix: "UOP",
    comment: "A micro-op. Branches have the second half.",
    bytes: 32,
    fields: [
      { name: "OP", type: "u16", comment: "index in the op table" },
      { name: "DST", type: "u8", comment: "byte offset in the register file" },
      { name: "SRC", type: "u8", comment: "byte offset in the register file" },
      { name: "BASE", type: "u8", comment: "byte offset; CPU_ZERO if absent" },
      { name: "INDEX", type: "u8", comment: "byte offset; CPU_ZERO if absent" },
      { name: "SCALE", type: "u8", comment: "shift of the index, 0..3" },
      { name: "FLAGS", type: "u8", comment: "UOP_FLAG_*" },
      { name: "DISP", type: "i32", comment: "displacement; low half of a 64-bit immediate" },
      { name: "IMM", type: "i32", comment: "immediate, sign-extended; high half of a 64-bit immediate" },
      { name: "LINK", type: "u32", count: 2, comment: "branches: micro-op that follows when not taken [0], taken [1]" },
      { name: "COUNT", type: "u16", comment: "branches: instructions since the last count, this one included" },
      { name: "NEXT_OFFSET", type: "u16", comment: "branches: low 13 bits of page offset of the next instruction" },
      { name: "KEY", type: "u32", comment: "branches: key for the predictors (low bits of the address)" },
    ],
  },
  {
    prefix: "SITE",
    comment: "Cold facts of a micro-op slot (16 bytes of code), in a table beside the code: where its instruction is.",
    bytes: 4,
    fields: [
      { name: "OFFSET", type: "u16", comment: "page offset of the instruction; SITE_FIRST is set in its first micro-op" },
      { name: "INDEX", type: "u8", comment: "instructions before it since the last count" },
      { name: "LENGTH", type: "u8", comment: "instruction length" },
    ],
  },
  {
    prefix: "SOFT",
    comment: "An entry of the soft TLB: three tags (page | context generation) and what to add to an address.",
    bytes: 32,
    fields: [
      { name: "READ", type: "u64", comment: "tag for loads; all ones: empty" },
      { name: "WRITE", type: "u64", comment: "tag for stores" },
      { name: "EXECUTE", type: "u64", comment: "tag for fetches" },
      { name: "ADDEND", type: "u32", comment: "host address of the page minus low half of its virtual address" },
      { name: "MODELLED", type: "u32", comment: "address of the modelled TLB entry it was filled from" },
    ],
  },
  {
    prefix: "JUMP",
    comment: "An entry of the jump cache.",
    bytes: 16,
    fields: [
      { name: "TAG", type: "u64", comment: "virtual address, with CODE_TAG" },
      { name: "PC", type: "u32", comment: "first micro-op" },
      { name: "ADDEND", type: "u32", comment: "addend of the page when the entry was made: another frame does not match" },
    ],
  },
  {
    prefix: "BLOCK",
    comment: "Header of a translated block; its micro-ops follow.",
    bytes: 16,
    fields: [
      { name: "NEXT", type: "u32", comment: "next block of the same frame; 0: last" },
      {
        name: "OFFSET",
        type: "u16",
        comment: "page offset of the first instruction; BLOCK_ALIAS: only leads to a block of the page before",
      },
      { name: "MODE", type: "u8", comment: "CODE_*, with CODE_STEP in a single-step block" },
      { name: "FLAGS", type: "u8", comment: "1: stale" },
      { name: "FRAME", type: "u32", comment: "frame number; of an alias: of the block it leads to" },
      { name: "LIMIT", type: "u32", comment: "address after its last micro-op" },
    ],
  },
  {
    prefix: "TLB",
    comment: "An entry of the modelled TLB.",
    bytes: 32,
    fields: [
      { name: "PAGE", type: "u64", comment: "virtual address of the page (aligned to its size); all ones: empty" },
      { name: "FRAME", type: "u64", comment: "physical address of the page" },
      { name: "PCID", type: "u16", comment: "" },
      { name: "VPID", type: "u16", comment: "" },
      { name: "EP4TA", type: "u32", comment: "bits 12..43 of the EPT pointer; 0: none" },
      { name: "FLAGS", type: "u16", comment: "TLB_FLAG_*" },
      { name: "SHIFT", type: "u16", comment: "12, 21 or 30" },
      { name: "STAMP", type: "u32", comment: "last use" },
    ],
  },
  {
    prefix: "CONTEXT",
    comment: "An address-space context that owns context generations.",
    bytes: 32,
    fields: [
      { name: "KEY_CR3", type: "u64", comment: "root, PCID" },
      { name: "KEY_EPTP", type: "u64", comment: "" },
      { name: "KEY_MODE", type: "u32", comment: "CPU, VPID and the paging-control bits" },
      { name: "BASE", type: "u32", comment: "first of its four generations; 0: free" },
      { name: "PAD", type: "u64", comment: "" },
    ],
  },
  ...detailedRecords,
];

export const SOFT_TLB_ENTRIES = 1024;
/** Translations that were displaced from one entry of the soft TLB and are kept. A power of two. */
export const SOFT_KEPT_WAYS = 4;
/** One for every four values of a generation. */
export const GENERATIONS = 1024;
export const JUMP_CACHE_ENTRIES = 4096;
export const MAX_TLB_ENTRIES = 2048;
export const MAX_CONTEXTS = 64;
const CODE_BYTES = 24 * MIB;
/** Largest simulated physical memory: what fits a 32-bit linear memory above the core's own regions. */
export const MAX_FRAMES = 3 * 256 * KIB;

export const regions: readonly Region[] = [
  { name: "CPU", bytes: 8 * KIB, align: 4096, comment: "the active CPU block" },
  { name: "SAVED_CPUS", bytes: 8 * KIB * MAX_CPUS, align: 4096, comment: "the blocks of the others" },
  { name: "SHARED", bytes: 4 * KIB, align: 4096, comment: "SHARED_* fields: of the machine, not of a CPU" },
  { name: "BOUNCE", bytes: 4 * KIB, align: 4096, comment: "an access that crosses a page is assembled here" },
  { name: "SOFT_TLB", bytes: SOFT_TLB_ENTRIES * 32, align: 4096, comment: "" },
  {
    name: "SOFT_KEPT",
    bytes: SOFT_TLB_ENTRIES * SOFT_KEPT_WAYS * 32,
    align: 4096,
    comment: "per soft-TLB entry: what was displaced from it by other contexts (architectural gear)",
  },
  { name: "LIVE_GENERATIONS", bytes: GENERATIONS, align: 4096, comment: "one byte per context generation: 1 while a context has it" },
  { name: "JUMP_CACHE", bytes: JUMP_CACHE_ENTRIES * 16, align: 4096, comment: "" },
  { name: "CONTEXTS", bytes: MAX_CONTEXTS * 32, align: 4096, comment: "" },
  { name: "TLB", bytes: MAX_TLB_ENTRIES * 32 * MAX_CPUS, align: 4096, comment: "modelled TLBs, one per logical CPU" },
  {
    name: "TLB_OCCUPIED",
    bytes: (MAX_TLB_ENTRIES / 8) * MAX_CPUS,
    align: 64,
    comment: "which of their entries hold something: one bit each",
  },
  { name: "TRAPS", bytes: 64 * KIB, align: 4096, comment: "registered trap addresses: open-addressing table of u64" },
  { name: "FRAME_BLOCKS", bytes: MAX_FRAMES * 4, align: 4096, comment: "per frame: first block translated from it; 0: none" },
  { name: "FRAME_LINES", bytes: MAX_FRAMES * 8, align: 4096, comment: "per frame: bitmap of its 64-byte lines that hold translated code" },
  { name: "SITES", bytes: CODE_BYTES / 4, align: 4096, comment: "SITE records, one per 16 bytes of CODE" },
  { name: "CODE", bytes: CODE_BYTES, align: 4096, comment: "blocks" },
  ...detailedRegionsFor(MAX_FRAMES),
  { name: "PHYSICAL", bytes: 0, align: 64 * KIB, comment: "simulated physical memory, to the end" },
];

/** Fields of the SHARED region. */
export const sharedFields: readonly Field[] = [
  { name: "PHYSICAL_BYTES", type: "u64", comment: "size of simulated physical memory" },
  { name: "CODE_TOP", type: "u32", comment: "first free byte of CODE" },
  { name: "CODE_EPOCH", type: "u32", comment: "counts discards of all translations" },
  { name: "NEXT_GENERATION", type: "u32", comment: "next free context generation" },
  { name: "TLB_SETS", type: "u32", comment: "geometry of the modelled TLB: sets (a power of two)" },
  { name: "TLB_WAYS", type: "u32", comment: "and ways; sets * ways <= MAX_TLB_ENTRIES" },
  { name: "TLB_STAMP", type: "u32", comment: "last LRU stamp" },
  { name: "PHYSICAL_MASK_BITS", type: "u32", comment: "MAXPHYADDR of the model" },
  { name: "TLB_FILLS", type: "u64", comment: "counter: modelled TLB misses that were filled" },
  { name: "SOFT_FILLS", type: "u64", comment: "counter: soft TLB fills" },
  { name: "WALK_PA", type: "u64", comment: "result of a walk: physical address" },
  { name: "WALK_SHIFT", type: "u32", comment: "result: page size (after EPT: the smaller of both)" },
  { name: "WALK_FLAGS", type: "u32", comment: "result: TLB_FLAG_*" },
  { name: "EPT_FLAGS", type: "u32", comment: "result of an EPT walk: read, write, execute" },
  { name: "EPT_SHIFT", type: "u32", comment: "result of an EPT walk: page size" },
  { name: "CPUS", type: "u32", comment: "number of logical CPUs" },
  { name: "PINNED", type: "u32", comment: "not 0: translations must not be discarded (an executor above holds one)" },
  { name: "TRANSLATE_PAGE", type: "u64", comment: "virtual address of the page that is being translated" },
  {
    name: "TRANSLATED_NEXT",
    type: "u32",
    comment: "set by the translator: frame + 1 of the following page that the block reaches into; 0: none",
  },
  { name: "FREE", type: "u32", comment: "" },
  { name: "SCRATCH", type: "u64", count: 16, comment: "results of core functions that have more than one" },
];

export const constants: readonly ConstantGroup[] = [
  {
    comment: "How run() ends.",
    values: [
      ["EXIT_BUDGET", 1, "the budget is used up, exactly"],
      ["EXIT_TRAP", 2, "a registered trap instruction was executed; RIP is after it"],
      ["EXIT_ASSIST", 3, "an instruction the host performs (ASSIST_*); RIP at it"],
      ["EXIT_INTERCEPT", 4, "a guest instruction or exception that leaves (INTERCEPT_*); RIP at it"],
      ["EXIT_HALT", 5, "HLT was executed; RIP is after it"],
      ["EXIT_EPT_VIOLATION", 6, ""],
      ["EXIT_EPT_MISCONFIG", 7, ""],
      ["EXIT_WINDOW", 8, "an interrupt could be taken now and the host had asked for that"],
      ["EXIT_TRIPLE_FAULT", 9, ""],
      ["EXIT_NMI_WINDOW", 10, "IRET ended NMI blocking and the host had asked for that"],
    ],
  },
  {
    comment: "How the executor leaves to the dispatcher; values above the EXIT_* codes.",
    values: [
      ["LEAVE_DISPATCH", 32, "RIP is set: look up or translate"],
      ["LEAVE_LINK", 33, "as LEAVE_DISPATCH, and fill the link at LINK_PC + LINK_SLOT"],
      ["LEAVE_FAULT", 34, "FAULT_* are set; RIP follows from the site of PC"],
      ["LEAVE_SLICE", 35, "slice used up; PC is where to go on"],
      ["LEAVE_STEPPED", 36, "the instruction is complete and has set RIP"],
      ["LEAVE_EXIT", 37, "EXIT is set; RIP follows from the site of PC"],
      ["LEAVE_EXIT_AFTER", 38, "EXIT is set; RIP is after the instruction"],
      ["LEAVE_NEXT", 39, "the instruction is complete; go on at the dispatcher behind it"],
      ["LEAVE_REPEAT", 40, "the instruction goes on with its next portion; RIP stays"],
      ["LEAVE_STALE", 41, "the code at PC was overwritten: RIP stays, look up again"],
    ],
  },
  {
    comment: "Kinds of lazy flags.",
    values: [
      ["FLAGS_RAW", 0, "arithmetic bits stand in FLAG_A as in RFLAGS"],
      ["FLAGS_ADD", 1, "r = a + b (+ carry)"],
      ["FLAGS_SUB", 2, "r = a - b (- borrow)"],
      ["FLAGS_LOGIC", 3, "CF = OF = AF = 0, the rest from r"],
      ["FLAGS_EXPLICIT", 4, "CF and AF in FLAG_A as in RFLAGS, OF the sign of FLAG_B, the rest from r"],
    ],
  },
  {
    comment: "UOP_FLAGS bits.",
    values: [
      ["UOP_FLAG_FIRST", 1, "first micro-op of its instruction"],
      ["UOP_FLAG_LAST", 2, "last micro-op of its instruction"],
      ["UOP_FLAG_STACK", 4, "its memory operand is in the stack segment: an address that is not canonical is #SS, not #GP"],
    ],
  },
  {
    comment: "Bits of SITE_OFFSET.",
    values: [
      ["SITE_OFFSET_MASK", 0xfff, ""],
      ["SITE_FIRST", 0x8000, "first micro-op of an instruction"],
      ["BLOCK_ALIAS", 0xffff, "BLOCK_OFFSET of a header without code: the block of frame BLOCK_FRAME reaches into this one"],
    ],
  },
  {
    comment: "Bits of CPU_INTERRUPT_PENDING.",
    values: [
      ["PENDING_INTERRUPT", 1, "end the run when IF is 1 and no shadow holds interrupts back"],
      ["PENDING_NMI", 2, "end the run when NMIs are not blocked"],
    ],
  },
  {
    comment: "What code means (BLOCK_MODE, CODE_MODE): SDM vol. 3, 3.4.5, CS.L and CS.D.",
    values: [
      ["CODE_STEP", 1, "a block of one instruction"],
      ["CODE_32", 2, "compatibility mode, operands and addresses of 32 bits (CS.D = 1)"],
      ["CODE_16", 4, "compatibility mode, operands and addresses of 16 bits (CS.D = 0)"],
      ["CODE_SEGMENTED", 8, "compatibility mode, and some of CS, DS, ES, SS is not flat, or the stack pointer has 16 bits"],
    ],
  },
  {
    comment: "Bits of CPU_FEATURES.",
    values: [
      ["FEATURE_AMD", 1, "SYSCALL in compatibility mode goes to CSTAR; SYSENTER is undefined in long mode"],
      ["FEATURE_FRED", 2, "CR4.FRED can be set; LKGS exists"],
    ],
  },
  {
    comment: "Mode bits of a context generation.",
    values: [
      ["MODE_SUPERVISOR", 0, ""],
      ["MODE_SUPERVISOR_AC", 1, "RFLAGS.AC lifts SMAP"],
      ["MODE_USER", 3, ""],
      ["GENERATION_STEP", 4, "generations per context"],
    ],
  },
  {
    comment: "Modelled TLB entry flags: what the walk allowed.",
    values: [
      ["TLB_FLAG_WRITE", 1, "writable at every level"],
      ["TLB_FLAG_USER", 2, "user at every level"],
      ["TLB_FLAG_NX", 4, "no execution at some level"],
      ["TLB_FLAG_GLOBAL", 8, "G in the leaf, and CR4.PGE"],
      ["TLB_FLAG_DIRTY", 16, "D was set"],
      ["TLB_FLAG_EPT_WRITE", 32, "EPT allows writes (set without EPT)"],
      ["TLB_FLAG_EPT_EXECUTE", 64, "EPT allows execution (set without EPT)"],
      ["TLB_FLAG_EPT_READ", 128, "EPT allows reads (set without EPT)"],
    ],
  },
  {
    comment: "Kinds of access for the MMU.",
    values: [
      ["ACCESS_READ", 0, ""],
      ["ACCESS_WRITE", 1, ""],
      ["ACCESS_EXECUTE", 2, ""],
    ],
  },
  {
    comment: "Pseudo-vectors in FAULT_VECTOR.",
    values: [
      ["FAULT_EPT_VIOLATION", 256, ""],
      ["FAULT_EPT_MISCONFIG", 257, ""],
    ],
  },
  {
    comment: "Event types of deliver(), as in the VMCS interruption-information field.",
    values: [
      ["EVENT_INTERRUPT", 0, "external interrupt"],
      ["EVENT_NMI", 2, ""],
      ["EVENT_EXCEPTION", 3, "hardware exception"],
      ["EVENT_SOFTWARE_INTERRUPT", 4, "INT n"],
      ["EVENT_PRIVILEGED_SOFTWARE", 5, "INT1"],
      ["EVENT_SOFTWARE_EXCEPTION", 6, "INT3, INTO"],
      ["EVENT_OTHER", 7, "FRED: SYSCALL (vector 1), SYSENTER (vector 2)"],
    ],
  },
  {
    comment: "Instructions that the host performs.",
    values: [
      ["ASSIST_CPUID", 1, ""],
      ["ASSIST_RDMSR", 2, ""],
      ["ASSIST_WRMSR", 3, ""],
      ["ASSIST_IN", 4, "EXIT_PORT, EXIT_SIZE, EXIT_STRING"],
      ["ASSIST_OUT", 5, ""],
      ["ASSIST_VMCALL", 6, ""],
      ["ASSIST_VMLAUNCH", 7, ""],
      ["ASSIST_VMRESUME", 8, ""],
      ["ASSIST_VMXOFF", 9, ""],
      ["ASSIST_VMXON", 10, "EXIT_ADDRESS"],
      ["ASSIST_VMCLEAR", 11, "EXIT_ADDRESS"],
      ["ASSIST_VMPTRLD", 12, "EXIT_ADDRESS"],
      ["ASSIST_VMPTRST", 13, "EXIT_ADDRESS"],
      ["ASSIST_VMREAD", 14, "register form: EXIT_REGISTER (destination), EXIT_REGISTER2 (field); memory form: EXIT_SIZE 8, EXIT_ADDRESS"],
      ["ASSIST_VMWRITE", 15, "register form: EXIT_REGISTER (source), EXIT_REGISTER2 (field)"],
      ["ASSIST_INVEPT", 16, "EXIT_REGISTER (type), EXIT_ADDRESS (descriptor)"],
      ["ASSIST_INVVPID", 17, "as INVEPT"],
      ["ASSIST_VMMCALL", 18, ""],
      ["ASSIST_WBINVD", 19, ""],
      ["ASSIST_MONITOR", 20, ""],
      ["ASSIST_MWAIT", 21, ""],
      ["ASSIST_XSETBV", 22, ""],
      ["ASSIST_XGETBV", 23, ""],
      ["ASSIST_RDPMC", 24, ""],
      ["ASSIST_INVD", 25, ""],
      ["ASSIST_PAUSE", 26, "only as an intercept"],
      ["ASSIST_VERW", 27, "VERW with a memory operand: clears buffers on some CPUs; EXIT_ADDRESS"],
    ],
  },
  {
    comment: "Classes that a guest may not perform by itself: bit numbers of CPU_INTERCEPTS and values of EXIT_KIND.",
    values: [
      ["INTERCEPT_HLT", 0, ""],
      ["INTERCEPT_CPUID", 1, ""],
      ["INTERCEPT_CR0_WRITE", 2, ""],
      ["INTERCEPT_CR3_READ", 3, ""],
      ["INTERCEPT_CR3_WRITE", 4, ""],
      ["INTERCEPT_CR4_WRITE", 5, ""],
      ["INTERCEPT_CR8_READ", 6, ""],
      ["INTERCEPT_CR8_WRITE", 7, ""],
      ["INTERCEPT_DR", 8, ""],
      ["INTERCEPT_IO", 9, ""],
      ["INTERCEPT_RDMSR", 10, ""],
      ["INTERCEPT_WRMSR", 11, ""],
      ["INTERCEPT_RDTSC", 12, "RDTSC and RDTSCP"],
      ["INTERCEPT_INVLPG", 13, "INVLPG and INVPCID"],
      ["INTERCEPT_PAUSE", 14, ""],
      ["INTERCEPT_MWAIT", 15, ""],
      ["INTERCEPT_MONITOR", 16, ""],
      ["INTERCEPT_WBINVD", 17, ""],
      ["INTERCEPT_DESCTABLE", 18, "LGDT LIDT LLDT LTR SGDT SIDT SLDT STR"],
      ["INTERCEPT_VMCALL", 19, ""],
      ["INTERCEPT_VMX", 20, "the other VMX instructions"],
      ["INTERCEPT_XSETBV", 21, ""],
      ["INTERCEPT_RDPMC", 22, ""],
      ["INTERCEPT_INVD", 23, ""],
      ["INTERCEPT_EXCEPTION", 24, "EXIT_VECTOR, EXIT_ERROR"],
      ["INTERCEPT_CLTS_LMSW", 25, "treated as CR0 writes; EXIT_REGISTER2 tells which"],
    ],
  },
  {
    comment: "EXIT_STRING bits.",
    values: [
      ["IO_IN", 1, ""],
      ["IO_STRING", 2, ""],
      ["IO_REP", 4, ""],
    ],
  },
  {
    comment: "Segment register numbers (the order of the encoding), and two more.",
    values: [
      ["SEG_ES", 0, ""],
      ["SEG_CS", 1, ""],
      ["SEG_SS", 2, ""],
      ["SEG_DS", 3, ""],
      ["SEG_FS", 4, ""],
      ["SEG_GS", 5, ""],
      ["SEG_LDTR", 6, ""],
      ["SEG_TR", 7, ""],
    ],
  },
  {
    comment: "Sizes.",
    values: [
      ["SOFT_TLB_ENTRIES", SOFT_TLB_ENTRIES, ""],
      ["SOFT_KEPT_WAYS", SOFT_KEPT_WAYS, "per soft-TLB entry"],
      ["JUMP_CACHE_ENTRIES", JUMP_CACHE_ENTRIES, ""],
      ["MAX_TLB_ENTRIES", MAX_TLB_ENTRIES, "per logical CPU"],
      ["MAX_CONTEXTS", MAX_CONTEXTS, ""],
      ["MAX_CPUS", MAX_CPUS, ""],
      ["MAX_FRAMES", MAX_FRAMES, ""],
      ["CODE_BYTES", CODE_BYTES, ""],
      ["MAX_BLOCK_INSTRUCTIONS", 64, "also the distance from the budget at which single steps begin"],
    ],
  },
  ...detailedConstants,
];
