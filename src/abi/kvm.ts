// Requests of the KVM interface (Linux uapi linux/kvm.h, Documentation/virt/kvm/api.rst). Numbers are built as _IO(), _IOR() and
// _IOW() build them, from the direction, the size of the argument and the magic number of KVM.
import { KVM_CPUID2_BYTES, KVM_REGS_BYTES, KVM_SREGS_BYTES, KVM_USERSPACE_MEMORY_REGION_BYTES } from "./kvm-structs.ts";

/** Magic number of KVM's requests. */
const KVMIO = 0xae;
const IOC_WRITE = 1;
const IOC_READ = 2;

/** asm-generic/ioctl.h: direction in bits 31:30, size in 29:16, type in 15:8, number in 7:0. */
function ioc(direction: number, number: number, bytes: number): number {
  return ((direction << 30) | (bytes << 16) | (KVMIO << 8) | number) >>> 0;
}
const io = (number: number): number => ioc(0, number, 0);
const ior = (number: number, bytes: number): number => ioc(IOC_READ, number, bytes);
const iow = (number: number, bytes: number): number => ioc(IOC_WRITE, number, bytes);
const iowr = (number: number, bytes: number): number => ioc(IOC_READ | IOC_WRITE, number, bytes);

/** What KVM_GET_API_VERSION answers. */
export const KVM_API_VERSION = 12;

// On /dev/kvm.
export const KVM_GET_API_VERSION = io(0x00);
export const KVM_CREATE_VM = io(0x01);
export const KVM_CHECK_EXTENSION = io(0x03);
export const KVM_GET_VCPU_MMAP_SIZE = io(0x04);
export const KVM_GET_SUPPORTED_CPUID = iowr(0x05, KVM_CPUID2_BYTES);

// On a VM.
export const KVM_CREATE_VCPU = io(0x41);
export const KVM_SET_USER_MEMORY_REGION = iow(0x46, KVM_USERSPACE_MEMORY_REGION_BYTES);
/** struct kvm_enable_cap: u32 cap, u32 flags, u64 args[4], 64 bytes of padding. */
export const KVM_ENABLE_CAP_BYTES = 104;
export const KVM_ENABLE_CAP_ARGS = 8;
export const KVM_ENABLE_CAP = iow(0xa3, KVM_ENABLE_CAP_BYTES);

// On a vCPU.
export const KVM_RUN = io(0x80);
export const KVM_GET_REGS = ior(0x81, KVM_REGS_BYTES);
export const KVM_SET_REGS = iow(0x82, KVM_REGS_BYTES);
export const KVM_GET_SREGS = ior(0x83, KVM_SREGS_BYTES);
export const KVM_SET_SREGS = iow(0x84, KVM_SREGS_BYTES);
export const KVM_SET_CPUID2 = iow(0x90, KVM_CPUID2_BYTES);

// Capabilities (KVM_CHECK_EXTENSION).
export const KVM_CAP_USER_MEMORY = 3;
export const KVM_CAP_EXT_CPUID = 7;
export const KVM_CAP_NR_VCPUS = 9;
export const KVM_CAP_NR_MEMSLOTS = 10;
export const KVM_CAP_MAX_VCPUS = 66;
export const KVM_CAP_IMMEDIATE_EXIT = 136;
/**
 * Cordon's own, outside the range that Linux has assigned: args[0] = 0 says that the monitor holds no secrets, so that its guest may be
 * entered with the monitor's own data in buffers; 1 says the contrary. Before the first vCPU.
 */
export const KVM_CAP_ASI_PROTECT_USER_DATA = 0x10000;

/** Type argument of KVM_CREATE_VM: an ordinary VM. */
export const KVM_X86_DEFAULT_VM = 0;

// Flags of a memory region.
export const KVM_MEM_LOG_DIRTY_PAGES = 1 << 0;
export const KVM_MEM_READONLY = 1 << 1;

/** Why KVM_RUN returned. */
export const KVM_EXIT = {
  UNKNOWN: 0,
  EXCEPTION: 1,
  IO: 2,
  HYPERCALL: 3,
  DEBUG: 4,
  HLT: 5,
  MMIO: 6,
  IRQ_WINDOW_OPEN: 7,
  SHUTDOWN: 8,
  FAIL_ENTRY: 9,
  INTR: 10,
  INTERNAL_ERROR: 17,
  SYSTEM_EVENT: 24,
} as const;
export type KvmExitName = keyof typeof KVM_EXIT;

export const KVM_EXIT_IO_IN = 0;
export const KVM_EXIT_IO_OUT = 1;

// Suberrors of KVM_EXIT_INTERNAL_ERROR.
export const KVM_INTERNAL_ERROR_EMULATION = 1;
export const KVM_INTERNAL_ERROR_SIMUL_EX = 2;
export const KVM_INTERNAL_ERROR_DELIVERY_EV = 3;
export const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4;

// Hypercalls (uapi linux/kvm_para.h): number in RAX, arguments in RBX, RCX, RDX, RSI, result in RAX.
export const KVM_HC_VAPIC_POLL_IRQ = 1;
/**
 * Cordon's own, outside the range that Linux has assigned: a lookup in a bounds-checked table of the host kernel, whose handler is a
 * Spectre v1 gadget on purpose. RBX index, CL shift, EDX first line: reads line ((entry >> shift) & 15) + first, modulo 64, of a second
 * table.
 */
export const KVM_HC_CORDON_TABLE = 0x100;

// Errors of hypercalls, as the guest sees them in RAX.
export const KVM_ENOSYS = 1000;
export const KVM_EPERM = 1;
export const KVM_EINVAL = 22;
