// Threads: a counter under a futex lock, joining by the word that the kernel clears, timeouts, thread-local identities.
#include "../lib/lib.h"
enum { THREADS = 4, ROUNDS = 500, STACK = 16384 };
static volatile int lock, counter, tids[THREADS];
static int swap(volatile int *at, int value) {
  __asm__ volatile("xchg %0, %1" : "+r"(value), "+m"(*at)::"memory");
  return value;
}
static int compare_swap(volatile int *at, int old, int next) {
  __asm__ volatile("lock cmpxchg %2, %1" : "+a"(old), "+m"(*at) : "r"(next) : "memory");
  return old;
}
// Drepper, "Futexes Are Tricky", mutex 3.
static void acquire(void) {
  int c = compare_swap(&lock, 0, 1);
  if (c == 0) return;
  if (c != 2) c = swap(&lock, 2);
  while (c != 0) {
    sys(SYS_futex, &lock, 128, 2, 0);
    c = swap(&lock, 2);
  }
}
static void release(void) {
  if (swap(&lock, 0) == 2) sys(SYS_futex, &lock, 129, 1);
}
static int run(void *argument) {
  for (int i = 0; i < ROUNDS; i++) {
    acquire();
    int seen = counter;
    if (i % 50 == 0) sys(SYS_sched_yield);
    counter = seen + 1;
    release();
  }
  return sys(SYS_gettid) == tids[(i64)argument] ? 0 : 1;
}
int main(void) {
  char *stacks = map(THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  for (i64 i = 0; i < THREADS; i++) check(thread_create(run, (void *)i, stacks + (i + 1) * STACK, (int *)&tids[i]) > 0, "clone");
  for (int i = 0; i < THREADS; i++) {
    int tid;
    while ((tid = tids[i]) != 0) sys(SYS_futex, &tids[i], 0, tid, 0);
  }
  check(counter == THREADS * ROUNDS, "the counter");
  int word = 3;
  u64 time[2] = {0, 1000000};
  check(sys(SYS_futex, &word, 128, 4, 0) == -11, "EAGAIN");
  check(sys(SYS_futex, &word, 128, 3, time) == -110, "ETIMEDOUT");
  check(sys(SYS_futex, &word, 129, 1) == 0, "nobody waits");
  u64 before[2], after[2];
  check(sys(SYS_clock_gettime, 1, before) == 0 && sys(SYS_nanosleep, time, 0) == 0 && sys(SYS_clock_gettime, 1, after) == 0, "clocks");
  check((after[0] - before[0]) * 1000000000 + after[1] - before[1] >= 1000000, "time passes while a process sleeps");
  print("threads: ok, %d\n", (i64)counter);
  return 0;
}
