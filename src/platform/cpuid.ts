// CPUID from the CPU model: identification and exactly the features that the machine implements and the model has.
// SDM vol. 2, CPUID; leaf numbers as there.
import { type CpuModel, type Feature, hasFeature } from "../hardware/index.ts";

/** Where a feature bit is: leaf, register (0 EAX, 1 EBX, 2 ECX, 3 EDX), bit. */
type Place = readonly [leaf: number, register: 0 | 1 | 2 | 3, bit: number];
/** Leaf 7, subleaf 1, as a leaf of the table. */
const LEAF_7_1 = 0x10007;

const PLACES: { readonly [F in Feature]: Place } = {
  PCID: [1, 2, 17],
  X2APIC: [1, 2, 21],
  TSC_DEADLINE_TIMER: [1, 2, 24],
  VMX: [1, 2, 5],
  PGE: [1, 3, 13],
  FSGSBASE: [7, 1, 0],
  SMEP: [7, 1, 7],
  INVPCID: [7, 1, 10],
  RTM: [7, 1, 11],
  FRED: [LEAF_7_1, 0, 17],
  LKGS: [LEAF_7_1, 0, 18],
  SMAP: [7, 1, 20],
  UMIP: [7, 2, 2],
  MD_CLEAR: [7, 3, 10],
  IBRS: [7, 3, 26],
  IBPB: [7, 3, 26],
  STIBP: [7, 3, 27],
  FLUSH_L1D: [7, 3, 28],
  ARCH_CAPABILITIES: [7, 3, 29],
  SSBD: [7, 3, 31],
  NX: [0x80000001, 3, 20],
  GBPAGES: [0x80000001, 3, 26],
  RDTSCP: [0x80000001, 3, 27],
};

const MAX_BASIC_LEAF = 0x16;
const MAX_EXTENDED_LEAF = 0x80000008;
/** Leaf 1 EDX that every 64-bit part has: FPU TSC MSR PAE CX8 APIC SEP MTRR CMOV PAT CLFSH FXSR SSE SSE2. */
const LEAF1_EDX = (1 << 0) | (1 << 4) | (1 << 5) | (1 << 6) | (1 << 8) | (1 << 9) | (1 << 11) | (1 << 12);
const LEAF1_EDX_MORE = (1 << 15) | (1 << 16) | (1 << 19) | (1 << 24) | (1 << 25) | (1 << 26);
/** Leaf 1 ECX: CX16 MOVBE POPCNT. */
const LEAF1_ECX = (1 << 13) | (1 << 22) | (1 << 23);
/** Leaf 0x80000001: SYSCALL and long mode; LAHF in ECX. */
const EXTENDED_EDX = (1 << 11) | (1 << 29);
const EXTENDED_ECX = 1 << 0;
/** Leaf 0x80000007 EDX: invariant TSC. */
const INVARIANT_TSC = 1 << 8;
/** CLFLUSH line in 8-byte units, leaf 1 EBX 15:8. */
const CLFLUSH_UNITS = 8;
const LINEAR_ADDRESS_BITS = 48;
/** Crystal ratio of leaf 0x15: the simulated TSC runs at 2.1 GHz = 25 MHz * 84. */
const CRYSTAL_HZ = 25_000_000;
const TSC_RATIO = 84;

function ascii(text: string, at: number): number {
  let value = 0;
  for (let i = 3; i >= 0; i--) value = (value << 8) | ((text.charCodeAt(at + i) || 0) & 0xff);
  return value >>> 0;
}

function features(model: CpuModel, leaf: number, register: 0 | 1 | 2 | 3): number {
  let bits = 0;
  for (const [name, [itsLeaf, itsRegister, bit]] of Object.entries(PLACES) as [Feature, Place][]) {
    if (itsLeaf === leaf && itsRegister === register && hasFeature(model, name)) bits |= 1 << bit;
  }
  return bits >>> 0;
}

/** Signature of leaf 1 EAX: stepping, model, family with their extensions. */
function signature(model: CpuModel): number {
  const family = Math.min(model.family, 15);
  const extendedFamily = model.family - family;
  return ((extendedFamily << 20) | ((model.model >> 4) << 16) | (family << 8) | ((model.model & 15) << 4) | model.stepping) >>> 0;
}

export type CpuidResult = readonly [eax: number, ebx: number, ecx: number, edx: number];

/** CPUID of `leaf` and `subleaf` on logical CPU `id` of `cpus`, `threadsPerCore` of them to a core. A leaf above the highest gives zeros. */
export function cpuidOf(model: CpuModel, leaf: number, subleaf: number, id: number, cpus: number, threadsPerCore = 1): CpuidResult {
  switch (leaf >>> 0) {
    case 0:
      return [MAX_BASIC_LEAF, ascii(model.vendor, 0), ascii(model.vendor, 8), ascii(model.vendor, 4)];
    case 1: {
      const ebx = ((id << 24) | (cpus << 16) | (CLFLUSH_UNITS << 8)) >>> 0;
      const ecx = (features(model, 1, 2) | LEAF1_ECX) >>> 0;
      return [signature(model), ebx, ecx, (features(model, 1, 3) | LEAF1_EDX | LEAF1_EDX_MORE) >>> 0];
    }
    case 4:
      return cacheLeaf(model, subleaf, cpus, threadsPerCore);
    case 7:
      if (subleaf === 1) return [features(model, LEAF_7_1, 0), 0, 0, 0];
      // EAX: the highest subleaf.
      return subleaf === 0
        ? [features(model, LEAF_7_1, 0) === 0 ? 0 : 1, features(model, 7, 1), features(model, 7, 2), features(model, 7, 3)]
        : [0, 0, 0, 0];
    case 0xb:
      return topologyLeaf(subleaf, id, cpus, threadsPerCore);
    case 0x15:
      return [1, TSC_RATIO, CRYSTAL_HZ, 0];
    case 0x80000000:
      return [MAX_EXTENDED_LEAF, 0, 0, 0];
    case 0x80000001:
      return [0, 0, EXTENDED_ECX, (features(model, 0x80000001, 3) | EXTENDED_EDX) >>> 0];
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
      const at = (leaf & 7) * 16 - 32;
      return [ascii(model.brand, at), ascii(model.brand, at + 4), ascii(model.brand, at + 8), ascii(model.brand, at + 12)];
    }
    case 0x80000007:
      return [0, 0, 0, INVARIANT_TSC];
    case 0x80000008:
      return [model.physicalBits | (LINEAR_ADDRESS_BITS << 8), 0, 0, 0];
    default:
      return [0, 0, 0, 0];
  }
}

/** Leaf 4: deterministic cache parameters. Types: 1 data, 2 instruction, 3 unified. */
function cacheLeaf(model: CpuModel, subleaf: number, cpus: number, threadsPerCore: number): CpuidResult {
  const caches = [
    { type: 1, level: 1, cache: model.l1d },
    { type: 2, level: 1, cache: model.l1i },
    { type: 3, level: 2, cache: model.l2 },
    { type: 3, level: 3, cache: model.l3 },
  ];
  const found = caches[subleaf];
  if (found === undefined) return [0, 0, 0, 0];
  const isInclusive = found.level === 3 && model.l3.isInclusive;
  // Identifiers that share the cache, and cores of the package: each the highest, rounded up to a power of two less one.
  const sharing = idsFor(found.level === 3 ? cpus : threadsPerCore) - 1;
  const cores = idsFor(Math.ceil(cpus / threadsPerCore)) - 1;
  return [
    (found.type | (found.level << 5) | (1 << 8) | (sharing << 14) | (cores << 26)) >>> 0,
    (((found.cache.ways - 1) << 22) | 63) >>> 0,
    found.cache.sets - 1,
    isInclusive ? 2 : 0,
  ];
}

function idsFor(count: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, count)));
}

/** x2APIC topology: level types 1 SMT, 2 core; EAX is the shift to the next level's identifier. */
function topologyLeaf(subleaf: number, id: number, cpus: number, threadsPerCore: number): CpuidResult {
  const bits = (count: number): number => 32 - Math.clz32(Math.max(1, count) - 1);
  if (subleaf === 0) return [bits(threadsPerCore), threadsPerCore, 1 << 8, id];
  if (subleaf === 1) return [bits(cpus), cpus, (2 << 8) | 1, id];
  return [0, 0, subleaf & 0xff, id];
}
