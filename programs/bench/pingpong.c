// Two processes that pass a byte to and fro through two pipes, as often as the argument says: two context switches each.
#include "../lib/lib.h"
int main(int argc, char **argv) {
  u64 n = 0;
  for (const char *s = argc > 1 ? argv[1] : "1000"; *s; s++) n = n * 10 + *s - '0';
  int there[2], back[2];
  char byte = 1;
  u64 one = 1;
  sys(SYS_sched_setaffinity, 0, 8, &one);
  check(sys(SYS_pipe, there) == 0 && sys(SYS_pipe, back) == 0, "pipe");
  i64 pid = sys(SYS_fork);
  if (pid == 0) {
    for (u64 i = 0; i < n; i++) {
      sys(SYS_read, there[0], &byte, 1);
      sys(SYS_write, back[1], &byte, 1);
    }
    sys(SYS_exit_group, 0);
  }
  for (u64 i = 0; i < n; i++) {
    sys(SYS_write, there[1], &byte, 1);
    sys(SYS_read, back[0], &byte, 1);
  }
  return wait_for(pid);
}
