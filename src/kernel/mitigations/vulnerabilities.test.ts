// The reports against the published ones of real machines: docs/mitigations.md, section 1.3 (v6.18, bare metal, SMT on, everything built).
import assert from "node:assert/strict";
import { test } from "node:test";
import { type CpuBug, deriveBugs } from "./cpu-bugs.ts";
import type { ArchCapability, CpuFeature } from "./cpu-features.ts";
import { CORDON_CONFIG, EVERYTHING_BUILT, type MitigationConfig } from "./mitigation-config.ts";
import { selectMitigations } from "./select-mitigations.ts";
import type { CpuFacts } from "./selecting.ts";
import {
  type RuntimeState,
  VMENTER_L1D_FLUSH_COND,
  VMENTER_L1D_FLUSH_NEVER,
  VMENTER_L1D_FLUSH_NOT_REQUIRED,
  VULNERABILITY_FILES,
  type VulnerabilityFile,
  vulnerabilityText,
} from "./vulnerabilities.ts";

interface Part {
  readonly model: number;
  readonly stepping: number;
  readonly features: readonly CpuFeature[];
  readonly capabilities: readonly ArchCapability[];
}

const COMMON: readonly CpuFeature[] = [
  "VMX",
  "AVX",
  "FSGSBASE",
  "SMAP",
  "IBPB",
  "IBRS",
  "STIBP",
  "SSBD",
  "MD_CLEAR",
  "FLUSH_L1D",
  "RDRAND",
];
/** docs/mitigations.md, section 1.2. */
const PARTS = {
  hsx: { model: 0x3f, stepping: 2, features: COMMON.filter((f) => f !== "SMAP"), capabilities: [] },
  skx: { model: 0x55, stepping: 4, features: [...COMMON, "RTM"], capabilities: ["RSBA", "GDS_CTRL"] },
  clx: {
    model: 0x55,
    stepping: 7,
    features: [...COMMON, "RTM"],
    capabilities: ["RDCL_NO", "MDS_NO", "SKIP_L1DFL_VMENTRY", "IBRS_ALL", "TSX_CTRL_MSR", "FB_CLEAR", "SBDR_SSDP_NO", "RRSBA", "GDS_CTRL"],
  },
  icx: {
    model: 0x6a,
    stepping: 6,
    features: [...COMMON, "RTM"],
    capabilities: [
      "RDCL_NO",
      "MDS_NO",
      "SKIP_L1DFL_VMENTRY",
      "IBRS_ALL",
      "PSCHANGE_MC_NO",
      "TSX_CTRL_MSR",
      "TAA_NO",
      "FB_CLEAR",
      "RRSBA",
      "GDS_CTRL",
    ],
  },
  spr: {
    model: 0x8f,
    stepping: 8,
    features: [...COMMON, "RTM", "BHI_CTRL", "RRSBA_CTRL"],
    capabilities: ["RDCL_NO", "MDS_NO", "IBRS_ALL", "PSCHANGE_MC_NO", "TSX_CTRL_MSR", "TAA_NO", "GDS_NO", "RRSBA"],
  },
  adl: {
    model: 0x97,
    stepping: 2,
    features: [...COMMON, "BHI_CTRL", "RRSBA_CTRL"],
    capabilities: ["RDCL_NO", "MDS_NO", "IBRS_ALL", "PSCHANGE_MC_NO", "TAA_NO", "GDS_NO", "RRSBA", "RFDS_CLEAR"],
  },
} as const satisfies Record<string, Part>;
type PartKey = keyof typeof PARTS;

function factsOf({ model, stepping, features, capabilities }: Part, isSmtPossible = true): CpuFacts {
  const has = (feature: CpuFeature): boolean => features.includes(feature);
  const hasCapability = (capability: ArchCapability): boolean => capabilities.includes(capability);
  const bugs = deriveBugs({ family: 6, model, stepping, has, hasCapability });
  return { has, hasCapability, hasBug: (bug: CpuBug) => bugs.has(bug), isSmtPossible };
}

function state(cpu: CpuFacts, more: Partial<RuntimeState> = {}): RuntimeState {
  const vmxL1dFlush = cpu.hasBug("L1TF") ? VMENTER_L1D_FLUSH_COND : VMENTER_L1D_FLUSH_NOT_REQUIRED;
  return { isSmtActive: true, vmxL1dFlush, hasVmx: true, isKvmLoaded: true, splitsHugePages: true, ...more };
}

function texts(
  part: PartKey,
  commandLine = "",
  config: MitigationConfig = EVERYTHING_BUILT,
  more: Partial<RuntimeState> = {},
  isSmtPossible = true,
): Record<VulnerabilityFile, string> {
  const cpu = factsOf(PARTS[part], isSmtPossible);
  const selection = selectMitigations({ cpu, config, commandLine, isAsi: false, say: () => undefined });
  const pairs = VULNERABILITY_FILES.map((file) => [file, vulnerabilityText(file, { cpu, selection, state: state(cpu, more) })]);
  return Object.fromEntries(pairs);
}

const N = "Not affected";
const PROCESSOR = "Mitigation: Clear CPU buffers; SMT vulnerable";
const L1TF = "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable";
const EIBRS = "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; PBRSB-eIBRS: SW sequence; BHI:";
const SPLIT = "KVM: Mitigation: Split huge pages";
const IBPB = "Mitigation: IBPB before exit to userspace";
const THUNKS = "Mitigation: Aligned branch/return thunks";
const MICROCODE = "Mitigation: Microcode";
const RETPOLINES =
  "Mitigation: Retpolines; IBPB: conditional; IBRS_FW; STIBP: conditional; RSB filling; PBRSB-eIBRS: Not affected; BHI: Not affected";
const IBRS = "Mitigation: IBRS; IBPB: conditional; STIBP: conditional; RSB filling; PBRSB-eIBRS: Not affected; BHI: Not affected";

/** docs/mitigations.md, section 1.3, row by row: hsx, skx, clx, icx, spr, adl. */
const PUBLISHED: readonly (readonly [VulnerabilityFile, ...string[]])[] = [
  ["gather_data_sampling", N, MICROCODE, MICROCODE, MICROCODE, N, N],
  ["indirect_target_selection", N, N, THUNKS, THUNKS, N, N],
  ["itlb_multihit", SPLIT, SPLIT, SPLIT, N, N, N],
  ["l1tf", L1TF, L1TF, N, N, N, N],
  ["mds", PROCESSOR, PROCESSOR, N, N, N, N],
  ["meltdown", "Mitigation: PTI", "Mitigation: PTI", N, N, N, N],
  ["mmio_stale_data", PROCESSOR, PROCESSOR, PROCESSOR, PROCESSOR, N, N],
  ["reg_file_data_sampling", N, N, N, N, N, "Mitigation: Clear Register File"],
  ["retbleed", N, "Mitigation: IBRS", "Mitigation: Enhanced IBRS", N, N, N],
  [
    "spectre_v2",
    RETPOLINES,
    IBRS,
    `${EIBRS} SW loop, KVM: SW loop`,
    `${EIBRS} SW loop, KVM: SW loop`,
    `${EIBRS} BHI_DIS_S`,
    `${EIBRS} BHI_DIS_S`,
  ],
  ["srbds", N, N, N, N, N, N],
  ["tsx_async_abort", N, PROCESSOR, "Mitigation: TSX disabled", N, N, N],
  ["vmscape", IBPB, IBPB, IBPB, N, IBPB, IBPB],
];

for (const [column, part] of (["hsx", "skx", "clx", "icx", "spr", "adl"] as const).entries()) {
  test(`what Linux v6.18 prints by default on ${part}, all files`, () => {
    const found = texts(part);
    for (const row of PUBLISHED) assert.equal(found[row[0]], row[column + 1], row[0]);
    assert.equal(found.spec_store_bypass, "Mitigation: Speculative Store Bypass disabled via prctl");
    assert.equal(found.spectre_v1, "Mitigation: usercopy/swapgs barriers and __user pointer sanitization");
    assert.equal(found.spec_rstack_overflow, N);
    assert.equal(found.tsa, N);
  });
}

// docs/mitigations.md, sections 3.1 to 3.8: option, model, file, text.
const OPTIONS: readonly (readonly [string, PartKey, VulnerabilityFile, string])[] = [
  ["mitigations=off", "skx", "meltdown", "Vulnerable"],
  ["mitigations=off pti=on", "skx", "meltdown", "Mitigation: PTI"],
  ["pti=on nopti", "skx", "meltdown", "Vulnerable"],
  ["mitigations=auto,no_user_kernel", "skx", "meltdown", "Vulnerable"],
  ["mitigations=off", "skx", "mds", "Vulnerable; SMT vulnerable"],
  ["mitigations=off", "skx", "tsx_async_abort", "Vulnerable"],
  ["mitigations=off", "skx", "mmio_stale_data", "Vulnerable"],
  ["mitigations=off", "skx", "retbleed", "Vulnerable"],
  ["mitigations=off", "skx", "vmscape", "Vulnerable"],
  ["mitigations=off", "skx", "spec_store_bypass", "Vulnerable"],
  ["mitigations=off", "clx", "tsx_async_abort", "Mitigation: TSX disabled"],
  ["mitigations=off", "skx", "spectre_v1", "Vulnerable: __user pointer sanitization and usercopy barriers only; no swapgs barriers"],
  ["mitigations=off", "skx", "spectre_v2", "Vulnerable; IBPB: disabled; STIBP: disabled; PBRSB-eIBRS: Not affected; BHI: Not affected"],
  ["mitigations=off", "clx", "spectre_v2", "Vulnerable; IBPB: disabled; STIBP: disabled; PBRSB-eIBRS: Vulnerable; BHI: Vulnerable"],
  ["nospectre_v2 spectre_v2=eibrs", "clx", "retbleed", "Vulnerable"],
  // One of MDS, TAA, MMIO asks for VERW: all are mitigated. Only all three off is off.
  ["mds=off", "skx", "mds", PROCESSOR],
  ["mds=off tsx_async_abort=off mmio_stale_data=off", "skx", "mds", "Vulnerable; SMT vulnerable"],
  ["mds=off tsx_async_abort=off", "skx", "tsx_async_abort", PROCESSOR],
  ["tsx=on", "clx", "tsx_async_abort", PROCESSOR],
  ["tsx=auto", "clx", "tsx_async_abort", "Mitigation: TSX disabled"],
  ["tsx=on tsx_async_abort=off mmio_stale_data=off", "clx", "tsx_async_abort", "Vulnerable"],
  ["spectre_v2=retpoline", "skx", "spectre_v2", RETPOLINES],
  ["spectre_v2=retpoline", "skx", "retbleed", "Vulnerable"],
  ["retbleed=stuff spectre_v2=retpoline", "skx", "retbleed", "Mitigation: Stuffing"],
  ["retbleed=off", "skx", "spectre_v2", RETPOLINES],
  ["retbleed=unret", "skx", "retbleed", "Mitigation: IBRS"],
  [
    "spectre_v2=eibrs,retpoline",
    "clx",
    "spectre_v2",
    `Mitigation: Enhanced / Automatic IBRS + Retpolines; ${EIBRS.slice(39)} SW loop, KVM: SW loop`,
  ],
  ["spectre_v2=eibrs", "skx", "spectre_v2", IBRS],
  ["spectre_bhi=vmexit", "clx", "spectre_v2", `${EIBRS} Vulnerable, KVM: SW loop`],
  ["spectre_bhi=off", "clx", "spectre_v2", `${EIBRS} Vulnerable`],
  ["mitigations=,no_user_kernel", "clx", "spectre_v2", `${EIBRS} Vulnerable, KVM: SW loop`],
  [
    "spectre_v2_user=on",
    "skx",
    "spectre_v2",
    IBRS.replace("IBPB: conditional", "IBPB: always-on").replace("STIBP: conditional", "STIBP: forced"),
  ],
  ["spectre_v2_user=prctl,ibpb", "skx", "spectre_v2", IBRS.replace("IBPB: conditional", "IBPB: always-on")],
  [
    "spectre_v2_user=off",
    "skx",
    "spectre_v2",
    IBRS.replace("IBPB: conditional", "IBPB: disabled").replace("STIBP: conditional", "STIBP: disabled"),
  ],
  ["mitigations=auto,no_cross_thread", "skx", "spectre_v2", IBRS.replace("STIBP: conditional", "STIBP: disabled")],
  ["spec_store_bypass_disable=on", "skx", "spec_store_bypass", "Mitigation: Speculative Store Bypass disabled"],
  ["spec_store_bypass_disable=seccomp", "skx", "spec_store_bypass", "Mitigation: Speculative Store Bypass disabled via prctl and seccomp"],
  ["nospec_store_bypass_disable spec_store_bypass_disable=on", "skx", "spec_store_bypass", "Vulnerable"],
  ["vmscape=off", "skx", "vmscape", "Vulnerable"],
  ["gather_data_sampling=off", "skx", "gather_data_sampling", "Vulnerable"],
  ["indirect_target_selection=vmexit", "icx", "indirect_target_selection", "Mitigation: Vulnerable, KVM: Not affected"],
  ["indirect_target_selection=vmexit", "clx", "indirect_target_selection", THUNKS],
  ["indirect_target_selection=off", "clx", "indirect_target_selection", "Vulnerable"],
  ["l1tf=off", "skx", "l1tf", L1TF],
];

for (const [line, part, file, text] of OPTIONS) {
  test(`${part}, "${line}": ${file} reads "${text}"`, () => {
    assert.equal(texts(part, line)[file], text);
  });
}

test("SMT off: the suffixes change, conditional STIBP goes unsaid; SMT impossible: STIBP is disabled", () => {
  const off = texts("skx", "", EVERYTHING_BUILT, { isSmtActive: false });
  assert.equal(off.mds, "Mitigation: Clear CPU buffers; SMT disabled");
  assert.equal(off.l1tf, "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT disabled");
  assert.equal(off.spectre_v2, IBRS.replace("; STIBP: conditional", ""));
  const impossible = texts("skx", "", EVERYTHING_BUILT, { isSmtActive: false }, false);
  assert.equal(impossible.spectre_v2, IBRS.replace("STIBP: conditional", "STIBP: disabled"));
});

test("KVM's state is in l1tf and itlb_multihit", () => {
  const l1tf = (vmxL1dFlush: number, isSmtActive: boolean): string => texts("skx", "", EVERYTHING_BUILT, { vmxL1dFlush, isSmtActive }).l1tf;
  assert.equal(l1tf(0, true), "Mitigation: PTE Inversion");
  assert.equal(l1tf(4, true), "Mitigation: PTE Inversion; VMX: EPT disabled");
  assert.equal(l1tf(VMENTER_L1D_FLUSH_NEVER, true), "Mitigation: PTE Inversion; VMX: vulnerable");
  assert.equal(l1tf(VMENTER_L1D_FLUSH_NEVER, false), "Mitigation: PTE Inversion; VMX: vulnerable, SMT disabled");
  assert.equal(l1tf(3, true), "Mitigation: PTE Inversion; VMX: cache flushes, SMT vulnerable");
  const itlb = (more: Partial<RuntimeState>): string => texts("skx", "", EVERYTHING_BUILT, more).itlb_multihit;
  assert.equal(itlb({ hasVmx: false }), "KVM: Mitigation: VMX unsupported");
  assert.equal(itlb({ isKvmLoaded: false }), "KVM: Mitigation: VMX disabled");
  assert.equal(itlb({ splitsHugePages: false }), "KVM: Vulnerable");
});

test("this kernel reports what it does: it has no thunks, so no retpolines and no mitigation of ITS", () => {
  assert.equal(texts("skx", "", CORDON_CONFIG).spectre_v2, IBRS);
  assert.equal(texts("clx", "", CORDON_CONFIG).indirect_target_selection, "Vulnerable");
  assert.equal(texts("skx", "spectre_v2=retpoline", CORDON_CONFIG).spectre_v2, IBRS);
  assert.match(texts("hsx", "", CORDON_CONFIG).spectre_v2, /^Vulnerable; IBPB: conditional/);
});

test("wrong values print the kernel's messages and change nothing", () => {
  const said: string[] = [];
  const cpu = factsOf(PARTS.skx);
  const commandLine = "mitigations=few spectre_v2=strong spectre_v2_user=me retbleed=auto,red spec_store_bypass_disable=no vmscape=run";
  const { choices } = selectMitigations({ cpu, config: EVERYTHING_BUILT, commandLine, isAsi: false, say: (text) => said.push(text) });
  assert.deepEqual(said, [
    "Unsupported mitigations=few, system may still be vulnerable",
    "Spectre V2 : Ignoring unknown spectre_v2 option (strong).",
    "RETBleed: Ignoring unknown retbleed option (red).",
    "Spectre V2 : Unknown user space protection option (me). Switching to default",
    "Speculative Store Bypass: unknown option (no). Switching to default",
    "VMSCAPE: Ignoring unknown vmscape=run option.",
  ]);
  assert.equal(choices.spectre_v2, "IBRS");
  assert.equal(choices.vmscape, "IBPB_EXIT_TO_USER");
});

test("with address space isolation there is no page-table isolation, even with pti=on (patch 28)", () => {
  const cpu = factsOf(PARTS.skx);
  for (const commandLine of ["", "pti=on"]) {
    const input = { cpu, config: EVERYTHING_BUILT, commandLine, say: () => undefined };
    assert.equal(selectMitigations({ ...input, isAsi: true }).choices.pti, "OFF");
    assert.equal(selectMitigations({ ...input, isAsi: false }).choices.pti, "ON");
  }
});
