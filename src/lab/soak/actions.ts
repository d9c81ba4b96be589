// What a process of the soak can do, by name: each action is a row of system calls and memory accesses whose operands are resolved when
// their turn comes. How often each is chosen, and from which ranges its arguments, stands beside it.
import { MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { PAGE_SIZE, PUPPET_STATE, type PuppetAction } from "../../hardware/index.ts";
import type { ProcessState } from "./process-state.ts";
import { SCRATCH } from "./process-state.ts";

/** Numbers of x86-64 Linux (arch/x86/entry/syscalls/syscall_64.tbl); what the kernel lacks gives -ENOSYS, which is an event like any other. */
export const NR = {
  read: 0,
  write: 1,
  open: 2,
  close: 3,
  lseek: 8,
  mmap: 9,
  mprotect: 10,
  munmap: 11,
  brk: 12,
  ioctl: 16,
  sched_yield: 24,
  dup: 32,
  nanosleep: 35,
  getpid: 39,
  clone: 56,
  fork: 57,
  exit: 60,
  wait4: 61,
  kill: 62,
  uname: 63,
  unlink: 87,
  getppid: 110,
  modify_ldt: 154,
  futex: 202,
  sched_setaffinity: 203,
  clock_gettime: 228,
  exit_group: 231,
  pipe2: 293,
} as const;

/** What a part of an action has at hand. */
export interface Turn {
  readonly state: ProcessState;
  readonly args: readonly number[];
  /** Result of the part before. */
  readonly result: number;
  /** The next guest on this CPU leaves in the way with this number. */
  chooseExit(way: number): void;
}

/** One step of an action; undefined: there is nothing to do it on. */
export type Part = (turn: Turn) => PuppetAction | undefined;

export interface ActionKind {
  readonly parts: readonly Part[];
  /** Hears the result of the last part. */
  readonly finish?: (turn: Turn) => void;
  /** How often it is chosen, relative to the others. */
  readonly weight: number;
  /** Number of values of each argument. */
  readonly ranges: readonly number[];
  /** Its first argument is the slot of a new process. */
  readonly makesChild?: true;
}

export function call(number: number, ...args: number[]): PuppetAction {
  return { kind: "syscall", number, args };
}

export function arg(turn: Turn, index: number): number {
  return turn.args[index] ?? 0;
}

export const SCRATCH_ADDRESS = PUPPET_STATE + SCRATCH;
const MOST_PAGES = 12;
const WNOHANG = 1;
const O_NONBLOCK = 0o4000;
const CLOCK_MONOTONIC = 1;
const FUTEX_WAIT = 0;
const FUTEX_WAKE = 1;
/** Pointers that no process has: null, low, at and beyond the end of user space, not canonical, the direct map, the kernel's text. */
const BAD_POINTERS = [0, 8, 0x7ffffffff000, 0x800000000000, 0x123456789abcd, -0x778000000000, -0x7f000000, -8, 0x7ffffffffffff000];
/** Calls that take a pointer, and where. */
const POINTER_CALLS: readonly (readonly [number: number, position: number])[] = [
  [NR.read, 1],
  [NR.write, 1],
  [NR.open, 0],
  [NR.nanosleep, 0],
  [NR.wait4, 1],
  [NR.uname, 0],
  [NR.unlink, 0],
  [NR.clock_gettime, 1],
  [NR.pipe2, 0],
  [NR.futex, 0],
  [NR.modify_ldt, 1],
  [NR.sched_setaffinity, 2],
  [NR.munmap, 0],
  [NR.mprotect, 0],
];
/** Files that come and go. */
export const FILES = ["/soak-a", "/soak-b"];
const PATHS = [...FILES, "/dev/null", "/dev/zero", "/proc/self/exe", "/soak-dir/none"];
const O_RDWR = 2;
const O_CREAT = 0o100;

function path(index: number): Part {
  return () => ({ kind: "write", address: SCRATCH_ADDRESS, bytes: new TextEncoder().encode(`${PATHS[index % PATHS.length] ?? ""}\0`) });
}

function chosenPath(turn: Turn): PuppetAction | undefined {
  return path(arg(turn, 0))(turn);
}

/** Protection bits that no access to memory needs more of than the region gives. */
function allows(protection: number, isWrite: boolean): boolean {
  return isWrite ? (protection & PROT_WRITE) !== 0 : (protection & (PROT_READ | PROT_WRITE)) !== 0;
}

function words(...values: number[]): PuppetAction {
  const bytes = new Uint8Array(values.length * 8);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => {
    view.setBigInt64(i * 8, BigInt(value), true);
  });
  return { kind: "write", address: SCRATCH_ADDRESS, bytes };
}

export const ACTIONS: ReadonlyMap<string, ActionKind> = new Map<string, ActionKind>([
  ["yield", { parts: [() => call(NR.sched_yield)], weight: 12, ranges: [] }],
  ["getpid", { parts: [() => call(NR.getpid)], weight: 8, ranges: [] }],
  ["getppid", { parts: [() => call(NR.getppid)], weight: 3, ranges: [] }],
  ["nosys", { parts: [(t) => call(300 + arg(t, 0), arg(t, 0), SCRATCH_ADDRESS)], weight: 1, ranges: [300] }],
  [
    "bad pointer",
    {
      parts: [
        (t) => {
          const [number, position] = POINTER_CALLS[arg(t, 0) % POINTER_CALLS.length] ?? [NR.read, 1];
          const args = [0, 0, 8, 0, 0];
          args[position] = BAD_POINTERS[arg(t, 1) % BAD_POINTERS.length] ?? 0;
          return call(number, ...args);
        },
      ],
      weight: 4,
      ranges: [POINTER_CALLS.length, BAD_POINTERS.length],
    },
  ],
  [
    "mmap",
    {
      parts: [
        (t) =>
          call(NR.mmap, 0, (1 + arg(t, 0)) * PAGE_SIZE, arg(t, 1), (arg(t, 2) === 0 ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0),
      ],
      finish: (t) => {
        if (t.result > 0) t.state.setRegion(t.state.takeRegionIndex(), { address: t.result, pages: 1 + arg(t, 0), protection: arg(t, 1) });
      },
      weight: 8,
      ranges: [MOST_PAGES, 4, 4],
    },
  ],
  [
    "munmap",
    {
      parts: [
        (t) => {
          const region = t.state.region(arg(t, 0));
          if (region === undefined) return undefined;
          const first = arg(t, 1) % region.pages;
          t.state.setRegion(arg(t, 0), first === 0 ? undefined : { ...region, pages: first });
          return call(NR.munmap, region.address + first * PAGE_SIZE, (1 + arg(t, 2)) * PAGE_SIZE);
        },
      ],
      weight: 6,
      ranges: [8, MOST_PAGES, MOST_PAGES],
    },
  ],
  [
    "mprotect",
    {
      parts: [
        (t) => {
          const region = t.state.region(arg(t, 0));
          if (region === undefined) return undefined;
          const first = arg(t, 1) % region.pages;
          t.state.setRegion(arg(t, 0), { ...region, protection: region.protection & arg(t, 2) });
          return call(NR.mprotect, region.address + first * PAGE_SIZE, (region.pages - first) * PAGE_SIZE, arg(t, 2));
        },
      ],
      weight: 4,
      ranges: [8, MOST_PAGES, 4],
    },
  ],
  [
    "touch",
    {
      parts: [
        (t) => {
          const region = t.state.region(arg(t, 0));
          const isWrite = arg(t, 2) !== 0;
          if (region === undefined || !allows(region.protection, isWrite)) return undefined;
          const address = region.address + (arg(t, 1) % region.pages) * PAGE_SIZE;
          return isWrite ? { kind: "store", address, value: arg(t, 1) } : { kind: "load", address };
        },
      ],
      weight: 22,
      ranges: [8, MOST_PAGES, 2],
    },
  ],
  // A wild access: the process dies of it, unless it has something there.
  ["wild", { parts: [(t) => ({ kind: "load", address: BAD_POINTERS[arg(t, 0) % BAD_POINTERS.length] ?? 0 })], weight: 0.15, ranges: [4] }],
  [
    "copy to kernel",
    {
      parts: [
        (t) => {
          const region = t.state.region(arg(t, 0));
          const fd = t.state.fd(arg(t, 1));
          return fd < 0 ? undefined : call(NR.write, fd, region?.address ?? SCRATCH_ADDRESS, 16 + arg(t, 2) * 300);
        },
      ],
      weight: 6,
      ranges: [8, 8, 16],
    },
  ],
  [
    "copy from kernel",
    {
      parts: [
        (t) => {
          const region = t.state.region(arg(t, 0));
          const fd = t.state.fd(arg(t, 1));
          return fd < 0 ? undefined : call(NR.read, fd, region?.address ?? SCRATCH_ADDRESS, 16 + arg(t, 2) * 300);
        },
      ],
      weight: 6,
      ranges: [8, 8, 16],
    },
  ],
  [
    "brk",
    {
      parts: [() => call(NR.brk, 0), (t) => (t.result > 0 ? call(NR.brk, t.result + (arg(t, 0) - 4) * PAGE_SIZE) : undefined)],
      weight: 2,
      ranges: [12],
    },
  ],
  [
    "pipe",
    {
      parts: [() => call(NR.pipe2, SCRATCH_ADDRESS, O_NONBLOCK)],
      finish: (t) => {
        if (t.result !== 0) return;
        t.state.addFd(t.state.scratch32(0));
        t.state.addFd(t.state.scratch32(4));
      },
      weight: 3,
      ranges: [],
    },
  ],
  [
    "open",
    {
      parts: [chosenPath, (t) => call(NR.open, SCRATCH_ADDRESS, arg(t, 1) === 0 ? 0 : O_RDWR | O_CREAT, 0o600)],
      finish: (t) => {
        if (t.result >= 0) t.state.addFd(t.result);
      },
      weight: 4,
      ranges: [PATHS.length, 2],
    },
  ],
  ["unlink", { parts: [chosenPath, () => call(NR.unlink, SCRATCH_ADDRESS)], weight: 1, ranges: [2] }],
  [
    "close",
    {
      parts: [
        (t) => {
          const fd = t.state.fd(arg(t, 0));
          if (fd < 0) return undefined;
          t.state.dropFd(fd);
          return call(NR.close, fd);
        },
      ],
      weight: 5,
      ranges: [8],
    },
  ],
  [
    "dup",
    {
      parts: [(t) => (t.state.fd(arg(t, 0)) < 0 ? undefined : call(NR.dup, t.state.fd(arg(t, 0))))],
      finish: (t) => {
        if (t.result > 2) t.state.addFd(t.result);
      },
      weight: 1,
      ranges: [8],
    },
  ],
  [
    "lseek",
    {
      parts: [(t) => (t.state.fd(arg(t, 0)) < 0 ? undefined : call(NR.lseek, t.state.fd(arg(t, 0)), arg(t, 1) * 100, 0))],
      weight: 1,
      ranges: [8, 90],
    },
  ],
  [
    "fork",
    {
      parts: [() => call(NR.fork)],
      finish: (t) => {
        if (t.result === 0) t.state.begin(arg(t, 0) - 1);
        else if (t.result > 0) t.state.lastChild = t.result;
      },
      weight: 1.5,
      ranges: [],
      makesChild: true,
    },
  ],
  ["wait", { parts: [() => call(NR.wait4, -1, 0, WNOHANG, 0)], weight: 3, ranges: [] }],
  [
    "kill child",
    {
      parts: [(t) => (t.state.lastChild === 0 ? undefined : call(NR.kill, t.state.lastChild, [9, 15, 17, 0][arg(t, 0)] ?? 0))],
      weight: 0.5,
      ranges: [4],
    },
  ],
  ["sleep", { parts: [(t) => words(0, arg(t, 0) * 1000), () => call(NR.nanosleep, SCRATCH_ADDRESS, 0)], weight: 1, ranges: [100] }],
  ["clock", { parts: [() => call(NR.clock_gettime, CLOCK_MONOTONIC, SCRATCH_ADDRESS)], weight: 1, ranges: [] }],
  ["uname", { parts: [() => call(NR.uname, SCRATCH_ADDRESS)], weight: 1, ranges: [] }],
  [
    "futex",
    {
      parts: [(t) => call(NR.futex, SCRATCH_ADDRESS, arg(t, 0) === 0 ? FUTEX_WAKE : FUTEX_WAIT, 0x7fff1234, 0)],
      weight: 1,
      ranges: [2],
    },
  ],
  ["affinity", { parts: [(t) => words(1 + arg(t, 0)), () => call(NR.sched_setaffinity, 0, 8, SCRATCH_ADDRESS)], weight: 1, ranges: [3] }],
  [
    "ldt",
    { parts: [(t) => words(arg(t, 0), 0x51_0000_0fff), () => call(NR.modify_ldt, 1, SCRATCH_ADDRESS, 16)], weight: 0.5, ranges: [4] },
  ],
  ["exit", { parts: [(t) => call(NR.exit_group, arg(t, 0))], weight: 0.1, ranges: [3] }],
]);
