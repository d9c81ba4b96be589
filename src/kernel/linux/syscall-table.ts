// The system calls: what puppets, and later static programs, ask of the kernel. Numbers and meaning are Linux's.
import { DEV_KVM, EBADF, EFAULT, EINVAL, ENOENT, ENOTTY, type Errno, isErr, MAP_ANONYMOUS, SYS, TIMESPEC_BYTES } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, type Ptr, type VirtAddr, virtAddr } from "../../hardware/index.ts";
import { sysPrctl } from "../mitigations/prctl.ts";
import { accessOk } from "../mm/layout.ts";
import { doMmap, doMunmap } from "../mm/mmap.ts";
import { copyFromUser } from "../mm/uaccess.ts";
import { schedSetaffinity } from "../sched/affinity.ts";
import { current } from "../sched/current.ts";
import { schedule, sleepUntil } from "../sched/schedule.ts";
import { currentPid } from "../sched/task.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { nanosecondsToCycles } from "../sched/tick.ts";
import { doExit } from "./exit.ts";
import { allocFile, closeFd, fdGet, fdInstall, fput } from "./file.ts";
import { fileOperations } from "./file-operations.ts";
import { FILE_CONSOLE, FILE_KVM, File } from "./file-struct.ts";
import { kernelBuffer } from "./kernel-buffer.ts";

/** A system call: six arguments as the user passed them. @returns a result or an error. */
export type Syscall = (a0: number, a1: number, a2: number, a3: number, a4: number, a5: number) => number;

/** A user address from a register, or EFAULT: what is not canonical, or of the kernel, is nobody's. */
function userAddress(value: number): VirtAddr | Errno {
  return accessOk(value, 0) ? virtAddr(value) : EFAULT;
}

const PATH_MAX = 64;

/** NUL-terminated text at a user address (kernel: `strncpy_from_user()`). */
function userText(address: number): string | Errno {
  const from = userAddress(address);
  if (isErr(from)) return from;
  // Up to the end of the page: what follows may not be there.
  const bytes = Math.min(PATH_MAX, PAGE_SIZE - (from % PAGE_SIZE));
  return kernelBuffer(bytes, (buffer) => {
    if (copyFromUser(buffer, from, bytes) !== 0) return EFAULT;
    let text = "";
    for (let i = 0; i < bytes; i++) {
      const code = cpu.load(addVirt(buffer, i), 1);
      if (code === 0) return text;
      text += String.fromCharCode(code);
    }
    return EINVAL;
  });
}

function sysOpen(path: number): number {
  const name = userText(path);
  if (typeof name !== "string") return name;
  const kind = name === DEV_KVM ? FILE_KVM : name === "/dev/console" ? FILE_CONSOLE : undefined;
  if (kind === undefined) return ENOENT;
  const file = allocFile(kind, NULL);
  if (isErr(file)) return file;
  const fd = fdInstall(file);
  if (fd < 0) fput(file);
  return fd;
}

function sysWrite(fd: number, from: number, bytes: number): number {
  const file = fdGet(fd);
  if (file === NULL) return EBADF;
  const { write } = fileOperations(File.at(file).kind);
  if (write === undefined) return EINVAL;
  const address = userAddress(from);
  if (isErr(address) || bytes < 0 || !accessOk(address, bytes)) return EFAULT;
  return write(file, address, bytes);
}

function sysIoctl(fd: number, command: number, argument: number): number {
  const file = fdGet(fd);
  if (file === NULL) return EBADF;
  return fileOperations(File.at(file).kind).ioctl?.(file, command >>> 0, argument) ?? ENOTTY;
}

function sysMmap(address: number, bytes: number, protection: number, flags: number, fd: number, offset: number): number {
  const wish = userAddress(address);
  if (isErr(wish) || offset < 0 || offset % PAGE_SIZE !== 0) return EINVAL;
  const isAnonymous = (flags & MAP_ANONYMOUS) !== 0;
  const file: Ptr<"file"> = isAnonymous ? NULL : fdGet(fd);
  if (!isAnonymous && file === NULL) return EBADF;
  return doMmap(TaskStruct.at(current()).mm, wish, bytes, protection, flags, file, offset / PAGE_SIZE);
}

function sysMunmap(address: number, bytes: number): number {
  const from = userAddress(address);
  return isErr(from) || bytes <= 0 ? EINVAL : doMunmap(TaskStruct.at(current()).mm, from, bytes);
}

const NANOSECONDS = 1_000_000_000;

function sysNanosleep(request: number): number {
  const from = userAddress(request);
  if (isErr(from)) return from;
  return kernelBuffer(TIMESPEC_BYTES, (buffer) => {
    if (copyFromUser(buffer, from, TIMESPEC_BYTES) !== 0) return EFAULT;
    const seconds = cpu.loadWord(buffer);
    const nanoseconds = cpu.loadWord(addVirt(buffer, 8));
    if (seconds < 0 || nanoseconds < 0 || nanoseconds >= NANOSECONDS) return EINVAL;
    sleepUntil(cpu.readTsc() + nanosecondsToCycles(seconds * NANOSECONDS + nanoseconds));
    return 0;
  });
}

function sysSchedYield(): number {
  schedule();
  return 0;
}

function sysSchedSetaffinity(pid: number, bytes: number, mask: number): number {
  if (pid !== 0 && pid !== currentPid()) return EINVAL;
  const from = userAddress(mask);
  if (isErr(from) || bytes < 4) return isErr(from) ? from : EINVAL;
  const wanted = kernelBuffer(4, (buffer) => (copyFromUser(buffer, from, 4) !== 0 ? EFAULT : cpu.load(buffer, 4)));
  return isErr(wanted) ? wanted : schedSetaffinity(wanted);
}

/** Kernel: sys_call_table. */
export const syscallTable: ReadonlyMap<number, Syscall> = new Map<number, Syscall>([
  [SYS.write, sysWrite],
  [SYS.open, sysOpen],
  [SYS.close, closeFd],
  [SYS.mmap, sysMmap],
  [SYS.munmap, sysMunmap],
  [SYS.ioctl, sysIoctl],
  [SYS.sched_yield, sysSchedYield],
  [SYS.prctl, sysPrctl],
  [SYS.nanosleep, sysNanosleep],
  [SYS.getpid, currentPid],
  [SYS.exit, (code) => doExit(code & 0xff)],
  [SYS.exit_group, (code) => doExit(code & 0xff)],
  [SYS.sched_setaffinity, sysSchedSetaffinity],
]);
