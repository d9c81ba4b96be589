// Configurations by name, as data: the standard one, small ones whose whole space is explored in seconds, and one for each condition under
// which address space isolation has to hold.
import { DEFAULT_CPU_MODEL, fail, findCpuModel } from "../../hardware/index.ts";
import { PROPERTY_NAMES } from "../properties/index.ts";
import { type Configuration, withoutFeatures } from "./configuration.ts";
import type { InjectionKind } from "./injection.ts";

const DELIVERIES = ["interrupt", "nmi", "timer"];
const NESTED: readonly InjectionKind[] = ["nmi", "nmi sensitive", "irq", "irq sensitive", "timer"];
const KVM = ["KVM_RUN HLT", "KVM_RUN VMCALL", "KVM_RUN EPT violation", "KVM_RUN external interrupt", "KVM_RUN NMI"];
/** KVM's L1D flush at every entry would hide what ASI's own does. */
const ASI_FLUSHES = "asi=on kvm-intel.vmentry_l1d_flush=never";

const model = (key: string): Configuration["model"] => findCpuModel(key) ?? fail(`no CPU model ${key}`);

const STANDARD: Configuration = {
  name: "standard",
  model: DEFAULT_CPU_MODEL,
  preset: "cordon",
  commandLine: ASI_FLUSHES,
  options: {},
  cpus: 2,
  processes: 2,
  vms: 1,
  vcpus: 1,
  operations: ["getppid", "sched_yield", ...KVM, "mmap", "munmap", "page fault", ...DELIVERIES],
  injections: NESTED,
  injectionsPerEvent: 1,
  switches: 2,
  failures: 0,
  depth: 0,
  searchMegabytes: 1024,
  workers: 2,
  memoryMegabytes: 48,
  properties: PROPERTY_NAMES,
};

/** One CPU, nothing suspended. */
const ALONE: Configuration = { ...STANDARD, cpus: 1, switches: 0, workers: 1 };
const USER_ONLY: Configuration = {
  ...ALONE,
  vms: 0,
  operations: ["getppid", "sched_yield", "mmap", "munmap", "page fault", ...DELIVERIES],
};
const ENTRY: Configuration = { ...ALONE, operations: ["getppid", "sched_yield", "KVM_RUN HLT", ...DELIVERIES] };

const ALL: readonly Configuration[] = [
  STANDARD,
  { ...USER_ONLY, name: "small-userspace", operations: ["getppid", "sched_yield", ...DELIVERIES] },
  { ...ALONE, name: "small-kvm", operations: ["KVM_RUN HLT", "KVM_RUN VMCALL", "sched_yield", ...DELIVERIES] },
  { ...USER_ONLY, name: "small-memory" },
  {
    ...STANDARD,
    name: "small-shootdown",
    vms: 0,
    switches: 1,
    injectionsPerEvent: 0,
    injections: [],
    operations: ["mmap", "munmap", "page fault", "getppid"],
  },
  { ...ALONE, name: "kvm-exits", operations: [...KVM, "KVM_RUN port output", "KVM_RUN running on", "getppid", ...DELIVERIES] },
  { ...ENTRY, name: "entry-syscall" },
  { ...ENTRY, name: "entry-int80", operations: ["getppid by INT80", "getppid", ...DELIVERIES] },
  { ...ENTRY, name: "entry-sysenter", operations: ["getppid by SYSENTER", "getppid", ...DELIVERIES] },
  { ...ENTRY, name: "no-pcid", model: withoutFeatures(model("skx"), ["PCID", "INVPCID"]) },
  { ...ENTRY, name: "no-ibpb", model: withoutFeatures(model("skx"), ["IBPB"]) },
  { ...ENTRY, name: "l1tf", model: model("skx") },
  { ...ENTRY, name: "intel-without-l1tf", model: model("clx") },
  { ...ENTRY, name: "pti", commandLine: `${ASI_FLUSHES} pti=on` },
  // Address space isolation turns page-table isolation off; here it is alone.
  { ...ENTRY, name: "pti-alone", commandLine: "asi=off pti=on" },
  { ...ENTRY, name: "userspace-off", commandLine: `${ASI_FLUSHES} asi_userspace=off` },
  { ...ENTRY, name: "mitigations-off", commandLine: `${ASI_FLUSHES} mitigations=off` },
  { ...USER_ONLY, name: "kvm-off", model: withoutFeatures(model("skx"), ["VMX"]) },
  { ...ALONE, name: "nested-twice", injectionsPerEvent: 2, operations: ["getppid", "KVM_RUN HLT"] },
  {
    ...ALONE,
    name: "processes",
    vms: 0,
    operations: ["fork", "exit", "wait", "copy on write", "sched_yield", "futex wait", "futex wake", "pipe read", "pipe write"],
  },
  { ...ALONE, name: "files", vms: 0, operations: ["read file", "write file", "getppid", ...DELIVERIES] },
  { ...ALONE, name: "vm-life", operations: ["VM creation", "VM destruction", "KVM_RUN HLT", "getppid"] },
  {
    ...ALONE,
    name: "allocation-failures",
    failures: 1,
    injections: ["failure"],
    operations: ["mmap", "munmap", "page fault", "fork", "exit", "wait", "VM creation", "VM destruction", "KVM_RUN EPT violation"],
  },
  {
    ...ALONE,
    name: "kernel-memory",
    operations: ["kmalloc", "kfree", "vmalloc", "vfree", "module load", "module unload", "KVM_RUN HLT", "getppid"],
  },
  { ...ALONE, name: "static-keys", cpus: 2, switches: 1, operations: ["static-key patch", "TLB flush", "getppid", "KVM_RUN HLT"] },
  { ...ALONE, name: "signals", vms: 0, operations: ["signal", "getppid", "sched_yield", ...DELIVERIES] },
  { ...ALONE, name: "suspend", operations: ["suspend", "getppid", "KVM_RUN HLT"] },
  // A CPU that comes online goes through its early boot, with whatever may be injected there.
  { ...ALONE, name: "hotplug", cpus: 2, switches: 1, operations: ["CPU offline", "CPU online", "getppid", "KVM_RUN HLT"] },
  { ...ALONE, name: "machine-checks", injections: ["machine check"], operations: ["getppid", "KVM_RUN HLT", "machine check"] },
];

/** By name. */
export const CONFIGURATIONS: ReadonlyMap<string, Configuration> = new Map(ALL.map((one) => [one.name, one]));
export const CONFIGURATION_NAMES: readonly string[] = [...CONFIGURATIONS.keys()];

/** The configuration of that name, which there is. */
export function namedOf(name: string): Configuration {
  return CONFIGURATIONS.get(name) ?? fail(`no configuration ${name}`);
}
