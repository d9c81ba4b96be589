// Raises the exceptions a guest can raise and prints vector, error code and, for page faults, CR2: all as SDM volume 3, chapter 6.
#include "../lib/idt.h"

// Runs `instruction` with an IDT that goes on behind it, and prints what it raised.
#define TRY(name, instruction)                                                                      \
	do {                                                                                            \
		last_exception.vector = 256;                                                                \
		__asm__ volatile("leaq 1f(%%rip), %%rax\n\t"                                                \
				 "movq %%rax, resume_at\n\t" instruction "\n\t"                                     \
				 "1:\n\t" : : : "rax", "rcx", "rdx", "memory", "cc");                               \
		put_text(name);                                                                             \
		put_text(" vector ");                                                                       \
		put_dec(last_exception.vector);                                                             \
		put_text(" error ");                                                                        \
		put_hex(last_exception.error_code, 4);                                                      \
		if (last_exception.vector == 14) {                                                          \
			put_text(" cr2 ");                                                                      \
			put_hex(last_exception.cr2, 16);                                                        \
		}                                                                                           \
		put_char('\n');                                                                             \
	} while (0)

int main(void)
{
	idt_load();
	TRY("divide", "xorl %%edx, %%edx; xorl %%ecx, %%ecx; divl %%ecx");
	TRY("breakpoint", "int3");
	TRY("undefined", "ud2");
	TRY("read beyond the map", "movabsq $0x4000000000, %%rcx; movb (%%rcx), %%dl");
	TRY("write beyond the map", "movabsq $0x4000000008, %%rcx; movb %%dl, (%%rcx)");
	TRY("not canonical", "movabsq $0x800000000000, %%rcx; movb (%%rcx), %%dl");
	TRY("unknown MSR", "movl $0x12345678, %%ecx; rdmsr");
	TRY("bad selector", "movl $0x1238, %%ecx; movl %%ecx, %%ds");
	TRY("nothing", "nop");
	return 0;
}
