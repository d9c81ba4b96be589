// What this CPU has and which bugs: read once from CPUID and IA32_ARCH_CAPABILITIES (kernel: boot_cpu_data, cpu_set_bug_bits()), then
// patched into the text as the kernel does with alternatives.
import { cpu, MSR_IA32_ARCH_CAPABILITIES } from "../../hardware/index.ts";
import { type StaticKey, staticKey } from "../static-key.ts";

/** Where CPUID tells of a feature: leaf, register (0 EAX, 1 EBX, 2 ECX, 3 EDX), bit. SDM vol. 2, CPUID. */
const FEATURES = {
  VMX: [1, 2, 5],
  PCID: [1, 2, 17],
  X2APIC: [1, 2, 21],
  TSC_DEADLINE_TIMER: [1, 2, 24],
  PGE: [1, 3, 13],
  SMEP: [7, 1, 7],
  INVPCID: [7, 1, 10],
  SMAP: [7, 1, 20],
  MD_CLEAR: [7, 3, 10],
  IBPB: [7, 3, 26],
  FLUSH_L1D: [7, 3, 28],
  ARCH_CAPABILITIES: [7, 3, 29],
} as const satisfies Record<string, readonly [number, 0 | 1 | 2 | 3, number]>;
export type CpuFeature = keyof typeof FEATURES;

// Bits of IA32_ARCH_CAPABILITIES. SDM vol. 4.
const RDCL_NO = 1 << 0;
const SKIP_L1DFL_VMENTRY = 1 << 3;
const MDS_NO = 1 << 5;

/** Bugs that decide something here. Kernel: X86_BUG_*. */
export type CpuBug = "CPU_MELTDOWN" | "L1TF" | "MDS";

const features: ReadonlyMap<CpuFeature, StaticKey> = new Map(
  (Object.keys(FEATURES) as CpuFeature[]).map((name) => [name, staticKey(`X86_FEATURE_${name}`)]),
);
const bugs: ReadonlyMap<CpuBug, StaticKey> = new Map(
  (["CPU_MELTDOWN", "L1TF", "MDS"] as const).map((name) => [name, staticKey(`X86_BUG_${name}`)]),
);
const skipL1dFlush = staticKey("arch_cap_skip_l1dfl_vmentry");

/** Kernel: `boot_cpu_has(X86_FEATURE_...)`. Free: patched at boot. */
export function bootCpuHas(feature: CpuFeature): boolean {
  return features.get(feature)?.isEnabled() ?? false;
}

/** Kernel: `boot_cpu_has_bug(X86_BUG_...)`. */
export function bootCpuHasBug(bug: CpuBug): boolean {
  return bugs.get(bug)?.isEnabled() ?? false;
}

/** IA32_ARCH_CAPABILITIES.SKIP_L1DFL_VMENTRY: a hypervisor below us flushes. */
export function skipsL1dFlushAtVmEntry(): boolean {
  return skipL1dFlush.isEnabled();
}

/** Reads what the boot CPU has (kernel: `identify_boot_cpu()`). Once, before anything asks. */
export function identifyBootCpu(): void {
  for (const [name, key] of features) {
    const [leaf, register, bit] = FEATURES[name];
    if (((cpu.cpuid(leaf, 0, register) >>> bit) & 1) !== 0) key.set(1);
  }
  const capabilities = bootCpuHas("ARCH_CAPABILITIES") ? cpu.readMsr(MSR_IA32_ARCH_CAPABILITIES) : 0;
  if ((capabilities & SKIP_L1DFL_VMENTRY) !== 0) skipL1dFlush.set(1);
  const set = (bug: CpuBug, isThere: boolean): void => {
    if (isThere) bugs.get(bug)?.set(1);
  };
  set("CPU_MELTDOWN", (capabilities & RDCL_NO) === 0);
  set("L1TF", (capabilities & RDCL_NO) === 0);
  set("MDS", (capabilities & MDS_NO) === 0);
}
