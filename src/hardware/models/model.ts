// The shape of a CPU model: what CPUID and MSRs say, which bugs it has, geometry and costs. Models are data, one file each; names
// stand in the data and masks are computed. Every number has its source.

/** Bug bits by their kernel names (X86_BUG_*). */
export type Bug =
  | "CPU_MELTDOWN"
  | "SPECTRE_V1"
  | "SPECTRE_V2"
  | "SPECTRE_V2_USER"
  | "SPEC_STORE_BYPASS"
  | "L1TF"
  | "MDS"
  | "SWAPGS"
  | "TAA"
  | "ITLB_MULTIHIT"
  | "MMIO_STALE_DATA"
  | "RETBLEED"
  | "GDS"
  | "ITS"
  | "BHI"
  | "EIBRS_PBRSB"
  | "VMSCAPE";

/** Feature bits by their kernel names (X86_FEATURE_*). */
export type Feature =
  | "PCID"
  | "INVPCID"
  | "PGE"
  | "NX"
  | "GBPAGES"
  | "SMEP"
  | "SMAP"
  | "UMIP"
  | "FSGSBASE"
  | "RDTSCP"
  | "X2APIC"
  | "TSC_DEADLINE_TIMER"
  | "VMX"
  | "IBPB"
  | "IBRS"
  | "STIBP"
  | "SSBD"
  | "MD_CLEAR"
  | "FLUSH_L1D"
  | "ARCH_CAPABILITIES"
  | "RTM"
  | "FRED"
  | "LKGS";

/** IA32_ARCH_CAPABILITIES bits. SDM vol. 4. */
export const ARCH_CAPABILITIES_BITS = {
  RDCL_NO: 0,
  IBRS_ALL: 1,
  RSBA: 2,
  SKIP_L1DFL_VMENTRY: 3,
  SSB_NO: 4,
  MDS_NO: 5,
  PSCHANGE_MC_NO: 6,
  TSX_CTRL_MSR: 7,
  TAA_NO: 8,
  FB_CLEAR: 17,
  FB_CLEAR_CTRL: 18,
  RRSBA: 19,
  GDS_CTRL: 25,
} as const;
export type ArchCapability = keyof typeof ARCH_CAPABILITIES_BITS;

/** A number and where it comes from. `assumed` numbers are ours and may be overridden. */
export interface Sourced {
  readonly value: number;
  readonly source: string;
  readonly isAssumed: boolean;
}

export function from(source: string, value: number): Sourced {
  return { value, source, isAssumed: false };
}

export function assumed(reason: string, value: number): Sourced {
  return { value, source: reason, isAssumed: true };
}

export interface Cache {
  readonly sets: number;
  readonly ways: number;
  /** Load-to-use latency in core cycles. */
  readonly latency: Sourced;
}

export interface CpuModel {
  /** Key on the command line. */
  readonly key: string;
  readonly name: string;
  readonly vendor: "GenuineIntel" | "AuthenticAMD";
  readonly brand: string;
  readonly family: number;
  readonly model: number;
  readonly stepping: number;
  readonly physicalBits: number;
  readonly bugs: readonly Bug[];
  readonly features: readonly Feature[];
  readonly archCapabilities: readonly ArchCapability[];
  readonly l1d: Cache;
  readonly l1i: Cache;
  readonly l2: Cache;
  /** Shared; `sets` and `ways` of the whole slice set that the simulated package has. */
  readonly l3: Cache & { readonly isInclusive: boolean };
  readonly memoryLatency: Sourced;
  readonly lineFillBuffers: number;
  readonly storeBuffer: number;
  readonly reorderBuffer: number;
  readonly dtlb: { readonly sets: number; readonly ways: number };
  readonly stlb: { readonly sets: number; readonly ways: number };
  readonly branchTargets: Sourced;
  readonly returnStack: number;
  readonly branchHistory: Sourced;
  /** On underflow a RET takes its prediction from the indirect predictor (RSBA). */
  readonly returnUnderflowUsesBtb: boolean;
  readonly ibpbClearsReturnStack: boolean;
  readonly mispredictPenalty: Sourced;
  /** Cycles of operations. */
  readonly cost: {
    readonly syscall: Sourced;
    readonly sysret: Sourced;
    readonly iret: Sourced;
    readonly interruptDelivery: Sourced;
    readonly pageFault: Sourced;
    readonly cr3Write: Sourced;
    readonly cr3WriteNoflush: Sourced;
    readonly ibpb: Sourced;
    readonly l1dFlush: Sourced;
    readonly verw: Sourced;
    readonly lfence: Sourced;
    readonly invlpg: Sourced;
    readonly invpcid: Sourced;
    readonly vmEntry: Sourced;
    readonly vmExit: Sourced;
    readonly vmread: Sourced;
    readonly vmwrite: Sourced;
    readonly wrmsr: Sourced;
    readonly rdmsr: Sourced;
    readonly cpuid: Sourced;
  };
}
