// Bad pointers: EFAULT, whatever the call and however the pointer is bad; also where only a part is there.
#include "../lib/lib.h"
int main(void) {
  static char buffer[64];
  char *p = map(2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  p[4095] = 'x';
  sys(SYS_munmap, p + 4096, 4096);
  // Unmapped, in the kernel, not canonical, and with its end missing.
  char *bad[] = {(char *)8, (char *)0xffff888000001000, (char *)0x8000000000001000, p + 4092};
  int ends[2];
  sys(SYS_pipe, ends);
  sys(SYS_write, ends[1], "0123456789abcdef0123456789abcdef", 32);
  i64 file = sys(SYS_open, "/proc/self/exe", O_RDONLY, 0);
  i64 zero = sys(SYS_open, "/dev/zero", O_RDONLY, 0);
  for (int i = 0; i < 4; i++) {
    int whole = i < 3;
    fill(p + 4092, 'y', 4);
    check(sys(SYS_open, bad[i], O_RDONLY, 0) == -14, "open");
    check(sys(SYS_execve, bad[i], 0, 0) == -14, "execve of a bad path");
    check(sys(SYS_execve, "/proc/self/exe", bad[i], 0) == -14, "execve with bad arguments");
    // What follows writes as much as there is room for.
    check(sys(SYS_pipe, bad[i]) == -14, "pipe");
    check(sys(SYS_nanosleep, bad[i], 0) == -14, "nanosleep");
    check(sys(SYS_clock_gettime, 1, bad[i]) == -14, "clock_gettime");
    check(sys(SYS_uname, bad[i]) == -14, "uname");
    check(sys(SYS_fstat, file, bad[i]) == -14, "fstat");
    check(sys(SYS_rt_sigaction, 10, bad[i], 0, 8) == -14, "sigaction");
    check(sys(SYS_rt_sigprocmask, 0, bad[i], 0, 8) == -14, "sigprocmask");
    check(sys(SYS_sched_setaffinity, 0, 8, bad[i] + (whole ? 0 : 3)) == -14, "sched_setaffinity");
    if (whole) check(sys(SYS_futex, (u64)bad[i] & ~3, 128, 0, 0) == -14, "futex");
    check(sys(SYS_read, file, bad[i], 32) == (whole ? -14 : 4), "read from a file");
    check(sys(SYS_read, zero, bad[i], 32) == (whole ? -14 : 4), "read from /dev/zero");
    if (whole) check(sys(SYS_write, ends[1], bad[i], 32) == -14, "write to a pipe");
    if (whole) check(sys(SYS_read, ends[0], bad[i], 32) == -14, "read from a pipe");
  }
  check(sys(SYS_read, ends[0], buffer, 64) == 32 && same(buffer, "0123456789abcdef", 16), "nothing was lost");
  print("badptr: ok\n");
  return 0;
}
