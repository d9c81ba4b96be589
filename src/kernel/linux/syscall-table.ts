// The system calls of 64-bit programs by number (arch/x86/entry/syscalls/syscall_64.tbl): from registers to typed arguments. Every number
// that is not here is ENOSYS.
import { CLOCK_MONOTONIC, EBADF, EINVAL, ENOMEM, isErr, MAP_ANONYMOUS, O_CREAT, O_TRUNC, O_WRONLY, SYS } from "../../abi/index.ts";
import { NULL, PAGE_SIZE } from "../../hardware/index.ts";
import { sysRtSigreturn } from "../entry/signal-frame.ts";
import { sysPrctl } from "../mitigations/prctl.ts";
import { sysModifyLdt } from "../mm/ldt.ts";
import { doBrk, doMmap, doMunmap } from "../mm/mmap.ts";
import { doMprotect } from "../mm/mprotect.ts";
import { sysKexecLoad, sysReboot } from "../power/reboot.ts";
import { current } from "../sched/current.ts";
import { TaskStruct } from "../sched/task-struct.ts";
import { cloneArgs, forkArgs, kernelClone, vforkArgs } from "./clone.ts";
import { doExecve, userStrings } from "./exec.ts";
import { doExit, doGroupExit } from "./exit.ts";
import { closeFd, fdHold, fput } from "./file.ts";
import * as files from "./files-calls.ts";
import { doFutex } from "./futex.ts";
import { doOpen } from "./open.ts";
import { doPipe2 } from "./pipe.ts";
import * as process from "./process-calls.ts";
import * as signals from "./signal-calls.ts";
import { doClockGettime, doNanosleep } from "./time.ts";
import { userAddress, userText } from "./user-arguments.ts";
import { doWait4 } from "./wait.ts";

/** A system call: as many arguments as it declares, as the user passed them (sign-extended). @returns a result, an error, SLEEP. */
export type Syscall = (a0: number, a1: number, a2: number, a3: number, a4: number, a5: number) => number;

/** Bits of an exit status that wait4() gives. */
function exitCodeOf(status: number): number {
  return (status & 0xff) << 8;
}

function sysMmap(address: number, bytes: number, protection: number, flags: number, fd: number, offset: number): number {
  const wish = userAddress(address);
  if (isErr(wish) || offset < 0 || offset % PAGE_SIZE !== 0) return EINVAL;
  const { mm } = TaskStruct.at(current());
  if ((flags & MAP_ANONYMOUS) !== 0) return doMmap(mm, wish, bytes, protection, flags, NULL, 0);
  const file = fdHold(fd | 0);
  if (file === NULL) return EBADF;
  const mapped = doMmap(mm, wish, bytes, protection, flags, file, offset / PAGE_SIZE);
  fput(file);
  return mapped;
}

function sysMunmap(address: number, bytes: number): number {
  const from = userAddress(address);
  return isErr(from) || bytes <= 0 ? EINVAL : doMunmap(TaskStruct.at(current()).mm, from, bytes);
}

function sysMprotect(address: number, bytes: number, protection: number): number {
  const from = userAddress(address);
  return isErr(from) ? ENOMEM : doMprotect(TaskStruct.at(current()).mm, from, bytes, protection);
}

function sysExecve(pathAt: number, argvAt: number, envpAt: number): number {
  const path = userText(pathAt);
  if (typeof path !== "string") return path;
  const argv = userStrings(argvAt, 8);
  if (typeof argv === "number") return argv;
  const envp = userStrings(envpAt, 8);
  return typeof envp === "number" ? envp : doExecve(path, argv, envp);
}

/** Kernel: `do_sched_yield()`. The switch happens on the way to user mode, where nothing of the call is left to remember. */
function sysSchedYield(): number {
  TaskStruct.at(current()).needResched = 1;
  return 0;
}

/** Kernel: sys_call_table. */
export const syscallTable: ReadonlyMap<number, Syscall> = new Map<number, Syscall>([
  [SYS.read, (fd, to, bytes) => files.sysRead(fd | 0, to, bytes)],
  [SYS.write, (fd, from, bytes) => files.sysWrite(fd | 0, from, bytes)],
  [SYS.open, (path, flags) => doOpen(path, flags)],
  [SYS.openat, (_directory, path, flags) => doOpen(path, flags)],
  [SYS.creat, (path) => doOpen(path, O_CREAT | O_WRONLY | O_TRUNC)],
  [SYS.close, (fd) => closeFd(fd | 0)],
  [SYS.stat, (path, to) => files.sysStat(path, to)],
  [SYS.fstat, (fd, to) => files.sysFstat(fd | 0, to)],
  [SYS.newfstatat, (fd, path, to, flags) => files.sysNewfstatat(fd | 0, path, to, flags)],
  [SYS.lseek, (fd, offset, whence) => files.sysLseek(fd | 0, offset, whence)],
  [SYS.rt_sigreturn, () => sysRtSigreturn()],
  [SYS.ioctl, (fd, command, argument) => files.sysIoctl(fd | 0, command, argument)],
  [SYS.dup, (fd) => files.sysDup(fd | 0)],
  [SYS.dup2, (from, to) => files.sysDup2(from | 0, to | 0)],
  [SYS.unlink, (path) => files.sysUnlink(path)],
  [SYS.mkdir, (path) => files.sysMkdir(path)],
  [SYS.getdents64, (fd, to, bytes) => files.sysGetdents64(fd | 0, to, bytes)],
  [SYS.pipe, (to) => doPipe2(to, 0)],
  [SYS.pipe2, (to, flags) => doPipe2(to, flags)],
  [SYS.mmap, sysMmap],
  [SYS.munmap, sysMunmap],
  [SYS.mprotect, sysMprotect],
  [SYS.brk, (address) => doBrk(TaskStruct.at(current()).mm, address)],
  [SYS.modify_ldt, (what, at, bytes) => sysModifyLdt(TaskStruct.at(current()).mm, what, at, bytes)],
  [SYS.fork, () => kernelClone(forkArgs())],
  [SYS.vfork, () => kernelClone(vforkArgs())],
  [SYS.clone, (flags, stack, parentTid, childTid, tls) => kernelClone(cloneArgs(flags, stack, parentTid, childTid, tls))],
  [SYS.execve, sysExecve],
  [SYS.exit, (status) => doExit(exitCodeOf(status))],
  [SYS.exit_group, (status) => doGroupExit(exitCodeOf(status))],
  [SYS.wait4, (pid, status, options, rusage) => doWait4(pid | 0, status, options, rusage)],
  [SYS.getpid, () => process.getpid()],
  [SYS.getppid, () => process.getppid()],
  [SYS.gettid, () => process.gettid()],
  [SYS.getuid, () => 0],
  [SYS.getgid, () => 0],
  [SYS.geteuid, () => 0],
  [SYS.getegid, () => 0],
  [SYS.uname, (to) => process.sysUname(to)],
  [SYS.arch_prctl, (code, address) => process.sysArchPrctl(code, address)],
  [SYS.prctl, sysPrctl],
  [SYS.reboot, sysReboot],
  [SYS.kexec_load, sysKexecLoad],
  [SYS.set_tid_address, (address) => process.sysSetTidAddress(address)],
  [SYS.kill, (pid, signal) => signals.sysKill(pid | 0, signal | 0)],
  [SYS.tgkill, (tgid, pid, signal) => signals.sysTgkill(tgid | 0, pid | 0, signal | 0)],
  [SYS.rt_sigaction, (signal, next, old, bytes) => signals.sysRtSigaction(signal | 0, next, old, bytes)],
  [SYS.rt_sigprocmask, (how, next, old, bytes) => signals.sysRtSigprocmask(how | 0, next, old, bytes)],
  [SYS.rt_sigpending, (to, bytes) => signals.sysRtSigpending(to, bytes)],
  [SYS.rt_sigsuspend, (mask, bytes) => signals.sysRtSigsuspend(mask, bytes)],
  [SYS.sigaltstack, (next, old) => signals.sysSigaltstack(next, old)],
  [SYS.pause, () => signals.sysPause()],
  [SYS.futex, (address, op, value, timeout, second, third) => doFutex(address, op, value, timeout, second, third)],
  [SYS.nanosleep, (request, remaining) => doNanosleep(CLOCK_MONOTONIC, 0, request, remaining)],
  [SYS.clock_nanosleep, (clock, flags, request, remaining) => doNanosleep(clock | 0, flags, request, remaining)],
  [SYS.clock_gettime, (clock, to) => doClockGettime(clock | 0, to)],
  [SYS.sched_yield, sysSchedYield],
  [SYS.sched_setaffinity, (pid, bytes, mask) => process.sysSchedSetaffinity(pid | 0, bytes, mask)],
  [SYS.sched_getaffinity, (pid, bytes, mask) => process.sysSchedGetaffinity(pid | 0, bytes, mask)],
]);
