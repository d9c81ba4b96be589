// Files: create, write across pages, holes, seek, append, truncate, unlink while open, descriptors.
#include "../lib/lib.h"
static char a[9000], b[9000];
int main(void) {
  const char *path = "/tmp/cordon-files-test";
  for (u64 i = 0; i < sizeof a; i++) a[i] = (char)(i * 7 + i / 251);
  i64 fd = sys(SYS_open, path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  check(fd >= 0, "create");
  check(sys(SYS_write, fd, a, sizeof a) == sizeof a, "write");
  check(sys(SYS_lseek, fd, 4000, 0) == 4000, "seek");
  check(sys(SYS_read, fd, b, 200) == 200 && same(a + 4000, b, 200), "read across pages");
  check(sys(SYS_lseek, fd, 0, 2) == sizeof a, "seek to the end");
  check(sys(SYS_read, fd, b, 10) == 0, "end of file");
  check(sys(SYS_lseek, fd, 20000, 0) == 20000, "seek behind the end");
  check(sys(SYS_write, fd, "x", 1) == 1, "write behind the end");
  check(sys(SYS_lseek, fd, 12000, 0) == 12000, "seek into the hole");
  check(sys(SYS_read, fd, b, 9000) == 8001, "read the hole");
  for (int i = 0; i < 8000; i++) check(b[i] == 0, "the hole is zero");
  check(b[8000] == 'x', "what is behind the hole");
  i64 copy_fd = sys(SYS_dup, fd);
  check(sys(SYS_lseek, copy_fd, 5, 0) == 5 && sys(SYS_lseek, fd, 0, 1) == 5, "dup shares the position");
  check(sys(SYS_dup2, fd, 100) == 100 && sys(SYS_close, 100) == 0 && sys(SYS_close, 100) == -9, "dup2");
  i64 append = sys(SYS_open, path, O_WRONLY | O_APPEND, 0);
  check(sys(SYS_write, append, "yz", 2) == 2 && sys(SYS_lseek, fd, 0, 2) == 20003, "append");
  check(sys(SYS_read, append, b, 1) == -9, "read of a file that was opened for writing");
  check(sys(SYS_open, path, O_RDWR | O_CREAT | O_EXCL, 0600) == -17, "exclusive create of what is there");
  check(sys(SYS_unlink, path) == 0 && sys(SYS_open, path, O_RDONLY, 0) == -2, "unlink");
  check(sys(SYS_lseek, fd, 0, 0) == 0 && sys(SYS_read, fd, b, sizeof b) == sizeof b && same(a, b, sizeof b), "an unlinked file lives on");
  check(sys(SYS_open, "/dev/null/x", O_RDONLY, 0) == -20, "a file is no directory");
  check(sys(SYS_open, "/", O_RDWR, 0) == -21, "a directory is not written");
  i64 exe = sys(SYS_open, "/proc/self/exe", O_RDONLY, 0);
  check(exe >= 0 && sys(SYS_read, exe, b, 4) == 4 && same(b, "\177ELF", 4), "/proc/self/exe");
  i64 zero = sys(SYS_open, "/dev/zero", O_RDONLY, 0);
  fill(b, 1, 5000);
  check(sys(SYS_read, zero, b, 5000) == 5000 && b[0] == 0 && b[4999] == 0, "/dev/zero");
  i64 nul = sys(SYS_open, "/dev/null", O_RDWR, 0);
  check(sys(SYS_write, nul, a, 5000) == 5000 && sys(SYS_read, nul, b, 1) == 0, "/dev/null");
  print("files: ok\n");
  return 0;
}
