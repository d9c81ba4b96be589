// Memory: protection, copy on write, shared mappings, mappings of files, brk, holes.
#include "../lib/lib.h"
static int faults(volatile char *at, int write) {
  i64 pid = sys(SYS_fork);
  if (pid == 0) {
    if (write) *at = 1;
    else (void)*at;
    sys(SYS_exit_group, 0);
  }
  return (wait_for(pid) & 0x7f) == 11;
}
static int deep(int depth) {
  volatile char frame[4096];
  frame[0] = (char)depth;
  return depth == 0 ? 0 : deep(depth - 1) + (frame[0] == (char)depth);
}
int main(void) {
  char *p = map(5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  for (int i = 0; i < 5; i++) check(p[i * 4096] == 0, "anonymous memory is zero");
  for (int i = 0; i < 5; i++) p[i * 4096] = (char)(i + 1);
  check(sys(SYS_mprotect, p + 4096, 4096, PROT_READ) == 0, "mprotect");
  check(faults(p + 4096, 1) && !faults(p + 4096, 0) && !faults(p + 2 * 4096, 1), "a page that is only read");
  check(sys(SYS_mprotect, p + 4096, 4096, PROT_NONE) == 0 && faults(p + 4096, 0), "a page that nobody may read");
  check(sys(SYS_mprotect, p + 4096, 4096, PROT_READ | PROT_WRITE) == 0 && p[4096] == 2, "and what it held");
  check(sys(SYS_munmap, p + 3 * 4096, 4096) == 0 && faults(p + 3 * 4096, 0) && p[4 * 4096] == 5, "a hole");
  check(deep(500) == 500, "a stack that grows");
  int *shared = map(4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  i64 pid = sys(SYS_fork);
  if (pid == 0) {
    p[0] = 99;
    *shared = 77;
    sys(SYS_exit_group, p[0] == 99 ? 0 : 1);
  }
  check(wait_for(pid) == 0 && p[0] == 1 && *shared == 77, "private is copied, shared is shared");
  i64 end = sys(SYS_brk, 0);
  check(sys(SYS_brk, end + 10000) == end + 10000, "brk up");
  ((char *)end)[9999] = 4;
  check(sys(SYS_brk, end) == end && faults((char *)end + 9999, 0), "brk down");
  i64 fd = sys(SYS_open, "/tmp/cordon-memory-test", O_RDWR | O_CREAT | O_TRUNC, 0600);
  check(sys(SYS_write, fd, "mapped file", 11) == 11, "write");
  char *file = (char *)sys(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  check(same(file, "mapped file", 11) && file[11] == 0, "a file's page");
  file[0] = 'M';
  char buffer[12];
  check(sys(SYS_lseek, fd, 0, 0) == 0 && sys(SYS_read, fd, buffer, 11) == 11 && buffer[0] == 'm', "a private mapping leaves the file alone");
  char *both = (char *)sys(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  both[1] = 'A';
  check(sys(SYS_lseek, fd, 0, 0) == 0 && sys(SYS_read, fd, buffer, 11) == 11 && buffer[1] == 'A', "a shared one does not");
  i64 only = sys(SYS_open, "/tmp/cordon-memory-test", O_RDONLY);
  check(sys(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, only, 0) == -13, "a file that was opened to be read");
  char *view = (char *)sys(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, only, 0);
  check(view[1] == 'A' && sys(SYS_mprotect, view, 4096, PROT_READ | PROT_WRITE) == -13, "a mapping that stays read-only");
  char *mine = (char *)sys(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, only, 0);
  mine[1] = 'B';
  check(both[1] == 'A' && mine[1] == 'B', "a private copy of it");
  check((sys(SYS_mmap, 0, 8192, PROT_READ, MAP_PRIVATE, only, 0) & 4095) == 0, "a mapping longer than the file");
  char *behind = (char *)sys(SYS_mmap, 0, 8192, PROT_READ, MAP_PRIVATE, only, 0) + 4096;
  pid = sys(SYS_fork);
  if (pid == 0) sys(SYS_exit_group, *(volatile char *)behind);
  check((wait_for(pid) & 0x7f) == 7, "a page behind the end of a file: SIGBUS");
  check(sys(SYS_mmap, 0, 4096, PROT_READ, MAP_ANONYMOUS, -1, 0) == -22, "neither shared nor private");
  i64 directory = sys(SYS_open, "/tmp", O_RDONLY);
  check(sys(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, directory, 0) == -19, "a directory");
  sys(SYS_unlink, "/tmp/cordon-memory-test");
  print("memory: ok\n");
  return 0;
}
