// As many processes at once as the argument says: each waits for the end of a pipe that all of them hold, having touched some memory.
#include "../lib/lib.h"
int main(int argc, char **argv) {
  u64 n = 0, ready = 0;
  for (const char *s = argc > 1 ? argv[1] : "8"; *s; s++) n = n * 10 + *s - '0';
  int go[2], here[2];
  char byte = 0;
  check(sys(SYS_pipe, go) == 0 && sys(SYS_pipe, here) == 0, "pipe");
  for (u64 i = 0; i < n; i++) {
    i64 pid = sys(SYS_fork);
    check(pid >= 0, "fork");
    if (pid == 0) {
      sys(SYS_close, go[1]);
      char *p = map(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
      for (int k = 0; k < 16; k++) p[k * 4096] = (char)i;
      sys(SYS_write, here[1], &byte, 1);
      check(sys(SYS_read, go[0], &byte, 1) == 0, "the end of the pipe");
      for (int k = 0; k < 16; k++) check(p[k * 4096] == (char)i, "memory of its own");
      sys(SYS_exit_group, 3);
    }
  }
  while (ready < n) {
    check(sys(SYS_read, here[0], &byte, 1) == 1, "a child is there");
    ready++;
  }
  sys(SYS_close, go[1]);
  for (u64 i = 0; i < n; i++) {
    int status = 0;
    check(sys(SYS_wait4, -1, &status, 0, 0) > 0 && status == 3 << 8, "a child's end");
  }
  print("crowd: ok, %u\n", n);
  return 0;
}
