// The system calls of 32-bit code: i386 numbers, arguments in 32 bits. What Linux calls compat system calls: the work is that of the
// 64-bit table; here arguments become 64-bit ones, and structures that differ are converted on the way (kernel: ia32_sys_call_table).
import { SYS, type SyscallName } from "../../abi/index.ts";
import { type Syscall, syscallTable } from "../linux/syscall-table.ts";

/** What an argument is: a signed number, or an address, size or bits. */
type Kind = "i" | "u";

/** i386 number, name, arguments. arch/x86/entry/syscalls/syscall_32.tbl. */
const CALLS: readonly (readonly [number, SyscallName, string])[] = [
  [1, "exit", "i"],
  [4, "write", "iuu"],
  [5, "open", "uii"],
  [6, "close", "i"],
  [20, "getpid", ""],
  [54, "ioctl", "iuu"],
  [91, "munmap", "uu"],
  [158, "sched_yield", ""],
  [241, "sched_setaffinity", "iuu"],
  [252, "exit_group", "i"],
];

function converted(call: Syscall, kinds: string): Syscall {
  const argument = (value: number, index: number): number => {
    const kind = kinds[index] as Kind | undefined; // a letter of the table
    return kind === "i" ? value | 0 : kind === "u" ? value >>> 0 : 0;
  };
  switch (kinds.length) {
    case 0:
      return () => call(0, 0, 0, 0, 0, 0);
    case 1:
      return (a) => call(argument(a, 0), 0, 0, 0, 0, 0);
    default:
      return (a, b, c, d, e, f) => call(argument(a, 0), argument(b, 1), argument(c, 2), argument(d, 3), argument(e, 4), argument(f, 5));
  }
}

function build(): ReadonlyMap<number, Syscall> {
  const table = new Map<number, Syscall>();
  for (const [number, name, kinds] of CALLS) {
    const call = syscallTable.get(SYS[name]);
    if (call !== undefined) table.set(number, converted(call, kinds));
  }
  return table;
}

/** Kernel: ia32_sys_call_table. */
export const syscallTable32: ReadonlyMap<number, Syscall> = build();
