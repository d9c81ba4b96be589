// Which bugs a CPU has, from its signature, its features and IA32_ARCH_CAPABILITIES: the rules of cpu_set_bug_bits() and the lists of
// affected models (kernel v6.18, arch/x86/kernel/cpu/common.c). Facts only: nothing here acts.
import type { ArchCapability, CpuFeature } from "./cpu-features.ts";

/** Kernel: X86_BUG_*. Those of Intel's parts; the others' exist on no model here. */
export const CPU_BUGS = [
  "CPU_MELTDOWN",
  "L1TF",
  "MDS",
  "TAA",
  "MMIO_STALE_DATA",
  "RFDS",
  "SRBDS",
  "GDS",
  "ITLB_MULTIHIT",
  "SPECTRE_V1",
  "SPECTRE_V2",
  "SPECTRE_V2_USER",
  "SPEC_STORE_BYPASS",
  "SWAPGS",
  "RETBLEED",
  "ITS",
  "ITS_NATIVE_ONLY",
  "BHI",
  "EIBRS_PBRSB",
  "VMSCAPE",
] as const;
export type CpuBug = (typeof CPU_BUGS)[number];

export interface CpuSignature {
  readonly family: number;
  readonly model: number;
  readonly stepping: number;
}

/** What the rules look at. */
export interface CpuEnumeration extends CpuSignature {
  has(feature: CpuFeature): boolean;
  hasCapability(name: ArchCapability): boolean;
}

interface Listed {
  readonly model: number;
  readonly minStepping: number;
  readonly maxStepping: number;
  readonly bugs: readonly (CpuBug | "MMIO_SBDS")[];
}

function listed(model: number, bugs: Listed["bugs"], minStepping = 0, maxStepping = 15): Listed {
  return { model, minStepping, maxStepping, bugs };
}

/** Kernel: cpu_vuln_blacklist, Intel family 6. Models by number; the kernel's name stands behind. */
const BLACKLIST: readonly Listed[] = [
  listed(0x3f, ["MMIO_STALE_DATA", "VMSCAPE"]), // HASWELL_X
  listed(0x4f, ["MMIO_STALE_DATA", "VMSCAPE"]), // BROADWELL_X
  listed(0x56, ["MMIO_STALE_DATA", "VMSCAPE"]), // BROADWELL_D
  listed(0x55, ["MMIO_STALE_DATA", "RETBLEED", "GDS", "VMSCAPE"], 0, 5), // SKYLAKE_X
  listed(0x55, ["MMIO_STALE_DATA", "RETBLEED", "GDS", "ITS", "VMSCAPE"], 6), // SKYLAKE_X: Cascade Lake, Cooper Lake
  listed(0x4e, ["MMIO_STALE_DATA", "RETBLEED", "GDS", "SRBDS", "VMSCAPE"]), // SKYLAKE_L
  listed(0x5e, ["MMIO_STALE_DATA", "RETBLEED", "GDS", "SRBDS", "VMSCAPE"]), // SKYLAKE
  listed(0x6a, ["MMIO_STALE_DATA", "GDS", "ITS", "ITS_NATIVE_ONLY"]), // ICELAKE_X
  listed(0x6c, ["MMIO_STALE_DATA", "GDS", "ITS", "ITS_NATIVE_ONLY"]), // ICELAKE_D
  listed(0x8f, ["VMSCAPE"]), // SAPPHIRERAPIDS_X
  listed(0xcf, ["VMSCAPE"]), // EMERALDRAPIDS_X
  listed(0x97, ["RFDS", "VMSCAPE"]), // ALDERLAKE
  listed(0x9a, ["RFDS", "VMSCAPE"]), // ALDERLAKE_L
];

const INTEL_FAMILY = 6;

/** Kernel: `cpu_set_bug_bits()`, for Intel's family 6 on bare metal. */
export function deriveBugs(cpu: CpuEnumeration): ReadonlySet<CpuBug> {
  const rows =
    cpu.family === INTEL_FAMILY
      ? BLACKLIST.filter((row) => row.model === cpu.model && cpu.stepping >= row.minStepping && cpu.stepping <= row.maxStepping)
      : [];
  const isListed = (bug: CpuBug | "MMIO_SBDS"): boolean => rows.some((row) => row.bugs.includes(bug));
  const cap = (name: ArchCapability): boolean => cpu.hasCapability(name);
  const isEnhanced = cap("IBRS_ALL");
  const rules: readonly (readonly [CpuBug, boolean])[] = [
    ["ITLB_MULTIHIT", !cap("PSCHANGE_MC_NO")],
    ["SPECTRE_V1", true],
    ["SPECTRE_V2", true],
    ["SPECTRE_V2_USER", true],
    ["SPEC_STORE_BYPASS", !cap("SSB_NO")],
    ["EIBRS_PBRSB", isEnhanced && !cap("PBRSB_NO")],
    ["MDS", !cap("MDS_NO")],
    ["SWAPGS", true],
    ["TAA", !cap("TAA_NO") && (cpu.has("RTM") || cap("TSX_CTRL_MSR"))],
    ["SRBDS", (cpu.has("RDRAND") || cpu.has("RDSEED")) && (isListed("SRBDS") || isListed("MMIO_SBDS"))],
    ["MMIO_STALE_DATA", isListed("MMIO_STALE_DATA") && !(cap("FBSDP_NO") && cap("PSDP_NO") && cap("SBDR_SSDP_NO"))],
    ["RETBLEED", isListed("RETBLEED") || cap("RSBA")],
    ["GDS", isListed("GDS") && !cap("GDS_NO") && cpu.has("AVX")],
    ["RFDS", !cap("RFDS_NO") && (cap("RFDS_CLEAR") || isListed("RFDS"))],
    ["BHI", isEnhanced],
    ["ITS", isListed("ITS") && !cap("ITS_NO") && !cpu.has("BHI_CTRL")],
    ["ITS_NATIVE_ONLY", isListed("ITS_NATIVE_ONLY") && !cap("ITS_NO") && !cpu.has("BHI_CTRL")],
    ["VMSCAPE", isListed("VMSCAPE")],
    ["CPU_MELTDOWN", !cap("RDCL_NO")],
    ["L1TF", !cap("RDCL_NO")],
  ];
  return new Set(rules.filter(([, holds]) => holds).map(([bug]) => bug));
}
