// Structures of the KVM interface by offset (Linux uapi linux/kvm.h and asm/kvm.h). Offsets and not views: kernel and programs see
// the same bytes from different address spaces. All fields are little endian; 8 bytes where nothing else is said.

/** struct kvm_userspace_memory_region. */
export const KVM_USERSPACE_MEMORY_REGION_BYTES = 32;
export const MEMORY_REGION = {
  /** u32 */
  slot: 0,
  /** u32 */
  flags: 4,
  guest_phys_addr: 8,
  memory_size: 16,
  userspace_addr: 24,
} as const;

/** struct kvm_regs: 18 values of 8 bytes in this order. */
export const KVM_REGS_ORDER = [
  ...(["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"] as const),
  ...(["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"] as const),
];
export type KvmRegisterName = (typeof KVM_REGS_ORDER)[number];
export const KVM_REGS_BYTES = 144;

/** struct kvm_segment: 24 bytes. */
export const KVM_SEGMENT_BYTES = 24;
export const SEGMENT = {
  base: 0,
  /** u32 */
  limit: 8,
  /** u16 */
  selector: 12,
  // u8 each from here on
  type: 14,
  present: 15,
  dpl: 16,
  db: 17,
  s: 18,
  l: 19,
  g: 20,
  avl: 21,
  unusable: 22,
} as const;

/** struct kvm_dtable: base, u16 limit, padding; 16 bytes. */
export const KVM_DTABLE_BYTES = 16;
export const DTABLE = { base: 0, /** u16 */ limit: 8 } as const;

/** struct kvm_sregs: 8 segments, 2 tables, control registers, EFER, APIC base, bitmap of 256 interrupts. */
export const KVM_SREGS_BYTES = 312;
export const SREGS = {
  cs: 0,
  ds: 24,
  es: 48,
  fs: 72,
  gs: 96,
  ss: 120,
  tr: 144,
  ldt: 168,
  gdt: 192,
  idt: 208,
  cr0: 224,
  cr2: 232,
  cr3: 240,
  cr4: 248,
  cr8: 256,
  efer: 264,
  apic_base: 272,
  interrupt_bitmap: 280,
} as const;

/** struct kvm_cpuid2: u32 nent, u32 padding, then the entries. */
export const KVM_CPUID2_BYTES = 8;
/** struct kvm_cpuid_entry2: u32 each. */
export const KVM_CPUID_ENTRY2_BYTES = 40;
export const CPUID_ENTRY = { function: 0, index: 4, flags: 8, eax: 12, ebx: 16, ecx: 20, edx: 24 } as const;
/** The entry answers only for its `index` (ECX). */
export const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1;

/** struct kvm_run: the page that KVM_RUN shares with its caller. */
export const KVM_RUN_OFFSET = {
  /** u8 */
  request_interrupt_window: 0,
  /** u8: KVM_RUN returns EINTR at once */
  immediate_exit: 1,
  /** u32, KVM_EXIT */
  exit_reason: 8,
  /** u8 */
  ready_for_interrupt_injection: 12,
  /** u8 */
  if_flag: 13,
  /** u16 */
  flags: 14,
  cr8: 16,
  apic_base: 24,
  // KVM_EXIT_UNKNOWN
  hardware_exit_reason: 32,
  // KVM_EXIT_FAIL_ENTRY
  hardware_entry_failure_reason: 32,
  /** u32 */
  fail_entry_cpu: 40,
  // KVM_EXIT_IO; u8, u8, u16, u32
  io_direction: 32,
  io_size: 33,
  io_port: 34,
  io_count: 36,
  /** Where the data is, from the start of this structure. */
  io_data_offset: 40,
  // KVM_EXIT_MMIO; 8 bytes of data, u32 length, u8
  mmio_phys_addr: 32,
  mmio_data: 40,
  mmio_len: 48,
  mmio_is_write: 52,
  // KVM_EXIT_INTERNAL_ERROR; u32, u32, up to 16 values
  internal_suberror: 32,
  internal_ndata: 36,
  internal_data: 40,
} as const;

/** Page of the shared mapping that holds the data of port accesses. */
export const KVM_PIO_PAGE_OFFSET = 1;
/** What KVM_GET_VCPU_MMAP_SIZE answers: struct kvm_run and the port data (no ring of coalesced MMIO). */
export const KVM_VCPU_MMAP_BYTES = 2 * 4096;
