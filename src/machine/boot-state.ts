// The state in which firmware hands a CPU to the kernel (src/hardware/boot-params.ts): 64-bit mode, paging on, flat segments.
import {
  type CpuModel,
  CR0_ET,
  CR0_MP,
  CR0_NE,
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PGE,
  EFER_LMA,
  EFER_LME,
  EFER_NXE,
  EFER_SCE,
  hasFeature,
  RFLAGS_FIXED,
} from "../hardware/index.ts";
import { AR_UNUSABLE } from "../platform/index.ts";
import {
  CPU_CPL,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_CYCLES_PER_INSTRUCTION,
  CPU_EFER,
  CPU_FEATURES,
  CPU_FLAG_A,
  CPU_FLAG_KIND,
  CPU_GDTR_LIMIT,
  CPU_IDTR_LIMIT,
  CPU_REGS,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SEG_ACCESS,
  CPU_SEG_LIMIT,
  CPU_SEG_SELECTOR,
  FEATURE_AMD,
  FEATURE_FRED,
  FLAGS_RAW,
  SEG_CS,
  SEG_LDTR,
  SEG_TR,
} from "./core/layout.gen.ts";
import type { CoreFields } from "./core-fields.ts";

export interface CpuStart {
  readonly id: number;
  /** Virtual address of the first instruction. */
  readonly entry: number;
  /** Physical address of the page tables. */
  readonly pageTable: number;
  /** FEATURE_* of the model. */
  readonly features: number;
}

const RSP = CPU_REGS + 32;
const RDI = CPU_REGS + 56;
/** Selectors of the firmware's flat descriptors; the hidden parts are loaded, the table itself is gone. */
const CODE_SELECTOR = 0x10;
const DATA_SELECTOR = 0x18;
const CODE_ACCESS = 0xa09b;
const DATA_ACCESS = 0xc093;
const TSS_ACCESS = 0x8b;
const FLAT_LIMIT = 0xffffffff;
/** One instruction per cycle: the stated cost of the architectural gear. */
const CYCLES_PER_INSTRUCTION = 1;

/** FEATURE_* of `model`. */
export function coreFeatures(model: CpuModel): number {
  return (model.vendor === "AuthenticAMD" ? FEATURE_AMD : 0) | (hasFeature(model, "FRED") ? FEATURE_FRED : 0);
}

/** Fills the active CPU block. */
export function startCpu(fields: CoreFields, start: CpuStart): void {
  fields.set(CPU_CR0, (CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG) >>> 0, 0);
  fields.setWord(CPU_CR3, start.pageTable);
  fields.set(CPU_CR4, CR4_PAE | CR4_PGE, 0);
  fields.set(CPU_EFER, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE, 0);
  for (let segment = 0; segment < 6; segment++) {
    fields.setLow(CPU_SEG_SELECTOR + 4 * segment, segment === SEG_CS ? CODE_SELECTOR : DATA_SELECTOR);
    fields.setLow(CPU_SEG_LIMIT + 4 * segment, FLAT_LIMIT);
    fields.setLow(CPU_SEG_ACCESS + 4 * segment, segment === SEG_CS ? CODE_ACCESS : DATA_ACCESS);
  }
  fields.setLow(CPU_SEG_ACCESS + 4 * SEG_LDTR, AR_UNUSABLE);
  fields.setLow(CPU_SEG_ACCESS + 4 * SEG_TR, TSS_ACCESS);
  fields.setLow(CPU_GDTR_LIMIT, 0);
  fields.setLow(CPU_IDTR_LIMIT, 0);
  fields.setLow(CPU_FEATURES, start.features);
  fields.setLow(CPU_CPL, 0);
  fields.set(CPU_RFLAGS, RFLAGS_FIXED, 0);
  fields.set(CPU_FLAG_A, 0, 0);
  fields.setLow(CPU_FLAG_KIND, FLAGS_RAW);
  fields.setLow(CPU_CYCLES_PER_INSTRUCTION, CYCLES_PER_INSTRUCTION);
  fields.setWord(CPU_RIP, start.entry);
  fields.setWord(RSP, 0);
  fields.setWord(RDI, start.id);
}
