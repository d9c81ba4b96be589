// System call numbers and arguments of x86-64 Linux, as far as programs here use them (arch/x86/entry/syscalls/syscall_64.tbl).

export const SYS = {
  read: 0,
  write: 1,
  open: 2,
  close: 3,
  stat: 4,
  fstat: 5,
  lseek: 8,
  mmap: 9,
  mprotect: 10,
  munmap: 11,
  brk: 12,
  rt_sigaction: 13,
  rt_sigprocmask: 14,
  rt_sigreturn: 15,
  ioctl: 16,
  pipe: 22,
  sched_yield: 24,
  dup: 32,
  dup2: 33,
  pause: 34,
  nanosleep: 35,
  getpid: 39,
  clone: 56,
  fork: 57,
  vfork: 58,
  execve: 59,
  exit: 60,
  wait4: 61,
  kill: 62,
  uname: 63,
  mkdir: 83,
  creat: 85,
  unlink: 87,
  getuid: 102,
  getgid: 104,
  geteuid: 107,
  getegid: 108,
  getppid: 110,
  rt_sigpending: 127,
  rt_sigsuspend: 130,
  sigaltstack: 131,
  modify_ldt: 154,
  prctl: 157,
  arch_prctl: 158,
  reboot: 169,
  gettid: 186,
  futex: 202,
  sched_setaffinity: 203,
  sched_getaffinity: 204,
  getdents64: 217,
  set_tid_address: 218,
  clock_gettime: 228,
  clock_nanosleep: 230,
  exit_group: 231,
  tgkill: 234,
  kexec_load: 246,
  openat: 257,
  newfstatat: 262,
  pipe2: 293,
} as const;
export type SyscallName = keyof typeof SYS;

// open(). Linux uapi asm-generic/fcntl.h.
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_ACCMODE = 3;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DIRECTORY = 0o200000;
export const O_CLOEXEC = 0o2000000;
export const AT_FDCWD = -100;
export const AT_EMPTY_PATH = 0x1000;
export const SEEK_SET = 0;
export const SEEK_CUR = 1;
export const SEEK_END = 2;
/** Bytes of a write to a pipe that are never torn apart. */
export const PIPE_BUF = 4096;
export const PATH_MAX = 4096;
export const NAME_MAX = 255;
// st_mode.
export const S_IFIFO = 0o10000;
export const S_IFCHR = 0o20000;
export const S_IFDIR = 0o40000;
export const S_IFREG = 0o100000;

// mmap(). Linux uapi asm-generic/mman-common.h.
export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_32BIT = 0x40;
export const MAP_GROWSDOWN = 0x100;
export const MAP_FIXED_NOREPLACE = 0x100000;

/** The device node of KVM. */
export const DEV_KVM = "/dev/kvm";
export const STDIN_FILENO = 0;
export const STDOUT_FILENO = 1;
export const STDERR_FILENO = 2;

/** struct timespec: tv_sec, tv_nsec, 8 bytes each. */
export const TIMESPEC_BYTES = 16;
