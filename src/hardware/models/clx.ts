// Cascade Lake, stepping 7, final microcode: the Skylake core without Meltdown, L1TF and MDS, and with enhanced IBRS.
import { assumed, type CpuModel, from } from "./model.ts";
import { skx } from "./skx.ts";

export const clx = {
  ...skx,
  key: "clx",
  name: "Cascade Lake",
  brand: "Intel(R) Xeon(R) Platinum 8260 CPU @ 2.40GHz",
  stepping: 7,
  bugs: [
    "SPECTRE_V1",
    "SPECTRE_V2",
    "SPECTRE_V2_USER",
    "SPEC_STORE_BYPASS",
    "SWAPGS",
    "TAA",
    "ITLB_MULTIHIT",
    "MMIO_STALE_DATA",
    "RETBLEED",
    "GDS",
    "ITS",
    "BHI",
    "EIBRS_PBRSB",
    "VMSCAPE",
  ],
  archCapabilities: [
    "RDCL_NO",
    "IBRS_ALL",
    "SKIP_L1DFL_VMENTRY",
    "MDS_NO",
    "TSX_CTRL_MSR",
    "FB_CLEAR",
    "FB_CLEAR_CTRL",
    "RRSBA",
    "GDS_CTRL",
  ],
  returnUnderflowUsesBtb: true,
  cost: {
    ...skx.cost,
    syscall: assumed("no published figure for this part", 70),
    sysret: assumed("no published figure for this part", 43),
    cr3WriteNoflush: assumed("no published figure for this part", 190),
    ibpb: from("b22: table of primitives, microcode before ITS", 340),
    verw: from("b22: table of primitives", 458),
    lfence: from("b22: table of primitives", 15),
    wrmsr: assumed("no published figure", 100),
  },
} satisfies CpuModel;
