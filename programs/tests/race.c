// Two threads map, protect and unmap memory while the first forks: nobody loses a byte, nobody sees another's.
#include "../lib/lib.h"
enum { ROUNDS = 6, PAGES = 8 };
static char stacks[2][65536];
static volatile int done[2];
static char *area;
static int worker(void *argument) {
  i64 me = (i64)argument;
  for (int round = 0; round < ROUNDS; round++) {
    char *p = map(PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    for (int i = 0; i < PAGES; i++) p[i * 4096] = (char)(round + i);
    sys(SYS_mprotect, p + 2 * 4096, 3 * 4096, PROT_READ);
    for (int i = 0; i < PAGES; i++) check(p[i * 4096] == (char)(round + i), "a thread's own memory");
    area[me * 8] = (char)round;
    sys(SYS_mprotect, p, PAGES * 4096, PROT_READ | PROT_WRITE);
    p[3 * 4096]++;
    sys(SYS_munmap, p + 4096, 4096);
    sys(SYS_munmap, p, PAGES * 4096);
    check(area[me * 8] == (char)round, "its byte in a page that is forked");
  }
  done[me] = 1;
  return 0;
}
int main(void) {
  area = map(4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  int tids[2];
  for (i64 i = 0; i < 2; i++) thread_create(worker, (void *)i, stacks[i] + sizeof stacks[i], &tids[i]);
  for (int forks = 0; forks < 100 && !(done[0] && done[1]); forks++) {
    area[4096] = (char)forks;
    i64 pid = sys(SYS_fork);
    check(pid >= 0, "fork");
    if (pid == 0) {
      int ok = area[4096] == (char)forks;
      area[0] = area[4096] = 101;
      sys(SYS_sched_yield);
      sys(SYS_exit_group, ok && area[0] == 101 && area[4096] == 101 ? 0 : 1);
    }
    check(wait_for(pid) == 0, "a child's copy");
    check(area[4096] == (char)forks, "the parent's byte");
  }
  while (!done[0] || !done[1]) sys(SYS_sched_yield);
  print("race: ok\n");
  return 0;
}
