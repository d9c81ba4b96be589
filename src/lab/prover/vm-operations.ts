// What a process does as the monitor of its virtual machines: it makes them, runs them until they leave in one of the ways that there are, and
// destroys them.
import {
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_RUN,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_USER_MEMORY_REGION,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  SYS,
} from "../../abi/index.ts";
import { EPT_VIOLATION_ACC_READ, EPT_VIOLATION_ACC_WRITE, EPT_VIOLATION_GVA_IS_VALID, PAGE_SIZE } from "../../hardware/index.ts";
import { eptViolationExit, type GuestExit, hltExit, outExit, vmcallExit } from "../../residue/index.ts";
import { ARGUMENTS, GUEST_BYTES, guestMemoryAddress, MAX_VCPUS, MAX_VMS } from "./call-arguments.ts";
import { call, type GuestLeaves, type Operation, type Part } from "./operation.ts";
import type { ProcessMemory } from "./process-memory.ts";

/** Opens KVM and maps the guests' memory, a page of it touched: before anything else. */
export function kvmSetup(vms: number): readonly Part[] {
  const maps = Array.from({ length: vms }, (_, vm): readonly Part[] => [
    () => call(SYS.mmap, guestMemoryAddress(vm), GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
    () => ({ kind: "store", address: guestMemoryAddress(vm), value: 1 }),
  ]).flat();
  return [
    () => call(SYS.open, ARGUMENTS.kvm.address, O_RDWR, 0),
    ({ memory, result }) => {
      memory.kvm = result;
      return call(SYS.getppid);
    },
    ...maps,
  ];
}

/** Makes VM number `vm` with its vCPUs. What fails leaves a hole that `destroyVm` closes. */
export function createVm(vm: number, vcpus: number): readonly Part[] {
  const region = vm === 0 ? ARGUMENTS.region0 : ARGUMENTS.region1;
  const makeVcpu = (vcpu: number): readonly Part[] => [
    ({ memory }) => call(SYS.ioctl, memory.vmFile(vm), KVM_CREATE_VCPU, vcpu),
    ({ memory, result }) => {
      if (result > 0) memory.setVcpuFile(vm, vcpu, result);
      return call(SYS.ioctl, memory.vcpuFile(vm, vcpu), KVM_SET_SREGS, ARGUMENTS.sregs.address);
    },
    ({ memory }) => call(SYS.ioctl, memory.vcpuFile(vm, vcpu), KVM_SET_REGS, ARGUMENTS.regs.address),
  ];
  return [
    ({ memory }) => call(SYS.ioctl, memory.kvm, KVM_CREATE_VM, 0),
    ({ memory, result }) => {
      if (result > 0) memory.setVmFile(vm, result);
      return call(SYS.ioctl, memory.vmFile(vm), KVM_SET_USER_MEMORY_REGION, region.address);
    },
    ...Array.from({ length: vcpus }, (_, vcpu) => makeVcpu(vcpu)).flat(),
  ];
}

export function runVcpu(vm: number, vcpu: number): Part {
  return ({ memory }) => call(SYS.ioctl, memory.vcpuFile(vm, vcpu), KVM_RUN, 0);
}

function destroyVm(vm: number): readonly Part[] {
  const closeVcpus = Array.from({ length: MAX_VCPUS }, (_, vcpu): Part => {
    return ({ memory }) => {
      const fd = memory.vcpuFile(vm, vcpu);
      memory.setVcpuFile(vm, vcpu, 0);
      return fd === 0 ? call(SYS.getppid) : call(SYS.close, fd);
    };
  });
  return [
    ...closeVcpus,
    ({ memory }) => {
      const fd = memory.vmFile(vm);
      memory.setVmFile(vm, 0);
      return call(SYS.close, fd);
    },
  ];
}

const RESOLVED = EPT_VIOLATION_ACC_WRITE | EPT_VIOLATION_GVA_IS_VALID;

/**
 * The guest is a loop around the instruction that exits: it comes back to the same place with nothing in its registers, so that running it
 * again leads to the same state.
 */
function again(exit: GuestExit): GuestExit {
  return { ...exit, instructionLength: 0, registers: [...CLEARED, ...(exit.registers ?? [])] };
}

/** RAX, RCX, RBX. */
const CLEARED: readonly (readonly [number, number])[] = [
  [0, 0],
  [1, 0],
  [3, 0],
];

/** How a guest leaves first; after that it halts, which ends KVM_RUN. */
const GUEST_LEAVES: Readonly<Record<string, readonly GuestLeaves[]>> = {
  HLT: [],
  VMCALL: [again(vmcallExit(1))],
  "port output": [again(outExit(0xe9, 0x41))],
  "EPT violation": [again(eptViolationExit(PAGE_SIZE * 3, RESOLVED))],
  "EPT violation of a read": [again(eptViolationExit(0, EPT_VIOLATION_ACC_READ | EPT_VIOLATION_GVA_IS_VALID))],
  "external interrupt": ["interrupt"],
  NMI: ["nmi"],
  "running on": ["runs on"],
};

/** The last exit of every KVM_RUN. */
export const LAST_EXIT = again(hltExit());

const isMain = (memory: ProcessMemory): boolean => memory.role === "main";

/** " vm 1", " vcpu 1": what tells the operations of further VMs and vCPUs from those of the first. */
export function targetSuffix(vm: number, vcpu: number): string {
  return `${vm === 0 ? "" : ` vm ${vm}`}${vcpu === 0 ? "" : ` vcpu ${vcpu}`}`;
}

function operationsOf(vm: number, vcpus: number): readonly (readonly [string, Operation])[] {
  const runs = Array.from({ length: MAX_VCPUS }, (_, vcpu) =>
    Object.entries(GUEST_LEAVES).map(([name, exits]): readonly [string, Operation] => [
      `KVM_RUN ${name}${targetSuffix(vm, vcpu)}`,
      {
        kind: "process",
        needs: ["vm"],
        isPossible: (memory) => isMain(memory) && memory.vcpuFile(vm, vcpu) > 0,
        parts: [runVcpu(vm, vcpu)],
        exits,
        vm,
        vcpu,
      },
    ]),
  ).flat();
  return [
    ...runs,
    [
      `VM creation${targetSuffix(vm, 0)}`,
      {
        kind: "process",
        needs: ["vm"],
        isPossible: (memory) => isMain(memory) && memory.vmFile(vm) === 0,
        parts: createVm(vm, vcpus),
        vm,
        vcpu: 0,
      },
    ],
    [
      `VM destruction${targetSuffix(vm, 0)}`,
      {
        kind: "process",
        needs: ["vm"],
        isPossible: (memory) => isMain(memory) && memory.vmFile(vm) > 0,
        parts: destroyVm(vm),
        vm,
        vcpu: 0,
      },
    ],
  ];
}

/** The operations of all VMs that a process may have, each of which has `vcpus` vCPUs when it is made. */
export function vmOperations(vcpus: number): Readonly<Record<string, Operation>> {
  return Object.fromEntries(Array.from({ length: MAX_VMS }, (_, vm) => operationsOf(vm, vcpus)).flat());
}
