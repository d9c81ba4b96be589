// Segments of a process's own: modify_ldt, data and code segments of the LDT, a 16-bit stack across a page fault (the upper half of ESP is the
// process's, not the kernel's), what a fork inherits, what becomes of a segment that is taken away.
#include "../lib/lib.h"
struct descriptor {
  u32 entry, base, limit, flags;
};
enum { SEG_32BIT = 1, READ_ONLY = 8, IN_PAGES = 16, NOT_PRESENT = 32, CODE = 2 << 1 };
// Written by the code below in 32-bit mode.
u32 in_code, in_selector, in_esp, in_fresh, in_flat, out_esp, out_word, out_popped;
u64 kept_rsp;
static u32 words[4] = {0x11111111, 0x22222222, 0x33333333, 0x44444444};
static char stack16[65536];
// In 32-bit code: SS = in_selector, ESP = in_esp; push, pop, a page fault that the kernel serves; then back.
int run_on_stack(void);
// In 32-bit code: ES = in_selector; out_word = the word at its offset 4.
int read_segment(void);
__asm__(
    ".macro enter_compat label\n"
    "  push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "  mov %rsp, kept_rsp\n"
    "  mov in_code, %eax\n push %rax\n lea \\label(%rip), %rax\n push %rax\n lretq\n"
    ".endm\n"
    ".globl run_on_stack, read_segment\n"
    "run_on_stack:\n enter_compat 1f\n"
    ".code32\n"
    "1: mov %ss, %ecx\n mov %ecx, %ds\n mov %ecx, in_flat\n"
    "  mov in_selector, %ecx\n mov in_esp, %edx\n mov %ecx, %ss\n mov %edx, %esp\n"
    "  push $0x12345678\n pop %ebx\n mov %ebx, out_popped\n"
    "  mov in_fresh, %ebx\n mov (%ebx), %eax\n"
    "  mov %eax, out_word\n mov %esp, out_esp\n"
    "  mov in_flat, %ecx\n mov %ecx, %ss\n mov kept_rsp, %esp\n xor %ecx, %ecx\n mov %ecx, %ds\n"
    "  ljmp $0x33, $leave_compat\n"
    ".code64\n"
    "read_segment:\n enter_compat 2f\n"
    ".code32\n"
    "2: mov %ss, %ecx\n mov %ecx, %ds\n"
    "  mov in_selector, %ecx\n mov %ecx, %es\n mov %es:4, %eax\n mov %eax, out_word\n"
    "  xor %ecx, %ecx\n mov %ecx, %es\n mov %ecx, %ds\n"
    "  ljmp $0x33, $leave_compat\n"
    ".code64\n"
    "leave_compat:\n"
    "  mov kept_rsp, %rsp\n"
    "  pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
    "  xor %eax, %eax\n ret\n");
static i64 set(u32 entry, void *base, u32 limit, u32 flags) {
  struct descriptor d = {entry, (u32)(u64)base, limit, flags};
  return sys(SYS_modify_ldt, 0x11, &d, sizeof d);
}
static u32 selector(u32 entry) { return entry * 8 + 7; }
static u32 word_of(u32 entry) {
  in_selector = selector(entry);
  read_segment();
  return out_word;
}
// How a child ends that reads the segment.
static int ending(u32 entry) {
  i64 pid = sys(SYS_fork);
  if (pid == 0) sys(SYS_exit_group, word_of(entry) == words[1] ? 0 : 1);
  return wait_for(pid);
}
int main(void) {
  u64 table[8];
  check(sys(SYS_modify_ldt, 0, table, sizeof table) == 0, "no table at first");
  check(set(0, words, sizeof words - 1, SEG_32BIT) == 0, "a data segment");
  check(set(5, 0, 0xfffff, SEG_32BIT | IN_PAGES | CODE) == 0, "a code segment");
  in_code = selector(5);
  check(sys(SYS_modify_ldt, 0, table, sizeof table) == (i64)sizeof table && (table[0] >> 40 & 0xff) == 0xf3 && table[1] == 0, "what it is");
  check(word_of(0) == words[1], "its second word");
  check(set(1, words + 1, 7, SEG_32BIT | READ_ONLY) == 0 && word_of(1) == words[2], "a second one");
  check(ending(0) == 0, "a child has them");
  check(set(2, words, 5, SEG_32BIT) == 0 && (ending(2) & 0x7f) == 11, "a word that crosses the limit");
  check(set(3, words, 15, SEG_32BIT | NOT_PRESENT) == 0 && (ending(3) & 0x7f) == 7, "a segment that is not present: SIGBUS");
  check((ending(9) & 0x7f) == 11, "a selector behind the table");
  i64 pid = sys(SYS_fork);
  if (pid == 0) {
    check(set(0, words + 2, 7, SEG_32BIT) == 0 && word_of(0) == words[3], "a child's change");
    sys(SYS_exit_group, 0);
  }
  check(wait_for(pid) == 0 && word_of(0) == words[1], "is its own");
  check(set(4, stack16, sizeof stack16 - 1, 0) == 0, "a 16-bit stack segment");
  // ESP's upper half means nothing to such a stack; it must not come back as the kernel's.
  static const u32 esps[] = {0x00001000, 0xdead1000, 0x7fff8000, 0xffff0100};
  char *fresh = (char *)sys(SYS_mmap, 0x20000000, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  for (u32 i = 0; i < sizeof esps / sizeof *esps; i++) {
    in_selector = selector(4);
    in_esp = esps[i];
    in_fresh = (u32)(u64)fresh + i * 4096;
    run_on_stack();
    check(out_popped == 0x12345678, "push and pop on it");
    check(*(u32 *)(stack16 + ((esps[i] - 4) & 0xffff)) == 0x12345678, "where it stands");
    check(out_word == 0, "a page that came meanwhile");
    check(out_esp == esps[i], "the upper half of ESP");
  }
  check(set(0, 0, 0, READ_ONLY | NOT_PRESENT) == 0 && (ending(0) & 0x7f) == 11, "a segment that was taken away");
  check(set(8192, words, 15, 0) == -22 && sys(SYS_modify_ldt, 0x11, words, 12) == -22, "bad numbers and sizes");
  check(sys(SYS_modify_ldt, 0x11, 8, 16) == -14 && (int)sys(SYS_modify_ldt, 77, 0, 0) == -38, "bad addresses and calls");
  print("ldt: ok\n");
  return 0;
}
