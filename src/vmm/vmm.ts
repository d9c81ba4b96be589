// The virtual machine monitor: a process that makes a VM with one vCPU, loads a guest, and serves its exits: console output, the exit
// port, halt. It is a puppet: its decisions are this function, its system calls and memory accesses are executed in user mode.
import {
  DEV_KVM,
  EINTR,
  isErr,
  KVM_API_VERSION,
  KVM_CREATE_VCPU,
  KVM_CREATE_VM,
  KVM_GET_API_VERSION,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_VCPU_MMAP_SIZE,
  KVM_RUN,
  KVM_SET_CPUID2,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SET_USER_MEMORY_REGION,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  MEMORY_REGION,
  O_RDWR,
  PROT_READ,
  PROT_WRITE,
  STDOUT_FILENO,
  SYS,
} from "../abi/index.ts";
import { PAGE_SIZE, type Puppet, type PuppetAction, type PuppetView } from "../hardware/index.ts";
import { type ExitAction, handleGuestExit } from "./guest-exits.ts";
import { guestTables, type Piece, putStartRegs, putStartSregs } from "./guest-state.ts";
import { decodeVmmArguments, readArguments, type VmmArguments } from "./vmm-arguments.ts";
import { CPUID_ENTRIES, VmmState } from "./vmm-state.ts";

/** How a guest's run ended. `status`: of "halt" (0) and "exit". */
export interface VmmEnding {
  readonly kind: "halt" | "exit" | "triple fault" | "error";
  readonly status: number;
  /** Why, in words, for "error". */
  readonly reason: string;
}

/** Name of the puppet in a kernel configuration. */
export const VMM_PUPPET = "vmm";
/** Exit status of the process when the guest did not end by itself: that of a crash, and of an error of the monitor. */
export const VMM_STATUS_TRIPLE_FAULT = 254;
export const VMM_STATUS_ERROR = 255;

function syscall(number: number, ...args: readonly number[]): PuppetAction {
  return { kind: "syscall", number, args };
}

/** A preparation: a system call, and what to do with its result. */
interface Step {
  readonly name: string;
  readonly act: (state: VmmState, args: VmmArguments) => PuppetAction;
  readonly done?: (state: VmmState, result: number) => void;
}

const STEPS: readonly Step[] = [
  {
    name: `open ${DEV_KVM}`,
    act: (state) => {
      state.setPath(DEV_KVM);
      return syscall(SYS.open, VmmState.address("path"), O_RDWR);
    },
    done: (state, fd) => state.set("kvmFd", fd),
  },
  { name: "KVM_GET_API_VERSION", act: (state) => syscall(SYS.ioctl, state.get("kvmFd"), KVM_GET_API_VERSION, 0) },
  {
    name: "KVM_CREATE_VM",
    act: (state) => syscall(SYS.ioctl, state.get("kvmFd"), KVM_CREATE_VM, 0),
    done: (state, fd) => state.set("vmFd", fd),
  },
  {
    name: "mmap of guest memory",
    act: (_state, args) => syscall(SYS.mmap, 0, args.memoryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    done: (state, address) => state.setAddress("memory", address),
  },
  {
    name: "KVM_SET_USER_MEMORY_REGION",
    act: (state, args) => {
      const at = state.offset("region");
      const put = (offset: number, value: number): void => {
        state.view.setUint32(at + offset, value >>> 0, true);
        state.view.setUint32(at + offset + 4, Math.floor(value / 2 ** 32), true);
      };
      put(MEMORY_REGION.slot, 0);
      put(MEMORY_REGION.guest_phys_addr, 0);
      put(MEMORY_REGION.memory_size, args.memoryBytes);
      put(MEMORY_REGION.userspace_addr, state.getAddress("memory"));
      return syscall(SYS.ioctl, state.get("vmFd"), KVM_SET_USER_MEMORY_REGION, VmmState.address("region"));
    },
  },
  {
    name: "KVM_CREATE_VCPU",
    act: (state) => syscall(SYS.ioctl, state.get("vmFd"), KVM_CREATE_VCPU, 0),
    done: (state, fd) => state.set("vcpuFd", fd),
  },
  {
    name: "KVM_GET_VCPU_MMAP_SIZE",
    act: (state) => syscall(SYS.ioctl, state.get("kvmFd"), KVM_GET_VCPU_MMAP_SIZE, 0),
    done: (state, bytes) => state.set("runBytes", bytes),
  },
  {
    name: "mmap of struct kvm_run",
    act: (state) => syscall(SYS.mmap, 0, state.get("runBytes"), PROT_READ | PROT_WRITE, MAP_SHARED, state.get("vcpuFd"), 0),
    done: (state, address) => state.setAddress("run", address),
  },
  // The pages appear when they are first accessed; from then on their bytes can be looked at.
  { name: "access to struct kvm_run", act: (state) => ({ kind: "load", address: state.getAddress("run") }) },
  { name: "access to port data", act: (state) => ({ kind: "load", address: state.getAddress("run") + PAGE_SIZE }) },
  {
    name: "KVM_GET_SUPPORTED_CPUID",
    act: (state) => {
      state.view.setUint32(state.offset("cpuid"), CPUID_ENTRIES, true);
      return syscall(SYS.ioctl, state.get("kvmFd"), KVM_GET_SUPPORTED_CPUID, VmmState.address("cpuid"));
    },
  },
  { name: "KVM_SET_CPUID2", act: (state) => syscall(SYS.ioctl, state.get("vcpuFd"), KVM_SET_CPUID2, VmmState.address("cpuid")) },
  {
    name: "KVM_SET_SREGS",
    act: (state) => {
      putStartSregs(state.view, state.offset("sregs"));
      return syscall(SYS.ioctl, state.get("vcpuFd"), KVM_SET_SREGS, VmmState.address("sregs"));
    },
  },
  {
    name: "KVM_SET_REGS",
    act: (state, args) => {
      putStartRegs(state.view, state.offset("regs"), args.entry, args.memoryBytes);
      return syscall(SYS.ioctl, state.get("vcpuFd"), KVM_SET_REGS, VmmState.address("regs"));
    },
  },
];

// Phases behind the steps: 0 .. STEPS.length - 1 are the steps under way, plus one.
const PHASE_LOAD = 100;
const PHASE_RUN = 101;
const PHASE_SERVE = 102;
const PHASE_FLUSH = 103;
const PHASE_END = 104;

/** The next piece of guest memory to write: the monitor's tables, then the segments page by page. */
function pieceAt(puppet: PuppetView, args: VmmArguments, index: number): Piece | undefined {
  const tables = guestTables(args.memoryBytes, args.commandLine);
  const table = tables[index];
  if (table !== undefined) return table;
  let left = index - tables.length;
  for (const segment of args.segments) {
    const pages = Math.ceil(segment.bytes / PAGE_SIZE);
    if (left < pages) {
      const from = left * PAGE_SIZE;
      const bytes = readArguments(puppet, segment.offset + from, Math.min(PAGE_SIZE, segment.bytes - from));
      return { address: segment.address + from, bytes };
    }
    left -= pages;
  }
  return undefined;
}

/** Makes a monitor. `observe` is told once how the guest's run ended; it may not act on the machine. */
export function vmmPuppet(observe: (ending: VmmEnding) => void): Puppet {
  const end = (state: VmmState, ending: VmmEnding): PuppetAction => {
    observe(ending);
    const status = ending.kind === "triple fault" ? VMM_STATUS_TRIPLE_FAULT : ending.kind === "error" ? VMM_STATUS_ERROR : ending.status;
    state.set("status", status);
    return state.consoleLength > 0 ? flush(state, PHASE_END) : exit(state);
  };

  const fail = (state: VmmState, reason: string): PuppetAction => end(state, { kind: "error", status: VMM_STATUS_ERROR, reason });

  const exit = (state: VmmState): PuppetAction => syscall(SYS.exit_group, state.get("status"));

  const flush = (state: VmmState, next: number): PuppetAction => {
    state.set("phase", PHASE_FLUSH);
    state.set("afterFlush", next);
    return syscall(SYS.write, STDOUT_FILENO, VmmState.address("console"), state.consoleLength);
  };

  const enter = (state: VmmState): PuppetAction => {
    state.set("phase", PHASE_RUN);
    return syscall(SYS.ioctl, state.get("vcpuFd"), KVM_RUN, 0);
  };

  const load = (puppet: PuppetView, state: VmmState): PuppetAction => {
    const index = state.get("piece");
    const piece = pieceAt(puppet, decodeVmmArguments(puppet), index);
    if (piece === undefined) return enter(state);
    state.set("piece", index + 1);
    return { kind: "write", address: state.getAddress("memory") + piece.address, bytes: piece.bytes };
  };

  const prepare = (puppet: PuppetView, state: VmmState, phase: number): PuppetAction => {
    const under = STEPS[phase - 1];
    if (under !== undefined) {
      const { result } = puppet;
      if (isErr(result)) return fail(state, `${under.name} failed with error ${-result}`);
      if (under.name === "KVM_GET_API_VERSION" && result !== KVM_API_VERSION) return fail(state, `KVM API version ${result}`);
      under.done?.(state, result);
    }
    const next = STEPS[phase];
    if (next !== undefined) {
      state.set("phase", phase + 1);
      return next.act(state, decodeVmmArguments(puppet));
    }
    state.set("phase", PHASE_LOAD);
    return load(puppet, state);
  };

  const serve = (state: VmmState, action: ExitAction): PuppetAction => {
    switch (action.kind) {
      case "enter":
        return enter(state);
      case "console":
        return state.putConsole(action.byte) ? flush(state, PHASE_SERVE) : enter(state);
      case "input":
        state.set("phase", PHASE_SERVE);
        return { kind: "store", address: action.address, value: action.value };
      case "yield":
        state.set("phase", PHASE_SERVE);
        return syscall(SYS.sched_yield);
      case "end":
        return end(state, action.ending);
    }
  };

  return (puppet) => {
    const state = new VmmState(puppet);
    const phase = state.get("phase");
    switch (phase) {
      case PHASE_LOAD:
        return load(puppet, state);
      case PHASE_RUN: {
        const { result } = puppet;
        if (result === EINTR) return enter(state);
        if (isErr(result)) return fail(state, `KVM_RUN failed with error ${-result}`);
        return serve(state, handleGuestExit(puppet, state.getAddress("run")));
      }
      case PHASE_SERVE:
        return enter(state);
      case PHASE_FLUSH: {
        state.clearConsole();
        if (state.get("afterFlush") === PHASE_END) return exit(state);
        return enter(state);
      }
      default:
        return prepare(puppet, state, phase);
    }
  };
}
