// Numbers that no kernel has a system call for.
#include "../lib/lib.h"
int main(void) {
  for (i64 n = 600; n < 1200; n++) check(sys(n) == -38, "ENOSYS");
  check(sys(-1) == -38 && sys(0x7fffffff) == -38, "ENOSYS for wild numbers");
  print("enosys: ok\n");
  return 0;
}
