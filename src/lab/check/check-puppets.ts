// The user processes of a check: a monitor that makes a VM with one vCPU and runs it for ever, and a bystander of another mm that
// touches its own memory and gives the CPU back. Each is a list of actions; where it stands is in its state page.
import {
  DEV_KVM,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_REGS_BYTES,
  KVM_REGS_ORDER,
  KVM_RUN,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_USER_MEMORY_REGION,
  KVM_SREGS_BYTES,
  KVM_USERSPACE_MEMORY_REGION_BYTES,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MEMORY_REGION,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  SEGMENT,
  SREGS,
  SYS,
} from "../../abi/index.ts";
import {
  CR0_ET,
  CR0_NE,
  CR0_PE,
  CR0_PG,
  CR4_PAE,
  EFER_LMA,
  EFER_LME,
  PAGE_SIZE,
  PUPPET_STATE,
  type Puppet,
  type PuppetAction,
  type PuppetView,
  RFLAGS_FIXED,
} from "../../hardware/index.ts";

// In the state page: the next action, and what the earlier ones returned.
const NEXT = 0;
const KVM_FD = 8;
/** Results of KVM_RUN so far. */
const RUNS = 16;
const LAST_RESULT = 24;
/** Of each VM: its file, its vCPU's, its memory. */
const VM_FD = 32;
const VCPU_FD = 40;
const MEMORY = 48;
const VM_BYTES = 24;
const PATH = 0x800;
const REGION = 0x900;
const REGS = 0xa00;
const SREGS_AT = 0xb00;

export const GUEST_PAGES = 4;

function syscall(number: number, ...args: number[]): PuppetAction {
  return { kind: "syscall", number, args };
}

/** struct kvm_userspace_memory_region for a guest of GUEST_PAGES pages. */
export function guestRegion(userAddress: number): Uint8Array {
  const bytes = new Uint8Array(KVM_USERSPACE_MEMORY_REGION_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(MEMORY_REGION.memory_size, BigInt(GUEST_PAGES * PAGE_SIZE), true);
  view.setBigUint64(MEMORY_REGION.userspace_addr, BigInt(userAddress), true);
  return bytes;
}

const SEGMENT_CODE = 0xb;
const SEGMENT_DATA = 0x3;
const SEGMENT_BUSY_TSS = 0xb;
const GUEST_CODE = 0x2000;
const GUEST_PAGE_TABLES = 0x1000;

function segment(view: DataView, at: number, type: number, selector: number, isCodeOrData: boolean): void {
  view.setUint32(at + SEGMENT.limit, isCodeOrData ? 0xffffffff : 0xffff, true);
  view.setUint16(at + SEGMENT.selector, selector, true);
  view.setUint8(at + SEGMENT.type, type);
  view.setUint8(at + SEGMENT.present, 1);
  view.setUint8(at + SEGMENT.s, isCodeOrData ? 1 : 0);
  view.setUint8(at + SEGMENT.l, isCodeOrData && type === SEGMENT_CODE ? 1 : 0);
  view.setUint8(at + SEGMENT.g, isCodeOrData ? 1 : 0);
}

/** struct kvm_sregs of a guest in 64-bit mode. */
export function guestSregs(): Uint8Array {
  const bytes = new Uint8Array(KVM_SREGS_BYTES);
  const view = new DataView(bytes.buffer);
  segment(view, SREGS.cs, SEGMENT_CODE, 8, true);
  for (const at of [SREGS.ds, SREGS.es, SREGS.fs, SREGS.gs, SREGS.ss]) segment(view, at, SEGMENT_DATA, 16, true);
  segment(view, SREGS.tr, SEGMENT_BUSY_TSS, 24, false);
  view.setUint8(SREGS.ldt + SEGMENT.unusable, 1);
  view.setUint32(SREGS.cr0, (CR0_PG | CR0_NE | CR0_PE | CR0_ET) >>> 0, true);
  view.setUint32(SREGS.cr3, GUEST_PAGE_TABLES, true);
  view.setUint32(SREGS.cr4, CR4_PAE, true);
  view.setUint32(SREGS.efer, EFER_LME | EFER_LMA, true);
  return bytes;
}

/** struct kvm_regs: RIP and flags. */
export function guestStartRegisters(): Uint8Array {
  const bytes = new Uint8Array(KVM_REGS_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(8 * KVM_REGS_ORDER.indexOf("rip"), GUEST_CODE, true);
  view.setUint32(8 * KVM_REGS_ORDER.indexOf("rflags"), RFLAGS_FIXED, true);
  return bytes;
}

type Act = (view: PuppetView) => PuppetAction;

const OPEN_KVM: readonly Act[] = [
  () => ({ kind: "write", address: PUPPET_STATE + PATH, bytes: new TextEncoder().encode(`${DEV_KVM}\0`) }),
  () => syscall(SYS.open, PUPPET_STATE + PATH, O_RDWR, 0),
];

/** What makes VM number `index`; each action may store the result of the one before. */
const makeVm = (index: number): readonly Act[] => [
  (v) => {
    if (index === 0) v.state.setFloat64(KVM_FD, v.result);
    return syscall(SYS.ioctl, v.state.getFloat64(KVM_FD), KVM_CREATE_VM, 0);
  },
  (v) => {
    v.state.setFloat64(VM_FD + VM_BYTES * index, v.result);
    return syscall(SYS.mmap, 0, GUEST_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  },
  (v) => {
    v.state.setFloat64(MEMORY + VM_BYTES * index, v.result);
    return { kind: "store", address: v.result, value: 0x5ec4e7 };
  },
  (v) => ({ kind: "write", address: PUPPET_STATE + REGION, bytes: guestRegion(v.state.getFloat64(MEMORY + VM_BYTES * index)) }),
  (v) => syscall(SYS.ioctl, v.state.getFloat64(VM_FD + VM_BYTES * index), KVM_SET_USER_MEMORY_REGION, PUPPET_STATE + REGION),
  (v) => syscall(SYS.ioctl, v.state.getFloat64(VM_FD + VM_BYTES * index), KVM_CREATE_VCPU, 0),
  (v) => {
    v.state.setFloat64(VCPU_FD + VM_BYTES * index, v.result);
    return { kind: "write", address: PUPPET_STATE + SREGS_AT, bytes: guestSregs() };
  },
  (v) => syscall(SYS.ioctl, v.state.getFloat64(VCPU_FD + VM_BYTES * index), KVM_SET_SREGS, PUPPET_STATE + SREGS_AT),
  () => ({ kind: "write", address: PUPPET_STATE + REGS, bytes: guestStartRegisters() }),
  (v) => syscall(SYS.ioctl, v.state.getFloat64(VCPU_FD + VM_BYTES * index), KVM_SET_REGS, PUPPET_STATE + REGS),
  () => syscall(SYS.sched_yield),
];

/** Makes `vms` VMs, then runs them in turn again and again; after each round the CPU is given away. */
function monitor(vms: number): Puppet {
  const actions = [...OPEN_KVM, ...Array.from({ length: vms }, (_, index) => makeVm(index)).flat()];
  return (view) => {
    const { state } = view;
    const at = state.getUint32(NEXT);
    state.setUint32(NEXT, at + 1);
    const action = actions[at];
    if (action !== undefined) return action(view);
    const turn = (at - actions.length) % (vms + 1);
    if (turn > 0) {
      state.setFloat64(LAST_RESULT, view.result);
      state.setFloat64(RUNS, state.getFloat64(RUNS) + 1);
    }
    return turn < vms ? syscall(SYS.ioctl, state.getFloat64(VCPU_FD + VM_BYTES * turn), KVM_RUN, 0) : syscall(SYS.sched_yield);
  };
}

/** Makes a VM, then runs it again and again, giving the CPU away in between. */
export const monitorPuppet: Puppet = monitor(1);
/** Two VMs in one process, run one right after the other. */
export const twinMonitorPuppet: Puppet = monitor(2);

/** Another process on the same CPU. */
export const bystanderPuppet: Puppet = (view) => {
  const { state } = view;
  const at = state.getUint32(NEXT);
  state.setUint32(NEXT, at + 1);
  if (at % 2 === 0) return { kind: "touch", address: PUPPET_STATE, count: 4 };
  return syscall(SYS.sched_yield);
};

/** What the monitor's state page says. */
export function monitorState(page: DataView): { readonly runs: number; readonly lastResult: number } {
  return { runs: page.getFloat64(RUNS), lastResult: page.getFloat64(LAST_RESULT) };
}
