// Runs the kernels and prints their checksums. Command line: the name of one kernel, or nothing for all.
#include "../lib/guest.h"
#include "kernels.h"

int main(uint64_t memory_bytes, const char *command_line)
{
	(void)memory_bytes;
	int ran = 0;
	for (int i = 0; i < KERNEL_COUNT; i++) {
		if (*command_line && !same_text(command_line, kernels[i].name))
			continue;
		put_text(kernels[i].name);
		put_char(' ');
		put_hex(kernels[i].run(kernels[i].default_n), 16);
		put_char('\n');
		ran++;
	}
	return ran == 0; // an unknown name
}
