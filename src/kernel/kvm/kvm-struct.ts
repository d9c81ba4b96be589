// The data of the hypervisor: VMs, vCPUs, memory slots, and what is kept per CPU and once. Only declarations. All of it is ordinary
// kernel memory (kmalloc, static, per-CPU), hence nonsensitive: the run loop works on it in the restricted address space. What a guest
// or its monitor owns (guest memory) is sensitive user memory and is reached through the direct map only by faulting out.
import {
  array,
  bool,
  bytes,
  embedded,
  i32,
  perCpu,
  perCpuInteger,
  physical,
  pointer,
  struct,
  u8,
  u32,
  type View,
  virtual,
  word,
} from "../../hardware/index.ts";
import { AsiTaintPolicy } from "../asi/asi-struct.ts";
import { spinlock } from "../spinlock.ts";
import { staticBytes, staticStruct } from "../static-data.ts";
import { staticKey } from "../static-key.ts";

/** Memory slots of a VM (Linux: 32764; the array is searched in order here). Kernel: KVM_USER_MEM_SLOTS. */
export const KVM_USER_MEM_SLOTS = 8;
/** Kernel: KVM_MAX_VCPUS. */
export const KVM_MAX_VCPUS = 8;
/** Kernel: KVM_MAX_CPUID_ENTRIES (256 there). */
export const KVM_MAX_CPUID_ENTRIES = 64;
/** VPIDs that are handed out: 1 .. VMX_NR_VPIDS - 1. Linux hands out 65535. */
export const VMX_NR_VPIDS = 256;

/** Kernel: struct kvm_memory_slot. Under kvm.slotsLock; `npages` 0 means unused. */
export const KvmMemorySlot = struct("kvm_memory_slot", {
  baseGfn: word,
  npages: word,
  userspaceAddr: virtual,
  flags: u32,
});
export type KvmMemorySlot = View<typeof KvmMemorySlot>;

/** Kernel: struct kvm, with the fields of struct kvm_arch that are used. */
export const Kvm = struct("kvm", {
  // Constant after kvm_create_vm().
  mm: pointer("mm_struct"),
  /** arch.asi: the KVM domain of `mm`, shared by all VMs of one process; with domain_per_vm the VM's own. NULL with ASI off. */
  asi: pointer("asi"),
  /** Root of the EPT, shared by all vCPUs (kernel: the TDP MMU's root). */
  rootHpa: physical,
  /**
   * Number in ground-truth labels: the mm's, since two VMs of one process are not told apart by ASI either; with domain_per_vm one that
   * no other VM has.
   */
  label: u32,
  /** The guest is not entered with the monitor's data in buffers. Set before the first vCPU. */
  protectUserData: bool,
  /** Calls of vm_init: 1, but 2 in the posted series (spec 2.12, hunk 7). */
  vmInitCalls: u32,
  /** One for the VM's file and one for each vCPU's. */
  usersCount: i32,
  /** Next in vm_list. Under kvm_lock. */
  vmListNext: pointer("kvm"),
  /** Guards the leaves of the EPT against memory that changes meanwhile. Taken with interrupts on. */
  mmuLock: spinlock,
  // Under mmuLock.
  /** Changes of user memory under way (kernel: mmu_invalidate_in_progress). */
  mmuInvalidateInProgress: u32,
  /** Counts changes that are over (kernel: mmu_invalidate_seq). */
  mmuInvalidateSeq: u32,
  // Under slotsLock.
  slotsLock: u32,
  memslots: array(embedded(KvmMemorySlot), KVM_USER_MEM_SLOTS),
  // Under lock.
  lock: u32,
  onlineVcpus: u32,
  vcpus: array(pointer("kvm_vcpu"), KVM_MAX_VCPUS),
});
export type Kvm = View<typeof Kvm>;

/** Index of a register in kvm_vcpu.regs: the encoding order of the hardware (kernel: enum kvm_reg). */
export const VCPU_REGS = {
  RAX: 0,
  RCX: 1,
  RDX: 2,
  RBX: 3,
  RSP: 4,
  RBP: 5,
  RSI: 6,
  RDI: 7,
  R8: 8,
  R9: 9,
  R10: 10,
  R11: 11,
  R12: 12,
  R13: 13,
  R14: 14,
  R15: 15,
  RIP: 16,
} as const;
export const NR_VCPU_REGS = 17;
// Further bits of regsAvail: state that is read from the VMCS when it is first asked for.
export const VCPU_EXREG_RFLAGS = 17;
export const VCPU_EXREG_CR3 = 18;
export const VCPU_EXREG_EXIT_INFO_1 = 19;
export const VCPU_EXREG_EXIT_INFO_2 = 20;

/** MSRs of the guest that are kept in memory while it does not run, or always; 8 bytes each. */
export const GUEST_MSR = {
  KERNEL_GS_BASE: 0,
  STAR: 8,
  LSTAR: 16,
  CSTAR: 24,
  SYSCALL_MASK: 32,
  TSC_AUX: 40,
  APICBASE: 48,
  MISC_ENABLE: 56,
  PAT: 64,
  SPEC_CTRL: 72,
} as const;
export const GUEST_MSR_BYTES = 80;

/** What runs at the next KVM_RUN before the guest is entered (kernel: vcpu->arch.complete_userspace_io). */
export const COMPLETE_NONE = 0;
export const COMPLETE_FAST_PIO_IN = 1;
export const COMPLETE_FAST_PIO_OUT = 2;
export const COMPLETE_SKIP = 3;

/** Kernel: struct kvm_vcpu with the fields of struct kvm_vcpu_arch that are used. Written by the task that holds `mutex`. */
export const KvmVcpu = struct("kvm_vcpu", {
  kvm: pointer("kvm"),
  vcpuId: u32,
  /** CPU on which the vCPU is loaded, or -1. */
  cpu: i32,
  mutex: u32,
  /** OUTSIDE_GUEST_MODE or IN_GUEST_MODE; others read it to decide whether to kick. */
  mode: u32,
  /** KVM_REQ_* bits; set by anyone (atomically), cleared by the vCPU. */
  requests: u32,
  /** struct kvm_run: a page that user space maps, and the page of port data behind it. */
  run: virtual,
  pioData: virtual,
  exits: u32,
  l1dFlushes: u32,
  // arch: registers. The machine code of the entry stub reads and writes `regs`.
  regs: bytes(NR_VCPU_REGS * 8, 8),
  regsAvail: u32,
  regsDirty: u32,
  rflags: word,
  cr0: u32,
  cr2: virtual,
  /** Guest-physical; 8 bytes. */
  cr3: word,
  cr4: u32,
  efer: u32,
  msrs: bytes(GUEST_MSR_BYTES, 8),
  // arch: events.
  exceptionPending: bool,
  exceptionInjected: bool,
  exceptionHasErrorCode: bool,
  exceptionVector: u8,
  exceptionErrorCode: u32,
  interruptInjected: bool,
  interruptSoft: bool,
  interruptVector: u8,
  nmiInjected: bool,
  /** Length of the instruction that raises an injected software event. */
  eventExitInstLen: u32,
  // arch: the rest.
  /** This vCPU may have pulled secrets into L1D since its last entry: flush in mode `cond`. */
  l1tfFlushL1d: bool,
  completeUserspaceIo: u32,
  pioPort: u32,
  pioSize: u32,
  /** RIP of the port access that user space completes; 8 bytes. */
  pioLinearRip: bytes(8, 8),
  cpuidNent: u32,
  /** Array of struct kvm_cpuid_entry2, or 0. */
  cpuidEntries: virtual,
});
export type KvmVcpu = View<typeof KvmVcpu>;

/** Kernel: struct vmcs_host_state: what the loaded VMCS's host area holds, so that a VMWRITE is made only when it changes. */
export const VmcsHostState = struct("vmcs_host_state", {
  cr3: word,
  cr4: u32,
  /** Written by the machine code of the entry stub. */
  rsp: word,
});

/** Kernel: struct loaded_vmcs. */
export const LoadedVmcs = struct("loaded_vmcs", {
  vmcs: virtual,
  /** CPU that holds it loaded, or -1; only that CPU may use it. */
  cpu: i32,
  launched: bool,
  hostState: embedded(VmcsHostState),
});

/** Kernel: struct vcpu_vmx. The vCPU is its first field, so that both have one address. */
export const VcpuVmx = struct("vcpu_vmx", {
  vcpu: embedded(KvmVcpu),
  vmcs01: embedded(LoadedVmcs),
  /** Nonzero when the last VM entry failed. */
  fail: u32,
  exitReason: u32,
  exitIntrInfo: u32,
  idtVectoringInfo: u32,
  /** Low and high half; valid when VCPU_EXREG_EXIT_INFO_1 is available. */
  exitQualification: word,
  vpid: u32,
  /** The guest's kernel GS base is in its MSR, the host's in `msrHostKernelGsBase`. */
  guestStateLoaded: bool,
  msrHostKernelGsBase: bytes(8, 8),
  /** Which of the user-return MSRs hold the guest's values: a bit each (see host-state-switch). */
  uretMsrsLoaded: u32,
  msrBitmap: virtual,
});
export type VcpuVmx = View<typeof VcpuVmx>;

/** Requests to a vCPU (kernel: KVM_REQ_*). */
export const KVM_REQ_TLB_FLUSH = 1 << 0;
export const KVM_REQ_TRIPLE_FAULT = 1 << 10;

export const OUTSIDE_GUEST_MODE = 0;
export const IN_GUEST_MODE = 1;

/** Kernel: struct vmcs_config, and the other globals of the module. Written once, by vendor init, but for the lists. */
export const KvmGlobals = struct("kvm_globals", {
  isInitialised: bool,
  vmcsRevision: u32,
  pinBasedExecCtrl: u32,
  cpuBasedExecCtrl: u32,
  cpuBased2ndExecCtrl: u32,
  vmexitCtrl: u32,
  vmentryCtrl: u32,
  kvmLock: u32,
  vmList: pointer("kvm"),
  hostEfer: u32,
  vpidBitmap: bytes(VMX_NR_VPIDS / 8),
});
export const kvmGlobals = staticStruct("kvm_globals", KvmGlobals);
/** What the KVM class protects, refuses and leaves behind; set up by kvm_x86_init_asi_class(). */
export const kvmAsiPolicy = staticStruct("kvm_asi_taint_policy", AsiTaintPolicy);
/** The same for domains all of whose VMs have monitors without secrets. */
export const kvmAsiPolicyNoSecrets = staticStruct("kvm_asi_taint_policy_no_secrets", AsiTaintPolicy);
/** Numbers of VMs in labels. */
export const lastVmLabel = staticBytes("kvm_last_vm_label", 4, 4);

/** The CPU has L1TF, so that L1D may have to be flushed before a VM entry (kernel: vmx_l1d_should_flush, which follows the mode too). */
export const vmxL1dMayFlush = staticKey("vmx_l1d_may_flush");
/** Fill the return stack after each VM exit (kernel: X86_FEATURE_RSB_VMEXIT). */
export const rsbVmexit = staticKey("X86_FEATURE_RSB_VMEXIT");
/** Prediction barrier when another VMCS is loaded (kernel: switch_vcpu_ibpb). */
export const switchVcpuIbpb = staticKey("switch_vcpu_ibpb");

/** 1 once VMXON was executed on this CPU (kernel: hardware_enabled). */
export const hardwareEnabled = perCpuInteger("hardware_enabled", 1);
/** VMXON region of this CPU. */
export const vmxarea = perCpu("vmxarea", virtual);
/** VMCS that is current on this CPU; 0 for none. */
export const currentVmcs = perCpu("current_vmcs", virtual);
/** vCPU whose task runs on this CPU between vcpu_load() and vcpu_put(). */
export const kvmRunningVcpu = perCpu("kvm_running_vcpu", pointer("kvm_vcpu"));
/** Set by every host interrupt: the handler may have pulled secrets into L1D (kernel: irq_stat.kvm_cpu_l1tf_flush_l1d). */
export const kvmCpuL1tfFlushL1d = perCpuInteger("kvm_cpu_l1tf_flush_l1d", 1);
