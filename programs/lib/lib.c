#include "lib.h"
#include <stdarg.h>

u64 length(const char *s) {
  u64 n = 0;
  while (s[n]) n++;
  return n;
}

int same(const void *a, const void *b, u64 bytes) {
  const u8 *x = a, *y = b;
  for (u64 i = 0; i < bytes; i++)
    if (x[i] != y[i]) return 0;
  return 1;
}

void copy(void *to, const void *from, u64 bytes) { __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory"); }
void fill(void *to, int value, u64 bytes) { __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory"); }

struct out {
  char text[512];
  u64 used;
  int fd;
};

static void put(struct out *o, char c) {
  if (o->used == sizeof o->text) {
    sys(SYS_write, o->fd, o->text, o->used);
    o->used = 0;
  }
  o->text[o->used++] = c;
}

static void number(struct out *o, u64 value, u64 base) {
  char digits[24];
  int n = 0;
  do digits[n++] = "0123456789abcdef"[value % base];
  while (value /= base);
  while (n) put(o, digits[--n]);
}

static void format(int fd, const char *f, va_list arguments) {
  struct out o;
  o.used = 0;
  o.fd = fd;
  for (; *f; f++) {
    if (*f != '%') {
      put(&o, *f);
      continue;
    }
    switch (*++f) {
      case 's':
        for (const char *s = va_arg(arguments, const char *); *s; s++) put(&o, *s);
        break;
      case 'd': {
        i64 value = va_arg(arguments, i64);
        if (value < 0) put(&o, '-');
        number(&o, value < 0 ? -(u64)value : (u64)value, 10);
        break;
      }
      case 'u':
        number(&o, va_arg(arguments, u64), 10);
        break;
      case 'x':
        number(&o, va_arg(arguments, u64), 16);
        break;
    }
  }
  if (o.used) sys(SYS_write, fd, o.text, o.used);
}

void print(const char *f, ...) {
  va_list arguments;
  va_start(arguments, f);
  format(1, f, arguments);
  va_end(arguments);
}

void print_error(const char *f, ...) {
  va_list arguments;
  va_start(arguments, f);
  format(2, f, arguments);
  va_end(arguments);
}

void check(int holds, const char *what) {
  if (holds) return;
  print_error("failed: %s\n", what);
  sys(SYS_exit_group, 1);
}

void handle(int signal, void (*handler)(int, void *, void *), u64 flags) {
  struct sigaction64 action = {handler, flags | SA_SIGINFO | SA_RESTORER, restore_rt, 0};
  check(sys(SYS_rt_sigaction, signal, &action, 0, 8) == 0, "sigaction");
}

void *map(u64 bytes, int protection, int flags) {
  i64 at = sys(SYS_mmap, 0, bytes, protection, flags, -1, 0);
  check(at > 0, "mmap");
  return (void *)at;
}

int wait_for(i64 pid) {
  int status = -1;
  i64 got = sys(SYS_wait4, pid, &status, 0, 0);
  check(got == pid, "wait4");
  return status;
}
