// What this CPU has and which bugs: read once from CPUID and IA32_ARCH_CAPABILITIES (kernel: boot_cpu_data, cpu_set_bug_bits()), then
// patched into the text as the kernel does with alternatives.
import { cpu, MSR_IA32_ARCH_CAPABILITIES } from "../../hardware/index.ts";
import { onlineCpus } from "../mm/percpu.ts";
import { type StaticKey, staticKey } from "../static-key.ts";
import { CPU_BUGS, type CpuBug, deriveBugs } from "./cpu-bugs.ts";

/** Where CPUID tells of a feature: leaf, register (0 EAX, 1 EBX, 2 ECX, 3 EDX), bit, subleaf (0 if left out). SDM vol. 2, CPUID. */
const FEATURES = {
  VMX: [1, 2, 5],
  PCID: [1, 2, 17],
  X2APIC: [1, 2, 21],
  TSC_DEADLINE_TIMER: [1, 2, 24],
  AVX: [1, 2, 28],
  RDRAND: [1, 2, 30],
  PGE: [1, 3, 13],
  FSGSBASE: [7, 1, 0],
  SMEP: [7, 1, 7],
  INVPCID: [7, 1, 10],
  RTM: [7, 1, 11],
  RDSEED: [7, 1, 18],
  SMAP: [7, 1, 20],
  SRBDS_CTRL: [7, 3, 9],
  MD_CLEAR: [7, 3, 10],
  IBPB: [7, 3, 26],
  IBRS: [7, 3, 26],
  STIBP: [7, 3, 27],
  FLUSH_L1D: [7, 3, 28],
  ARCH_CAPABILITIES: [7, 3, 29],
  SSBD: [7, 3, 31],
  RRSBA_CTRL: [7, 3, 2, 2],
  BHI_CTRL: [7, 3, 4, 2],
} as const satisfies Record<string, readonly [number, 0 | 1 | 2 | 3, number] | readonly [number, 0 | 1 | 2 | 3, number, number]>;
export type CpuFeature = keyof typeof FEATURES;
const FEATURE_NAMES = Object.keys(FEATURES) as readonly CpuFeature[]; // the keys of the table above

/** Bits of IA32_ARCH_CAPABILITIES (kernel: ARCH_CAP_*). SDM vol. 4. */
const ARCH_CAPABILITIES = {
  RDCL_NO: 0,
  IBRS_ALL: 1,
  RSBA: 2,
  SKIP_L1DFL_VMENTRY: 3,
  SSB_NO: 4,
  MDS_NO: 5,
  PSCHANGE_MC_NO: 6,
  TSX_CTRL_MSR: 7,
  TAA_NO: 8,
  SBDR_SSDP_NO: 13,
  FBSDP_NO: 14,
  PSDP_NO: 15,
  FB_CLEAR: 17,
  FB_CLEAR_CTRL: 18,
  RRSBA: 19,
  PBRSB_NO: 24,
  GDS_CTRL: 25,
  GDS_NO: 26,
  RFDS_NO: 27,
  RFDS_CLEAR: 28,
  ITS_NO: 62,
} as const;
export type ArchCapability = keyof typeof ARCH_CAPABILITIES;
const CAPABILITY_NAMES = Object.keys(ARCH_CAPABILITIES) as readonly ArchCapability[]; // the keys of the table above

function keysOf<T extends string>(prefix: string, names: readonly T[]): ReadonlyMap<T, StaticKey> {
  return new Map(names.map((name) => [name, staticKey(`${prefix}_${name}`)]));
}
const features = keysOf("X86_FEATURE", FEATURE_NAMES);
const bugs = keysOf("X86_BUG", CPU_BUGS);
const capabilities = keysOf("ARCH_CAP", CAPABILITY_NAMES);
/** Threads of a core: 1 or 2. */
const threadsPerCore = staticKey("smp_num_siblings");

/** Kernel: `boot_cpu_has(X86_FEATURE_...)`. Free: patched at boot. */
export function bootCpuHas(feature: CpuFeature): boolean {
  return features.get(feature)?.isEnabled() ?? false;
}

/** Kernel: `boot_cpu_has_bug(X86_BUG_...)`. */
export function bootCpuHasBug(bug: CpuBug): boolean {
  return bugs.get(bug)?.isEnabled() ?? false;
}

/** Kernel: `x86_read_arch_cap_msr() & ARCH_CAP_...`. */
export function bootCpuHasCapability(capability: ArchCapability): boolean {
  return capabilities.get(capability)?.isEnabled() ?? false;
}

/** IA32_ARCH_CAPABILITIES.SKIP_L1DFL_VMENTRY: a hypervisor below us flushes. */
export function skipsL1dFlushAtVmEntry(): boolean {
  return bootCpuHasCapability("SKIP_L1DFL_VMENTRY");
}

/** A core has two threads (kernel: `cpu_smt_possible()`). Patched at boot. */
export function isSmtPossible(): boolean {
  return threadsPerCore.value() > 1;
}

/** Some core really has two threads online (kernel: `sched_smt_active()`). Threads of a core have neighbouring numbers, the even one first. */
export function isSmtActive(): boolean {
  if (!isSmtPossible()) return false;
  const online = onlineCpus();
  return (online & (online >>> 1) & 0x55555555) !== 0;
}

const SIGNATURE_EXTENDED_FAMILY = 15;

/** Reads what the boot CPU has (kernel: `identify_boot_cpu()`). Once, before anything asks. */
export function identifyBootCpu(): void {
  for (const [name, key] of features) {
    const [leaf, register, bit, subleaf] = FEATURES[name];
    if (((cpu.cpuid(leaf, subleaf ?? 0, register) >>> bit) & 1) !== 0) key.set(1);
  }
  if (bootCpuHas("ARCH_CAPABILITIES")) {
    const low = cpu.readMsr(MSR_IA32_ARCH_CAPABILITIES);
    const { high } = cpu;
    for (const [name, key] of capabilities) {
      const bit = ARCH_CAPABILITIES[name];
      if ((((bit < 32 ? low : high) >>> (bit & 31)) & 1) !== 0) key.set(1);
    }
  }
  threadsPerCore.set(Math.max(cpu.cpuid(0xb, 0, 1) & 0xff, 1));
  const eax = cpu.cpuid(1, 0, 0);
  const family = (eax >>> 8) & 15;
  const found = deriveBugs({
    family: family === SIGNATURE_EXTENDED_FAMILY ? family + ((eax >>> 20) & 0xff) : family,
    model: ((eax >>> 4) & 15) | ((eax >>> 12) & 0xf0),
    stepping: eax & 15,
    has: bootCpuHas,
    hasCapability: bootCpuHasCapability,
  });
  for (const bug of found) bugs.get(bug)?.set(1);
}
