// What a process of the soak does as a monitor of a virtual machine.
import {
  DEV_KVM,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_RUN,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_USER_MEMORY_REGION,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  PROT_READ,
  PROT_WRITE,
} from "../../abi/index.ts";
import { EPT_VIOLATION_ACC_READ, EPT_VIOLATION_ACC_WRITE, EPT_VIOLATION_GVA_IS_VALID, PAGE_SIZE } from "../../hardware/index.ts";
import { eptViolationExit, type GuestExit, hltExit, outExit, vmcallExit } from "../../residue/index.ts";
import { GUEST_PAGES, guestRegion, guestSregs, guestStartRegisters } from "../check/index.ts";
import { type ActionKind, arg, call, NR, type Part, SCRATCH_ADDRESS } from "./actions.ts";

const O_RDWR = 2;
const KVM = 0;
const VM = 1;
const VCPU = 2;
const GUEST_BYTES = GUEST_PAGES * PAGE_SIZE;

/** The ways in which a guest leaves; undefined: it runs on until an interrupt comes. */
export const GUEST_EXITS: readonly (GuestExit | undefined)[] = [
  hltExit(),
  vmcallExit(1),
  outExit(0xe9, 0x2e),
  eptViolationExit(0, EPT_VIOLATION_ACC_READ | EPT_VIOLATION_GVA_IS_VALID),
  eptViolationExit(PAGE_SIZE * 3, EPT_VIOLATION_ACC_WRITE | EPT_VIOLATION_GVA_IS_VALID),
  vmcallExit(77),
  undefined,
];

const isOpen: (part: Part) => Part = (part) => (turn) => (turn.state.kvmFd(VCPU) < 0 ? undefined : part(turn));
const unlessOpen: (part: Part) => Part = (part) => (turn) => (turn.state.kvmFd(VCPU) >= 0 ? undefined : part(turn));

/** Makes a VM with one vCPU; each part goes on with whatever the one before gave, errors too. */
const makeVm: readonly Part[] = [
  () => ({ kind: "write", address: SCRATCH_ADDRESS, bytes: new TextEncoder().encode(`${DEV_KVM}\0`) }),
  () => call(NR.open, SCRATCH_ADDRESS, O_RDWR, 0),
  (t) => {
    t.state.setKvmFd(KVM, t.result);
    return call(NR.ioctl, t.result, KVM_CREATE_VM, 0);
  },
  (t) => {
    t.state.setKvmFd(VM, t.result);
    return call(NR.mmap, 0, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  },
  (t) => {
    t.state.guestMemory = t.result;
    return { kind: "write", address: SCRATCH_ADDRESS, bytes: guestRegion(t.result) };
  },
  (t) => call(NR.ioctl, t.state.kvmFd(VM), KVM_SET_USER_MEMORY_REGION, SCRATCH_ADDRESS),
  (t) => call(NR.ioctl, t.state.kvmFd(VM), KVM_CREATE_VCPU, 0),
  (t) => {
    t.state.setKvmFd(VCPU, t.result);
    return { kind: "write", address: SCRATCH_ADDRESS, bytes: guestSregs() };
  },
  (t) => call(NR.ioctl, t.state.kvmFd(VCPU), KVM_SET_SREGS, SCRATCH_ADDRESS),
  () => ({ kind: "write", address: SCRATCH_ADDRESS, bytes: guestStartRegisters() }),
  (t) => call(NR.ioctl, t.state.kvmFd(VCPU), KVM_SET_REGS, SCRATCH_ADDRESS),
];

export const GUEST_ACTIONS: ReadonlyMap<string, ActionKind> = new Map<string, ActionKind>([
  ["make vm", { parts: makeVm.map((part, i) => (i < makeVm.length - 3 ? unlessOpen(part) : part)), weight: 0.4, ranges: [] }],
  [
    "run guest",
    {
      parts: [
        isOpen((t) => {
          t.chooseExit(arg(t, 0));
          return call(NR.ioctl, t.state.kvmFd(VCPU), KVM_RUN, 0);
        }),
      ],
      weight: 14,
      ranges: [GUEST_EXITS.length],
    },
  ],
  [
    "close vm",
    {
      parts: ([VCPU, VM, KVM] as const).map(
        (which): Part =>
          (t) => {
            const fd = t.state.kvmFd(which);
            t.state.setKvmFd(which, -1);
            return fd < 0 ? undefined : call(NR.close, fd);
          },
      ),
      weight: 0.3,
      ranges: [],
    },
  ],
]);
