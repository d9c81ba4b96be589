// Two processes on one CPU that yield to each other, as often as the argument says.
#include "../lib/lib.h"
int main(int argc, char **argv) {
  u64 n = 0;
  for (const char *s = argc > 1 ? argv[1] : "1000"; *s; s++) n = n * 10 + *s - '0';
  u64 one = 1;
  sys(SYS_sched_setaffinity, 0, 8, &one);
  i64 pid = sys(SYS_fork);
  for (u64 i = 0; i < n; i++) sys(SYS_sched_yield);
  if (pid == 0) return 0;
  return wait_for(pid);
}
