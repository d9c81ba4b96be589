// The little that the programs need of a C library.
#pragma once
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

enum {
  SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_fstat = 5, SYS_lseek = 8, SYS_mmap = 9, SYS_mprotect = 10,
  SYS_munmap = 11, SYS_brk = 12, SYS_rt_sigaction = 13, SYS_rt_sigprocmask = 14, SYS_ioctl = 16, SYS_pipe = 22, SYS_sched_yield = 24,
  SYS_dup = 32, SYS_dup2 = 33, SYS_pause = 34, SYS_nanosleep = 35, SYS_getpid = 39, SYS_fork = 57, SYS_vfork = 58, SYS_execve = 59,
  SYS_exit = 60, SYS_wait4 = 61, SYS_kill = 62, SYS_uname = 63, SYS_unlink = 87, SYS_getppid = 110, SYS_rt_sigpending = 127,
  SYS_rt_sigsuspend = 130, SYS_sigaltstack = 131, SYS_modify_ldt = 154, SYS_arch_prctl = 158, SYS_gettid = 186, SYS_futex = 202,
  SYS_sched_setaffinity = 203, SYS_sched_getaffinity = 204, SYS_clock_gettime = 228, SYS_exit_group = 231, SYS_tgkill = 234,
  SYS_pipe2 = 293,
};

i64 syscall6(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f);
#define sys(n, ...) SYS_PICK(n, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS_PICK(n, a, b, c, d, e, f, ...) syscall6(n, (i64)(a), (i64)(b), (i64)(c), (i64)(d), (i64)(e), (i64)(f))

int thread_create(int (*run)(void *), void *argument, void *stack_top, int *tid);
void restore_rt(void);

u64 length(const char *s);
int same(const void *a, const void *b, u64 bytes);
void copy(void *to, const void *from, u64 bytes);
void fill(void *to, int value, u64 bytes);
// %d signed, %u unsigned, %x hexadecimal (64 bits all), %s text.
void print(const char *format, ...);
void print_error(const char *format, ...);
// Prints what failed and ends the program with status 1.
void check(int holds, const char *what);

struct sigaction64 {
  void (*handler)(int, void *, void *);
  u64 flags;
  void (*restorer)(void);
  u64 mask;
};
enum { SA_SIGINFO = 4, SA_RESTORER = 0x04000000, SA_RESTART = 0x10000000, SA_ONSTACK = 0x08000000 };
void handle(int signal, void (*handler)(int, void *, void *), u64 flags);

enum { PROT_NONE = 0, PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4 };
enum { MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20 };
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_EXCL = 0200, O_TRUNC = 01000, O_APPEND = 02000 };
void *map(u64 bytes, int protection, int flags);
int wait_for(i64 pid);
