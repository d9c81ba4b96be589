// As many getppid() as the argument says.
#include "../lib/lib.h"
int main(int argc, char **argv) {
  u64 n = 0;
  for (const char *s = argc > 1 ? argv[1] : "1000"; *s; s++) n = n * 10 + *s - '0';
  for (u64 i = 0; i < n; i++) sys(SYS_getppid);
  return 0;
}
