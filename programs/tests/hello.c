// Arguments and environment as the ABI gives them.
#include "../lib/lib.h"
int main(int argc, char **argv, char **envp) {
  print("hello from %s\n", argv[0]);
  for (int i = 1; i < argc; i++) print("argument %d: %s\n", (i64)i, argv[i]);
  for (; *envp; envp++) print("environment: %s\n", *envp);
  print_error("and this is standard error\n");
  return argc > 1 ? 7 : 0;
}
