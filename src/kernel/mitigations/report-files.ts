// The files in which a running kernel tells what it does about the CPU's bugs: /sys/devices/system/cpu/vulnerabilities, what isolation
// stands in for, /proc/cpuinfo, and KVM's parameter.
import { cpu } from "../../hardware/index.ts";
import { asiClassInitialized } from "../asi/asi-class.ts";
import { flushTaints } from "../asi/asi-options.ts";
import { asiEnabled } from "../asi/asi-state.ts";
import { ASI_CLASS_KVM, ASI_CLASS_USERSPACE } from "../asi/asi-struct.ts";
import { siblingsApart } from "../asi/siblings.ts";
import { KvmGlobals, kvmGlobals } from "../kvm/kvm-struct.ts";
import { l1tfVmxMitigation, vmentryL1dFlushGet, vmentryL1dFlushSet } from "../kvm/l1d-flush.ts";
import { onlineCpus } from "../mm/percpu.ts";
import type { SyntheticFile, SyntheticFiles } from "../synthetic-file.ts";
import type { CpuBug } from "./cpu-bugs.ts";
import { bootCpuHas, bootCpuHasBug, bootCpuHasCapability, type CpuFeature, isSmtActive } from "./cpu-features.ts";
import { ptiFeature } from "./feature-keys.ts";
import { asiReportText } from "./replacements.ts";
import { bootCpuFacts } from "./select.ts";
import { isSelected, keptSelection } from "./selection.ts";
import { smtControlText } from "./smt.ts";
import { type Reported, VULNERABILITY_FILES, vulnerabilityText } from "./vulnerabilities.ts";

/** What the reports are made from, in a running kernel. */
function running(): Reported {
  return {
    cpu: bootCpuFacts(),
    selection: keptSelection(),
    state: {
      isSmtActive: isSmtActive(),
      vmxL1dFlush: l1tfVmxMitigation(),
      hasVmx: bootCpuHas("VMX"),
      isKvmLoaded: KvmGlobals.at(kvmGlobals).isInitialised,
      splitsHugePages: true, // guest memory is mapped in pages of 4 KiB
    },
  };
}

function asiText(): string {
  return asiReportText(running(), {
    isOn: asiEnabled(),
    hasKvm: asiClassInitialized(ASI_CLASS_KVM),
    hasUserspace: asiClassInitialized(ASI_CLASS_USERSPACE),
    flushTaints: flushTaints.key.isEnabled(),
    siblingsApart: siblingsApart.isEnabled(),
  });
}

/** Flags of /proc/cpuinfo that concern mitigations, by the kernel's names, and whether they are there. */
function mitigationFlags(): readonly string[] {
  const named: readonly (readonly [string, boolean])[] = [
    ["asi", asiEnabled()],
    ["pti", ptiFeature.isEnabled()],
    ["ssbd", bootCpuHas("SSBD")],
    ["ibrs", bootCpuHas("IBRS")],
    ["ibpb", bootCpuHas("IBPB")],
    ["stibp", bootCpuHas("STIBP")],
    ["ibrs_enhanced", bootCpuHasCapability("IBRS_ALL")],
    ["rtm", bootCpuHas("RTM") && !isSelected("TSX_DISABLED")],
    ["md_clear", bootCpuHas("MD_CLEAR")],
    ["flush_l1d", bootCpuHas("FLUSH_L1D")],
    ["arch_capabilities", bootCpuHas("ARCH_CAPABILITIES")],
  ];
  return named.filter(([, isThere]) => isThere).map(([name]) => name);
}

const PLAIN_FLAGS = [
  "PGE",
  "VMX",
  "PCID",
  "X2APIC",
  "TSC_DEADLINE_TIMER",
  "FSGSBASE",
  "SMEP",
  "INVPCID",
  "SMAP",
] as const satisfies readonly CpuFeature[];

/** Bugs in the order of their bits (kernel: X86_BUG_*). */
const BUG_ORDER: readonly CpuBug[] = [
  "CPU_MELTDOWN",
  "SPECTRE_V1",
  "SPECTRE_V2",
  "SPEC_STORE_BYPASS",
  "L1TF",
  "MDS",
  "SWAPGS",
  "TAA",
  "ITLB_MULTIHIT",
  "SRBDS",
  "MMIO_STALE_DATA",
  "RETBLEED",
  "EIBRS_PBRSB",
  "GDS",
  "RFDS",
  "BHI",
  "SPECTRE_V2_USER",
  "ITS",
  "ITS_NATIVE_ONLY",
  "VMSCAPE",
];

/** One processor's part of /proc/cpuinfo (kernel: `show_cpuinfo()`), the lines that mean something here. */
function cpuinfoOf(id: number): string {
  const { model } = cpu;
  const flags = [...PLAIN_FLAGS.filter(bootCpuHas).map((name) => name.toLowerCase()), ...mitigationFlags()];
  const lines = [
    `processor\t: ${id}`,
    `vendor_id\t: ${model.vendor}`,
    `cpu family\t: ${model.family}`,
    `model\t\t: ${model.model}`,
    `model name\t: ${model.brand}`,
    `stepping\t: ${model.stepping}`,
    `flags\t\t: ${flags.join(" ")}`,
    `bugs\t\t: ${BUG_ORDER.filter(bootCpuHasBug)
      .map((bug) => bug.toLowerCase())
      .join(" ")}`,
  ];
  return `${lines.join("\n")}\n\n`;
}

function cpuinfo(): string {
  const online = onlineCpus();
  let text = "";
  for (let id = 0; id < 32; id++) if ((online & (1 << id)) !== 0) text += cpuinfoOf(id);
  return text;
}

const VULNERABILITIES = "/sys/devices/system/cpu/vulnerabilities";

function vulnerabilityFile(name: (typeof VULNERABILITY_FILES)[number]): SyntheticFile {
  return { show: () => `${vulnerabilityText(name, running())}\n` };
}

/** Everything this folder offers. */
export const MITIGATION_FILES: SyntheticFiles = new Map<string, SyntheticFile>([
  ...VULNERABILITY_FILES.map((name): [string, SyntheticFile] => [`${VULNERABILITIES}/${name}`, vulnerabilityFile(name)]),
  ["/sys/devices/system/cpu/asi", { show: asiText }],
  ["/sys/devices/system/cpu/smt/active", { show: () => (isSmtActive() ? "1\n" : "0\n") }],
  ["/sys/devices/system/cpu/smt/control", { show: smtControlText }],
  [
    "/sys/module/kvm_intel/parameters/vmentry_l1d_flush",
    { show: () => `${vmentryL1dFlushGet()}\n`, store: (text) => vmentryL1dFlushSet(text.trim()) },
  ],
  ["/proc/cpuinfo", { show: cpuinfo }],
]);
