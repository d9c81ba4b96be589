// Families: a tree of forks, exit statuses, copy on write, exec of the program itself, vfork, orphans, zombies that nobody asks for.
#include "../lib/lib.h"
static int data = 1;
// In line: the child must not overwrite the parent's return address on the stack that they share.
static inline i64 vfork_inline(void) {
  i64 result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_vfork) : "rcx", "r11", "memory");
  return result;
}
static void tree(int depth) {
  i64 children[2];
  for (int i = 0; i < 2 && depth > 0; i++) {
    i64 pid = sys(SYS_fork);
    check(pid >= 0, "fork");
    if (pid == 0) {
      data = data * 2 + i;
      tree(depth - 1);
      sys(SYS_exit_group, data & 0xff);
    }
    children[i] = pid;
  }
  for (int i = 0; i < 2 && depth > 0; i++) check(wait_for(children[i]) == (((data * 2 + i) & 0xff) << 8), "a child's status");
}
int main(int argc, char **argv, char **envp) {
  if (argc > 1) {
    print("executed with %s, environment %s\n", argv[1], envp[0]);
    return 42;
  }
  i64 me = sys(SYS_getpid);
  tree(4);
  check(data == 1, "a child's write is its own");
  i64 pid = sys(SYS_fork);
  if (pid == 0) {
    check(sys(SYS_getppid) == me, "getppid");
    char *again[] = {argv[0], "argument", 0}, *environment[] = {"A=b", 0};
    sys(SYS_execve, "/nowhere", again, environment);
    sys(SYS_execve, "/proc/self/exe", again, environment);
    sys(SYS_exit, 1);
  }
  check(wait_for(pid) == 42 << 8, "status of an executed program");
  volatile int shared = 0;
  pid = vfork_inline();
  if (pid == 0) {
    shared = 5;
    sys(SYS_exit, 3);
  }
  check(pid > 0 && shared == 5 && wait_for(pid) == 3 << 8, "vfork");
  pid = sys(SYS_fork);
  if (pid == 0) {
    // Its child outlives it.
    if (sys(SYS_fork) == 0) {
      u64 time[2] = {0, 2000000};
      sys(SYS_nanosleep, time, 0);
      sys(SYS_exit, 9);
    }
    sys(SYS_exit, 0);
  }
  check(wait_for(pid) == 0, "an orphan's parent");
  check(sys(SYS_wait4, -1, 0, 0, 0) == -10, "no child is left");
  pid = sys(SYS_fork);
  if (pid == 0) *(volatile int *)8 = 1;
  check((wait_for(pid) & 0x7f) == 11, "a child killed by SIGSEGV");
  pid = sys(SYS_fork);
  if (pid == 0) for (;;) sys(SYS_pause);
  check(sys(SYS_wait4, pid, 0, 1, 0) == 0, "WNOHANG");
  check(sys(SYS_kill, pid, 9) == 0 && wait_for(pid) == 9, "a child killed by SIGKILL");
  print("fork: ok\n");
  return 0;
}
