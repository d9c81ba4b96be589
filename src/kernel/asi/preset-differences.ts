// What preset rfc-v2, the series as posted, does otherwise than preset cordon: data for reports. Each line is a fact of the code: the place
// named in `where` asks for the preset, and the test named there fails when it stops asking.

export interface PresetDifference {
  readonly id: string;
  /** Number of the patch in RFC v2. */
  readonly patch: number;
  /** What the posted series does. */
  readonly posted: string;
  /** What preset cordon does. */
  readonly cordon: string;
  readonly consequence: string;
  /** Kernel function, and our file. */
  readonly where: string;
  /** Shows it, from the project's root. */
  readonly command: string;
}

export const PRESET_DIFFERENCES: readonly PresetDifference[] = [
  {
    id: "guest-data-lost",
    patch: 21,
    posted: "entering the KVM class sets GUEST_CONTROL instead of GUEST_DATA and GUEST_CONTROL",
    cordon: "entering it always sets both",
    consequence:
      "what a guest left in buffers is nobody's: after a switch of mm it is not told apart as another mm's, so another guest may sample it",
    where: "kvm_x86_init_asi_class(), kvm/asi-class.ts",
    command: "npm test -- kernel/kvm/kvm-life",
  },
  {
    id: "data-mask",
    patch: 3,
    posted: "the data mask lacks GUEST_DATA: a data flush leaves the bit, and a switch of mm derives nothing from it",
    cordon: "the mask has all four data taints",
    consequence: "a taint that says more than the truth after a flush, and less than the truth after a switch of mm",
    where: "maybe_flush_data(), asi_handle_switch_mm(), asi/asi-transition.ts",
    command: "npm test -- kernel/asi/asi-transition",
  },
  {
    id: "vm-init-twice",
    patch: 21,
    posted: "kvm_arch_init_vm() calls vm_init before and again after the domain is made",
    cordon: "vm_init once, after the domain",
    consequence: "what vm_init allocates or warns of is done twice; the first is lost",
    where: "kvm_arch_init_vm(), kvm/vm.ts",
    command: "npm test -- kernel/kvm/kvm-life",
  },
  {
    id: "vm-init-not-unwound",
    patch: 21,
    posted: "when the domain cannot be made, the vm_init that came before is not undone",
    cordon: "each failure undoes all before it",
    consequence: "a VM that was never made leaves resources behind",
    where: "kvm_arch_init_vm(), kvm/vm.ts",
    command: "npm test -- kernel/kvm/kvm-life",
  },
  {
    id: "policy-bits",
    patch: 3,
    posted: "asi_init_class() warns of an empty field, and takes a policy with bits outside a field's mask",
    cordon: "such a policy is refused with -EINVAL; an empty field is legitimate",
    consequence: "a policy that protects nothing by mistake is in force; one that is right to ask for nothing warns",
    where: "asi_init_class(), asi/asi-class.ts",
    command: "npm test -- kernel/asi/asi-domain",
  },
  {
    id: "user-without-domain",
    patch: 25,
    posted: "a return to user mode without a domain (asi_userspace=off) leaves no taint",
    cordon: "it sets USER_CONTROL and USER_DATA: that code trains and leaves data all the same",
    consequence: "after a switch of mm the next process's guest runs with the first one's training and data (S1, S2, S10)",
    where: "asi_enter_userspace(), asi/asi-transition.ts: asiReturnToUserWithoutDomain",
    command: "npm test -- lab/check/check-kvm-run",
  },
  {
    id: "no-verw",
    patch: 27,
    posted: "a data flush flushes L1D and nothing else",
    cordon:
      "it also overwrites the CPU's buffers with VERW, where the CPU has MDS or TAA, the microcode for it, and no L1D flush that covers them",
    consequence:
      "on a CPU with MDS and without IA32_FLUSH_CMD the kernel's data stays in fill buffers when user code or a guest is entered (S2)",
    where: "maybe_flush_data(); mitigations/select.ts: selectAsiFlushes",
    command: "npm test -- kernel/asi/preset-differences",
  },
  {
    id: "fault-retry",
    patch: 10,
    posted: "a kernel fault is retried whenever the page is present and, for writes and fetches, writable or executable",
    cordon: "not for reserved bits, not for a read that a present mapping refused (SMAP), not for a fetch from a user page (SMEP)",
    consequence: "such a fault is retried for ever instead of being fixed up or reported (S6)",
    where: "kernel_access_ok(), mm/fault.ts",
    command: "npm test -- kernel/asi/preset-differences",
  },
  {
    id: "second-root",
    patch: 3,
    posted:
      "a domain's root is an order-1 block where the kernel has PTI configured, though PTI is off with ASI and nothing uses the second page",
    cordon: "one page",
    consequence: "a page more for each mm and each process with VMs, and an allocation that fails sooner when memory is fragmented",
    where: "asi_init(), asi/asi-domain.ts: tableOrder",
    command: "npm test -- kernel/asi/preset-differences",
  },
];
