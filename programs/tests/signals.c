// Signals: handlers with their information, masks, pending signals, restarts, an alternate stack, recovery from SIGSEGV, SIGCHLD.
#include "../lib/lib.h"
static volatile int count, last, code;
static volatile u64 address;
static void note(int signal, void *info, void *context) {
  (void)context;
  count++;
  last = signal;
  code = ((int *)info)[2];
  address = ((u64 *)info)[2];
}
// ucontext: uc_flags, uc_link, uc_stack (24 bytes), then the registers: RIP is the 17th, at 40 + 16 * 8.
static void skip(int signal, void *info, void *context) {
  note(signal, info, context);
  ((u64 *)context)[5 + 16] += 3;
}
int main(void) {
  i64 me = sys(SYS_getpid);
  handle(10, note, 0);
  check(sys(SYS_kill, me, 10) == 0 && count == 1 && last == 10 && code == 0, "a handler");
  u64 usr1 = 1 << 9, none = 0, old, pending;
  check(sys(SYS_rt_sigprocmask, 0, &usr1, &old, 8) == 0 && old == 0, "block");
  check(sys(SYS_kill, me, 10) == 0 && sys(SYS_kill, me, 10) == 0 && count == 1, "a blocked signal waits");
  check(sys(SYS_rt_sigpending, &pending, 8) == 0 && pending == usr1, "pending");
  check(sys(SYS_rt_sigsuspend, &none, 8) == -4 && count == 2, "sigsuspend lets it in, once");
  check(sys(SYS_rt_sigprocmask, 2, &none, &old, 8) == 0 && old == usr1 && count == 2, "the mask is back");
  handle(11, skip, 0);
  __asm__ volatile("movl %%eax, (%0); nop" : : "D"((u64)0x20), "a"(0) : "memory");
  check(count == 3 && last == 11 && address == 0x20 && code == 1, "SIGSEGV tells where, and is survived");
  handle(17, note, SA_RESTART);
  int ends[2];
  char byte;
  sys(SYS_pipe, ends);
  i64 pid = sys(SYS_fork);
  if (pid == 0) sys(SYS_exit_group, 5);
  i64 writer = sys(SYS_fork);
  if (writer == 0) {
    u64 time[2] = {0, 5000000};
    sys(SYS_nanosleep, time, 0);
    sys(SYS_write, ends[1], "z", 1);
    sys(SYS_exit_group, 0);
  }
  check(sys(SYS_read, ends[0], &byte, 1) == 1 && byte == 'z', "a read that SIGCHLD interrupts is restarted");
  wait_for(pid);
  wait_for(writer);
  check(last == 17 && code == 1, "SIGCHLD");
  handle(10, note, 0);
  pid = sys(SYS_fork);
  if (pid == 0) {
    u64 time[2] = {0, 3000000};
    sys(SYS_nanosleep, time, 0);
    sys(SYS_kill, me, 10);
    sys(SYS_exit_group, 0);
  }
  struct sigaction64 ignore = {0, 0, 0, 0};
  sys(SYS_rt_sigaction, 17, &ignore, 0, 8);
  check(sys(SYS_read, ends[0], &byte, 1) == -4, "without SA_RESTART it ends with EINTR");
  wait_for(pid);
  struct { void *sp; int flags; u64 bytes; } stack = {map(16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS), 0, 16384};
  check(sys(SYS_sigaltstack, &stack, 0) == 0, "sigaltstack");
  handle(12, note, SA_ONSTACK);
  int before = count;
  check(sys(SYS_tgkill, me, me, 12) == 0 && count == before + 1 && last == 12 && code == -6, "a handler on its own stack");
  check(sys(SYS_kill, 999999, 0) == -3 && sys(SYS_kill, me, 100) == -22, "kill of nobody, with no signal");
  print("signals: ok\n");
  return 0;
}
