// Everything that may fail for want of memory, once more when it does: run while allocations fail. Says nothing; ends with 0 or by a signal.
#include "../lib/lib.h"
static char block[5000];
static i64 again(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f) {
  i64 result = -12;
  for (int i = 0; i < 3 && result == -12; i++) result = syscall6(number, a, b, c, d, e, f);
  return result;
}
#define AGAIN(n, ...) AGAIN_PICK(n, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define AGAIN_PICK(n, a, b, c, d, e, f, ...) again(n, (i64)(a), (i64)(b), (i64)(c), (i64)(d), (i64)(e), (i64)(f))
static int thread(void *argument) { return *(int *)argument; }
static void child(void) {
  int ends[2], tid = 1, value = 0;
  i64 end = sys(SYS_brk, 0), me = sys(SYS_getpid);
  i64 fd = AGAIN(SYS_open, "/tmp/scarce", O_RDWR | O_CREAT, 0600);
  AGAIN(SYS_unlink, "/tmp/scarce");
  AGAIN(SYS_write, fd, block, sizeof block);
  AGAIN(SYS_lseek, fd, 90000, 0);
  AGAIN(SYS_write, fd, block, 10);
  AGAIN(SYS_lseek, fd, 0, 0);
  AGAIN(SYS_read, fd, block, sizeof block);
  AGAIN(SYS_dup2, fd, 70);
  if (AGAIN(SYS_pipe, ends) == 0) {
    AGAIN(SYS_write, ends[1], block, sizeof block);
    AGAIN(SYS_read, ends[0], block, sizeof block);
  }
  char *p = (char *)AGAIN(SYS_mmap, 0, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if ((i64)p > 0) {
    p[0] = p[4096] = 1;
    AGAIN(SYS_mprotect, p + 4096, 4096, PROT_READ);
    if (thread_create(thread, &value, p + 8 * 4096, &tid) > 0)
      while (*(volatile int *)&tid != 0) sys(SYS_futex, &tid, 0, tid, 0);
    AGAIN(SYS_munmap, p + 2 * 4096, 4096);
  }
  AGAIN(SYS_brk, end + 20000);
  u64 time[2] = {0, 1000};
  AGAIN(SYS_nanosleep, time, 0);
  AGAIN(SYS_kill, me, 17);
  char *arguments[] = {"scarce", "executed", 0};
  AGAIN(SYS_execve, "/proc/self/exe", arguments, arguments);
}
int main(int argc, char **argv) {
  (void)argv;
  if (argc > 1) return 42;
  i64 pid = AGAIN(SYS_fork);
  if (pid == 0) {
    child();
    return 1;
  }
  AGAIN(SYS_wait4, pid, 0, 0, 0);
  return 0;
}
