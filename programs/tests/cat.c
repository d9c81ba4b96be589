// Prints files.
#include "../lib/lib.h"
int main(int argc, char **argv) {
  static char buffer[3000];
  for (int i = 1; i < argc; i++) {
    i64 fd = sys(SYS_open, argv[i], O_RDONLY, 0);
    if (fd < 0) {
      print_error("%s: error %d\n", argv[i], fd);
      return 1;
    }
    i64 n;
    while ((n = sys(SYS_read, fd, buffer, sizeof buffer)) > 0) sys(SYS_write, 1, buffer, n);
    sys(SYS_close, fd);
  }
  return 0;
}
