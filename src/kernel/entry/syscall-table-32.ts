// The system calls of 32-bit code: i386 numbers, arguments in 32 bits (kernel: ia32_sys_call_table). The work is that of the 64-bit table;
// here arguments become 64-bit ones, and structures that differ are converted on the way.
import { EINTR, EINVAL, SYS, type SyscallName } from "../../abi/index.ts";
import { addVirt, cpu, PAGE_SIZE } from "../../hardware/index.ts";
import { doExecve, userStrings } from "../linux/exec.ts";
import { type Syscall, syscallTable } from "../linux/syscall-table.ts";
import { userText, withUserBytes } from "../linux/user-arguments.ts";
import { withCompatStruct } from "./compat-structs.ts";
import { sysRtSigreturn32 } from "./signal-frame-32.ts";

/** Calls whose arguments only change their width. "i": a signed number; "u": an address, a size, bits. */
const PLAIN: readonly (readonly [number, SyscallName, string])[] = [
  [1, "exit", "i"],
  [2, "fork", ""],
  [3, "read", "iuu"],
  [4, "write", "iuu"],
  [5, "open", "uii"],
  [6, "close", "i"],
  [7, "wait4", "iui"],
  [8, "creat", "ui"],
  [10, "unlink", "u"],
  [19, "lseek", "iii"],
  [20, "getpid", ""],
  [29, "pause", ""],
  [37, "kill", "ii"],
  [39, "mkdir", "ui"],
  [41, "dup", "i"],
  [42, "pipe", "u"],
  [45, "brk", "u"],
  [54, "ioctl", "iuu"],
  [63, "dup2", "ii"],
  [64, "getppid", ""],
  [91, "munmap", "uu"],
  [114, "wait4", "iuiu"],
  [122, "uname", "u"],
  [123, "modify_ldt", "iuu"],
  [125, "mprotect", "uuu"],
  [158, "sched_yield", ""],
  [172, "prctl", "iuuuu"],
  [175, "rt_sigprocmask", "iuuu"],
  [176, "rt_sigpending", "uu"],
  [179, "rt_sigsuspend", "uu"],
  [190, "vfork", ""],
  [199, "getuid", ""],
  [200, "getgid", ""],
  [201, "geteuid", ""],
  [202, "getegid", ""],
  [220, "getdents64", "iuu"],
  [224, "gettid", ""],
  [241, "sched_setaffinity", "iuu"],
  [242, "sched_getaffinity", "iuu"],
  [252, "exit_group", "i"],
  [258, "set_tid_address", "u"],
  [270, "tgkill", "iii"],
  [295, "openat", "iuii"],
  [331, "pipe2", "ui"],
  [403, "clock_gettime", "iu"],
];

function call(name: SyscallName, a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0): number {
  const found = syscallTable.get(SYS[name]);
  return found === undefined ? EINVAL : found(a0, a1, a2, a3, a4, a5);
}

function plain(name: SyscallName, kinds: string): Syscall {
  const wide = (value: number, index: number): number => (kinds[index] === "i" ? value | 0 : value);
  switch (kinds.length) {
    case 0:
      return () => call(name);
    case 1:
      return (a) => call(name, wide(a, 0));
    case 2:
      return (a, b) => call(name, wide(a, 0), wide(b, 1));
    case 3:
      return (a, b, c) => call(name, wide(a, 0), wide(b, 1), wide(c, 2));
    case 4:
      return (a, b, c, d) => call(name, wide(a, 0), wide(b, 1), wide(c, 2), wide(d, 3));
    default:
      return (a, b, c, d, e) => call(name, wide(a, 0), wide(b, 1), wide(c, 2), wide(d, 3), wide(e, 4));
  }
}

function execve(pathAt: number, argvAt: number, envpAt: number): number {
  const path = userText(pathAt);
  if (typeof path !== "string") return path;
  const argv = userStrings(argvAt, 4);
  if (typeof argv === "number") return argv;
  const envp = userStrings(envpAt, 4);
  return typeof envp === "number" ? envp : doExecve(path, argv, envp);
}

/** Thread-local storage comes as a segment descriptor here, which nothing makes: refused. i386 swaps the last two (CLONE_BACKWARDS). */
const CLONE_SETTLS = 0x80000;
function clone(flags: number, stack: number, parentTid: number, _tls: number, childTid: number): number {
  return (flags & CLONE_SETTLS) !== 0 ? EINVAL : call("clone", flags, stack, parentTid, childTid);
}

/** The first mmap(): its arguments are a structure of six words. */
function oldMmap(at: number): number {
  const words = withUserBytes<readonly number[] | number>(at, 24, (buffer) =>
    [0, 4, 8, 12, 16, 20].map((i) => cpu.load(addVirt(buffer, i), 4)),
  );
  if (typeof words === "number") return words;
  const [address = 0, bytes = 0, protection = 0, flags = 0, fd = 0, offset = 0] = words;
  return call("mmap", address, bytes, protection, flags, fd | 0, offset);
}

/** FUTEX_WAIT and FUTEX_WAIT_BITSET: the fourth argument is a time; of the others a number. */
const FUTEX_COMMAND_MASK = 0x7f;
const FUTEX_WAIT = 0;
const FUTEX_WAIT_BITSET = 9;
function futex(address: number, op: number, value: number, timeout: number, second: number, third: number): number {
  const command = op & FUTEX_COMMAND_MASK;
  const isWait = command === FUTEX_WAIT || command === FUTEX_WAIT_BITSET;
  if (!isWait || timeout === 0) return call("futex", address, op, value, timeout, second, third);
  return withCompatStruct("timespec", timeout, 0, (time) => call("futex", address, op, value, time, second, third));
}

/** Calls that take other structures, or their arguments otherwise. */
const SPECIAL: readonly (readonly [number, Syscall])[] = [
  [11, (path, argv, envp) => execve(path, argv, envp)],
  [90, (at) => oldMmap(at)],
  [120, (flags, stack, parentTid, tls, childTid) => clone(flags, stack, parentTid, tls, childTid)],
  [
    162,
    (request, remaining) =>
      withCompatStruct(
        "timespec",
        request,
        remaining,
        (from, to) => call("nanosleep", from, to),
        // What is left is told only to who was interrupted.
        (result) => result === EINTR,
      ),
  ],
  [173, () => sysRtSigreturn32()],
  [
    174,
    (signal, next, old, bytes) => withCompatStruct("sigaction", next, old, (from, to) => call("rt_sigaction", signal | 0, from, to, bytes)),
  ],
  [186, (next, old) => withCompatStruct("stack", next, old, (from, to) => call("sigaltstack", from, to))],
  // In pages.
  [192, (address, bytes, protection, flags, fd, page) => call("mmap", address, bytes, protection, flags, fd | 0, page * PAGE_SIZE)],
  [240, futex],
  [265, (clock, to) => withCompatStruct("timespec", 0, to, (_, at) => call("clock_gettime", clock | 0, at))],
];

/** Kernel: ia32_sys_call_table. */
export const syscallTable32: ReadonlyMap<number, Syscall> = new Map<number, Syscall>([
  ...PLAIN.map(([number, name, kinds]): [number, Syscall] => [number, plain(name, kinds)]),
  ...SPECIAL,
]);
