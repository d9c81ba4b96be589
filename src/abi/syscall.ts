// System call numbers and arguments of x86-64 Linux, as far as programs here use them (arch/x86/entry/syscalls/syscall_64.tbl).

export const SYS = {
  read: 0,
  write: 1,
  open: 2,
  close: 3,
  mmap: 9,
  munmap: 11,
  ioctl: 16,
  sched_yield: 24,
  prctl: 157,
  nanosleep: 35,
  getpid: 39,
  exit: 60,
  sched_setaffinity: 203,
  exit_group: 231,
} as const;
export type SyscallName = keyof typeof SYS;

export const O_RDONLY = 0;
export const O_RDWR = 2;

// mmap(). Linux uapi asm-generic/mman-common.h.
export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_GROWSDOWN = 0x100;
export const MAP_FIXED_NOREPLACE = 0x100000;

/** The device node of KVM. */
export const DEV_KVM = "/dev/kvm";
export const STDIN_FILENO = 0;
export const STDOUT_FILENO = 1;
export const STDERR_FILENO = 2;

/** struct timespec: tv_sec, tv_nsec, 8 bytes each. */
export const TIMESPEC_BYTES = 16;
