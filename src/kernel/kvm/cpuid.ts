// What a guest's CPUID answers: a table that the monitor sets, out of what is supported here (the host's own, less what guests do not
// get). Kernel: cpuid.c.
import {
  CPUID_ENTRY,
  E2BIG,
  EFAULT,
  EINVAL,
  ENOMEM,
  type Errno,
  KVM_CPUID_ENTRY2_BYTES,
  KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
  KVM_CPUID2_BYTES,
} from "../../abi/index.ts";
import { addVirt, cpu, type Ptr, type VirtAddr } from "../../hardware/index.ts";
import { GFP_KERNEL_ACCOUNT } from "../mm/gfp.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { copyFromUser, copyToUser } from "../mm/uaccess.ts";
import { kvmSkipEmulatedInstruction } from "./events.ts";
import { KVM_MAX_CPUID_ENTRIES, KvmVcpu, VCPU_REGS } from "./kvm-struct.ts";
import { readGprLow, writeGpr } from "./regs.ts";

/** Leaves offered, in order; those with subleaves twice. */
const BASIC_LEAVES = [0, 1, 2, 7] as const;
const EXTENDED_LEAVES = [0x80000000, 0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000007, 0x80000008] as const;
const KVM_CPUID_SIGNATURE = 0x40000000;
const KVM_CPUID_FEATURES = 0x40000001;
/** "KVMKVMKVM", zero-padded, in EBX, ECX, EDX. */
const KVM_SIGNATURE = [0x4b4d564b, 0x564b4d56, 0x4d] as const;

/** Leaf 1 ECX: no MONITOR, VMX, x2APIC, TSC deadline, XSAVE (there is no local APIC in the kernel); a hypervisor is present. */
const LEAF_1_ECX_CLEARED = (1 << 3) | (1 << 5) | (1 << 21) | (1 << 24) | (1 << 26) | (1 << 27);
const LEAF_1_ECX_HYPERVISOR = 0x80000000;
/** Leaf 7 EDX: the speculation MSRs are not offered (IBRS/IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD). */
const LEAF_7_EDX_CLEARED = (1 << 26) | (1 << 27) | (1 << 28) | (1 << 29) | 0x80000000;

type Registers = readonly [eax: number, ebx: number, ecx: number, edx: number];

function hostCpuid(leaf: number): Registers {
  return [cpu.cpuid(leaf, 0, 0), cpu.cpuid(leaf, 0, 1), cpu.cpuid(leaf, 0, 2), cpu.cpuid(leaf, 0, 3)];
}

function supportedLeaf(leaf: number): Registers {
  if (leaf === KVM_CPUID_SIGNATURE) return [KVM_CPUID_FEATURES, ...KVM_SIGNATURE];
  if (leaf === KVM_CPUID_FEATURES) return [0, 0, 0, 0];
  const [eax, ebx, ecx, edx] = hostCpuid(leaf);
  switch (leaf) {
    case 0:
      return [7, ebx, ecx, edx];
    case 1:
      return [eax, ebx & 0x00ffffff, ((ecx & ~LEAF_1_ECX_CLEARED) | LEAF_1_ECX_HYPERVISOR) >>> 0, edx];
    case 7:
      return [0, ebx, ecx, (edx & ~LEAF_7_EDX_CLEARED) >>> 0];
    case 0x80000000:
      return [0x80000008, ebx, ecx, edx];
    default:
      return [eax, ebx, ecx, edx];
  }
}

/** KVM_GET_SUPPORTED_CPUID; `user`: struct kvm_cpuid2 (kernel: `kvm_dev_ioctl_get_cpuid()`). */
export function kvmDevIoctlGetCpuid(user: VirtAddr): 0 | Errno {
  const leaves = [...BASIC_LEAVES, KVM_CPUID_SIGNATURE, KVM_CPUID_FEATURES, ...EXTENDED_LEAVES];
  const bytes = KVM_CPUID2_BYTES + leaves.length * KVM_CPUID_ENTRY2_BYTES;
  const table = kmalloc(bytes, GFP_KERNEL_ACCOUNT);
  if (table === 0) return ENOMEM;
  const result = fillSupported(user, table, leaves, bytes);
  kfree(table);
  return result;
}

function fillSupported(user: VirtAddr, table: VirtAddr, leaves: readonly number[], bytes: number): 0 | Errno {
  if (copyFromUser(table, user, KVM_CPUID2_BYTES) !== 0) return EFAULT;
  if (cpu.load(table, 4) < leaves.length) return E2BIG;
  cpu.fill(table, 0, bytes);
  cpu.store(table, 4, leaves.length);
  for (const [i, leaf] of leaves.entries()) {
    const entry = addVirt(table, KVM_CPUID2_BYTES + i * KVM_CPUID_ENTRY2_BYTES);
    const [eax, ebx, ecx, edx] = supportedLeaf(leaf);
    cpu.store(addVirt(entry, CPUID_ENTRY.function), 4, leaf);
    if (leaf === 7) cpu.store(addVirt(entry, CPUID_ENTRY.flags), 4, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
    cpu.store(addVirt(entry, CPUID_ENTRY.eax), 4, eax);
    cpu.store(addVirt(entry, CPUID_ENTRY.ebx), 4, ebx);
    cpu.store(addVirt(entry, CPUID_ENTRY.ecx), 4, ecx);
    cpu.store(addVirt(entry, CPUID_ENTRY.edx), 4, edx);
  }
  return copyToUser(user, table, bytes) === 0 ? 0 : EFAULT;
}

/** KVM_SET_CPUID2 (kernel: `kvm_vcpu_ioctl_set_cpuid2()`). The old table is replaced only when the new one is whole. */
export function kvmVcpuIoctlSetCpuid2(vcpu: Ptr<"kvm_vcpu">, user: VirtAddr): 0 | Errno {
  const view = KvmVcpu.at(vcpu);
  const header = kmalloc(KVM_CPUID2_BYTES, GFP_KERNEL_ACCOUNT);
  if (header === 0) return ENOMEM;
  const missing = copyFromUser(header, user, KVM_CPUID2_BYTES);
  const entries = missing === 0 ? cpu.load(header, 4) : 0;
  kfree(header);
  if (missing !== 0) return EFAULT;
  if (entries > KVM_MAX_CPUID_ENTRIES) return E2BIG;
  if (entries === 0) return EINVAL;
  const bytes = entries * KVM_CPUID_ENTRY2_BYTES;
  const table = kmalloc(bytes, GFP_KERNEL_ACCOUNT);
  if (table === 0) return ENOMEM;
  if (copyFromUser(table, addVirt(user, KVM_CPUID2_BYTES), bytes) !== 0) {
    kfree(table);
    return EFAULT;
  }
  const old = view.cpuidEntries;
  view.cpuidEntries = table;
  view.cpuidNent = entries;
  if (old !== 0) kfree(old);
  return 0;
}

/** Kernel: `kvm_find_cpuid_entry_index()`. 0 where there is none. */
function findEntry(view: KvmVcpu, leaf: number, subleaf: number): VirtAddr | 0 {
  const count = view.cpuidNent;
  const table = view.cpuidEntries;
  for (let i = 0; i < count; i++) {
    const entry = addVirt(table, i * KVM_CPUID_ENTRY2_BYTES);
    if (cpu.load(addVirt(entry, CPUID_ENTRY.function), 4) !== leaf) continue;
    const hasIndex = (cpu.load(addVirt(entry, CPUID_ENTRY.flags), 4) & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) !== 0;
    if (!hasIndex || cpu.load(addVirt(entry, CPUID_ENTRY.index), 4) === subleaf) return entry;
  }
  return 0;
}

/** A bit of the guest's CPUID: register of `leaf` (kernel: `guest_cpuid_has()`). */
export function guestCpuidHas(vcpu: Ptr<"kvm_vcpu">, leaf: number, register: "eax" | "ebx" | "ecx" | "edx", bit: number): boolean {
  const entry = findEntry(KvmVcpu.at(vcpu), leaf, 0);
  return entry !== 0 && ((cpu.load(addVirt(entry, CPUID_ENTRY[register]), 4) >>> bit) & 1) !== 0;
}

/** Kernel: `kvm_emulate_cpuid()`. A leaf that the monitor did not set reads as zeros. @returns 1 */
export function kvmEmulateCpuid(vcpu: Ptr<"kvm_vcpu">): 1 {
  const leaf = readGprLow(vcpu, VCPU_REGS.RAX);
  const subleaf = readGprLow(vcpu, VCPU_REGS.RCX);
  const entry = findEntry(KvmVcpu.at(vcpu), leaf, subleaf);
  const value = (offset: number): number => (entry === 0 ? 0 : cpu.load(addVirt(entry, offset), 4));
  writeGpr(vcpu, VCPU_REGS.RAX, value(CPUID_ENTRY.eax), 0);
  writeGpr(vcpu, VCPU_REGS.RBX, value(CPUID_ENTRY.ebx), 0);
  writeGpr(vcpu, VCPU_REGS.RCX, value(CPUID_ENTRY.ecx), 0);
  writeGpr(vcpu, VCPU_REGS.RDX, value(CPUID_ENTRY.edx), 0);
  return kvmSkipEmulatedInstruction(vcpu);
}
