// The data of address space isolation: classes, taints, policies, the restricted address space and what a task remembers of it. Only
// declarations, so that mm_struct and task_struct can embed them.
import { i32, physical, pointer, struct, u8, u32, type View } from "../../hardware/index.ts";
import { spinlock } from "../spinlock.ts";

/** Kernel: enum asi_class_id. */
export const ASI_CLASS_KVM = 0;
export const ASI_CLASS_USERSPACE = 1;
export const ASI_MAX_NUM_CLASSES = 2;
export type AsiClassId = typeof ASI_CLASS_KVM | typeof ASI_CLASS_USERSPACE;

// Taints: whose data may be left in buffers and caches (data), whose training in predictors (control). Kernel: ASI_TAINT_*. Spec 2.5.
export const ASI_TAINT_KERNEL_DATA = 1 << 0;
export const ASI_TAINT_USER_DATA = 1 << 1;
export const ASI_TAINT_GUEST_DATA = 1 << 2;
export const ASI_TAINT_OTHER_MM_DATA = 1 << 3;
export const ASI_TAINT_USER_CONTROL = 1 << 4;
export const ASI_TAINT_GUEST_CONTROL = 1 << 5;
export const ASI_TAINT_OTHER_MM_CONTROL = 1 << 6;
/**
 * With option rsb_taint: the return stack may hold training of one of the above, so that a control flush must fill it too. Not in the posted
 * series, where every control taint stands for both predictors. Set together with a control taint, never alone.
 */
export const ASI_TAINT_RETURN_STACK = 1 << 7;

/** By bit number, for reports. */
export const ASI_TAINT_NAMES = [
  "KERNEL_DATA",
  "USER_DATA",
  "GUEST_DATA",
  "OTHER_MM_DATA",
  "USER_CONTROL",
  "GUEST_CONTROL",
  "OTHER_MM_CONTROL",
  "RETURN_STACK",
] as const;

export const ASI_TAINTS_CONTROL_MASK = ASI_TAINT_USER_CONTROL | ASI_TAINT_GUEST_CONTROL | ASI_TAINT_OTHER_MM_CONTROL;
export const ASI_TAINTS_DATA_MASK = ASI_TAINT_KERNEL_DATA | ASI_TAINT_USER_DATA | ASI_TAINT_GUEST_DATA | ASI_TAINT_OTHER_MM_DATA;
/** As posted, the data mask lacks GUEST_DATA (preset rfc-v2): a flush leaves that bit. */
export const ASI_TAINTS_DATA_MASK_RFC_V2 = ASI_TAINT_KERNEL_DATA | ASI_TAINT_USER_DATA | ASI_TAINT_OTHER_MM_DATA;
export const ASI_TAINTS_GUEST_MASK = ASI_TAINT_GUEST_DATA | ASI_TAINT_GUEST_CONTROL;
export const ASI_TAINTS_USER_MASK = ASI_TAINT_USER_DATA | ASI_TAINT_USER_CONTROL;

/** What a class protects, refuses and leaves behind (kernel: struct asi_taint_policy). Must outlive the class. */
export const AsiTaintPolicy = struct("asi_taint_policy", {
  /** Control taints that must be flushed before the domain is entered. */
  preventControl: u8,
  /** Data taints that must be flushed before the domain is entered. */
  protectData: u8,
  /** Taints that running in the domain leaves. */
  set: u8,
});
export type AsiTaintPolicy = View<typeof AsiTaintPolicy>;

/** One restricted address space: of one mm, for one class (kernel: struct asi). Lives in its mm_struct; a VM's own in a record of its own. */
export const Asi = struct("asi", {
  /** Root of the restricted tables, 0 while unused. Under mm.asiInitLock: changes together with refCount. */
  pgd: physical,
  mm: pointer("mm_struct"),
  /** What entering it flushes and leaves: its class's, or what a VM's monitor chose. Other CPUs may read it at any time. */
  policy: pointer("asi_taint_policy"),
  refCount: i32,
  classId: u32,
  /** Never used twice: a CPU that remembers a domain does not take another at the same address for it. Constant while in use. */
  id: u32,
  /** Guards the user half of the root, where the class maps user addresses. Taken with interrupts on, under the mm's mmapLock. */
  pgdLock: spinlock,
});
export type Asi = View<typeof Asi>;

/** Kernel: struct asi_state, in thread_struct. Written only by the task itself and by interrupts on top of it. */
export const AsiState = struct("asi_state", {
  /** The domain of the critical section the task is in, or NULL: relaxed. */
  target: pointer("asi"),
  /** Interrupt handlers on top of the critical section. */
  intrNestDepth: i32,
});
export type AsiState = View<typeof AsiState>;
