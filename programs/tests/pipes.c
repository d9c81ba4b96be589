// Pipes between processes: blocking both ways, long transfers, the end of the file, atomic writes, EPIPE and SIGPIPE.
#include "../lib/lib.h"
static u8 block[10000];
int main(void) {
  int ends[2];
  check(sys(SYS_pipe, ends) == 0, "pipe");
  i64 pid = sys(SYS_fork);
  if (pid == 0) {
    sys(SYS_close, ends[0]);
    for (u64 sent = 0; sent < 300000;) {
      for (u64 i = 0; i < sizeof block; i++) block[i] = (u8)((sent + i) * 13 >> 3);
      for (u64 at = 0; at < sizeof block;) {
        i64 n = sys(SYS_write, ends[1], block + at, sizeof block - at);
        check(n > 0, "write to a pipe");
        at += n;
      }
      sent += sizeof block;
    }
    sys(SYS_exit_group, 0);
  }
  sys(SYS_close, ends[1]);
  u64 got = 0;
  for (;;) {
    i64 n = sys(SYS_read, ends[0], block, 7777);
    check(n >= 0, "read from a pipe");
    if (n == 0) break;
    for (i64 i = 0; i < n; i++) check(block[i] == (u8)((got + i) * 13 >> 3), "what comes out of a pipe");
    got += n;
  }
  check(got == 300000 && wait_for(pid) == 0, "all that went in");
  // Four writers of whole records.
  check(sys(SYS_pipe, ends) == 0, "pipe");
  for (int w = 0; w < 4; w++) {
    if (sys(SYS_fork) == 0) {
      fill(block, 'a' + w, 600);
      for (int i = 0; i < 50; i++) check(sys(SYS_write, ends[1], block, 600) == 600, "an atomic write");
      sys(SYS_exit_group, 0);
    }
  }
  sys(SYS_close, ends[1]);
  u64 records = 0;
  for (u64 at = 0;;) {
    i64 n = sys(SYS_read, ends[0], block + at, 600 - at);
    if (n <= 0) break;
    at += n;
    if (at < 600) continue;
    for (int i = 1; i < 600; i++) check(block[i] == block[0], "records are never torn");
    records++;
    at = 0;
  }
  check(records == 200, "number of records");
  for (int w = 0; w < 4; w++) check(sys(SYS_wait4, -1, 0, 0, 0) > 0, "a writer");
  check(sys(SYS_pipe, ends) == 0, "pipe");
  sys(SYS_close, ends[0]);
  pid = sys(SYS_fork);
  if (pid == 0) {
    sys(SYS_write, ends[1], "x", 1);
    sys(SYS_exit_group, 0);
  }
  check(wait_for(pid) == 13, "SIGPIPE");
  struct sigaction64 ignore = {(void *)1, 0, 0, 0};
  sys(SYS_rt_sigaction, 13, &ignore, 0, 8);
  check(sys(SYS_write, ends[1], "x", 1) == -32, "EPIPE");
  check(sys(SYS_lseek, ends[1], 0, 0) == -29, "ESPIPE");
  print("pipes: ok\n");
  return 0;
}
