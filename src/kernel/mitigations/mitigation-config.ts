// What this kernel is built with (kernel: CONFIG_MITIGATION_*): an input of the selection, since a mitigation that is not compiled in
// cannot be selected, and what the reports say must be what is in force. Indirect calls and returns of this kernel are not compiled
// code, so nothing that rewrites them (retpolines, return thunks, call-depth tracking, aligned thunks) is built in.

export interface MitigationConfig {
  readonly PAGE_TABLE_ISOLATION: boolean;
  readonly RETPOLINE: boolean;
  readonly CALL_DEPTH_TRACKING: boolean;
  readonly UNRET_ENTRY: boolean;
  readonly IBRS_ENTRY: boolean;
  readonly SPECTRE_V1: boolean;
  readonly SPECTRE_V2: boolean;
  readonly SPECTRE_BHI: boolean;
  readonly ITS: boolean;
  readonly RETBLEED: boolean;
  readonly SSB: boolean;
  readonly L1TF: boolean;
  readonly MDS: boolean;
  readonly TAA: boolean;
  readonly MMIO_STALE_DATA: boolean;
  readonly RFDS: boolean;
  readonly SRBDS: boolean;
  readonly GDS: boolean;
  readonly VMSCAPE: boolean;
  readonly SECCOMP: boolean;
  readonly KVM: boolean;
  /** tsx= without an option (kernel: CONFIG_X86_INTEL_TSX_MODE_*). */
  readonly TSX_MODE: "off" | "on" | "auto";
}

/** A kernel with everything built in: what distributions run. For comparison, and for tests against published reports. */
export const EVERYTHING_BUILT: MitigationConfig = {
  PAGE_TABLE_ISOLATION: true,
  RETPOLINE: true,
  CALL_DEPTH_TRACKING: true,
  UNRET_ENTRY: true,
  IBRS_ENTRY: true,
  SPECTRE_V1: true,
  SPECTRE_V2: true,
  SPECTRE_BHI: true,
  ITS: true,
  RETBLEED: true,
  SSB: true,
  L1TF: true,
  MDS: true,
  TAA: true,
  MMIO_STALE_DATA: true,
  RFDS: true,
  SRBDS: true,
  GDS: true,
  VMSCAPE: true,
  SECCOMP: true,
  KVM: true,
  TSX_MODE: "off",
};

/** This kernel. */
export const CORDON_CONFIG: MitigationConfig = {
  ...EVERYTHING_BUILT,
  RETPOLINE: false,
  CALL_DEPTH_TRACKING: false,
  UNRET_ENTRY: false,
  ITS: false,
  SECCOMP: false,
};
