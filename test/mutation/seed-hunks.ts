// Where the published change "KVM: x86: asi: Restricted address space for VM execution" (patch 21 of 29 of the second series) stands in
// this kernel, hunk by hunk. What a hunk adds is data or a declaration only where `statements` is empty.

export interface SeedHunk {
  /** File of Linux and the function or structure that the hunk is in. */
  readonly hunk: string;
  readonly file: string;
  readonly where: string;
  /** Which statements of the function: all of them, or those whose text contains one of these. */
  readonly statements: "all" | readonly string[];
}

const KVM = "src/kernel/kvm";

export const SEED_HUNKS: readonly SeedHunk[] = [
  {
    hunk: "vmx.c: vmx_vcpu_enter_exit(), asi_enter()",
    file: `${KVM}/vmx/enter-exit.ts`,
    where: "vmxVcpuEnterExit",
    statements: ["asiEnter("],
  },
  {
    hunk: "vmx.c: vmx_vcpu_enter_exit(), HOST_CR3 behind asi_enter()",
    file: `${KVM}/vmx/enter-exit.ts`,
    where: "vmxVcpuEnterExit",
    statements: ["cr3 !== host.cr3", "vmwriteWord(VMCS.HOST_CR3", "host.cr3 = cr3"],
  },
  {
    hunk: "vmx.c: vmx_vcpu_enter_exit(), the L1D flush after asi_enter()",
    file: `${KVM}/vmx/enter-exit.ts`,
    where: "vmxVcpuEnterExit",
    statements: ["vmxL1dFlush("],
  },
  {
    hunk: "vmx.c: vmx_vcpu_enter_exit(), asi_relax()",
    file: `${KVM}/vmx/enter-exit.ts`,
    where: "vmxVcpuEnterExit",
    statements: ["asiRelax("],
  },
  { hunk: "x86.c: kvm_x86_init_asi_class()", file: `${KVM}/asi-class.ts`, where: "kvmX86InitAsiClass", statements: "all" },
  { hunk: "x86.c: kvm_x86_init_asi_class(), the policy", file: `${KVM}/asi-class.ts`, where: "setPolicy", statements: "all" },
  {
    hunk: "x86.c: kvm_x86_vendor_init(), the class and out_asi_uninit",
    file: `${KVM}/init.ts`,
    where: "kvmX86VendorInit",
    statements: "all",
  },
  { hunk: "x86.c: kvm_x86_vendor_exit()", file: `${KVM}/init.ts`, where: "kvmX86VendorExit", statements: "all" },
  {
    hunk: "x86.c: kvm_arch_vcpu_ioctl_run(), asi_exit()",
    file: `${KVM}/run.ts`,
    where: "finishRun",
    statements: ["asiExit(", "exitAfterRun"],
  },
  { hunk: "x86.c: kvm_arch_init_vm(), asi_init() and out_asi_destroy", file: `${KVM}/vm.ts`, where: "kvmArchInitVm", statements: "all" },
  { hunk: "x86.c: kvm_arch_init_vm(), as posted", file: `${KVM}/vm.ts`, where: "kvmArchInitVmAsPosted", statements: "all" },
  { hunk: "x86.c: kvm_arch_init_vm(), asi_init()", file: `${KVM}/vm-domain.ts`, where: "kvmInitDomain", statements: "all" },
  { hunk: "x86.c: kvm_arch_destroy_vm(), asi_destroy()", file: `${KVM}/vm.ts`, where: "kvmArchDestroyVm", statements: "all" },
  { hunk: "x86.c: kvm_arch_destroy_vm(), asi_destroy()", file: `${KVM}/vm-domain.ts`, where: "kvmDestroyDomain", statements: "all" },
];

/** Hunks of which nothing can be mutated. */
export const SEED_HUNKS_WITHOUT_STATEMENTS: Readonly<Record<string, string>> = {
  "kvm_host.h: struct kvm_arch": "a field of a structure: a declaration",
  "svm.c: svm_vcpu_enter_exit()": "there is no SVM in this kernel",
  "vmx.c: vmx_vcpu_run()": "only takes away what vmx_vcpu_enter_exit() does now",
};
