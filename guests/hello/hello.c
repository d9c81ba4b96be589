// The smallest guest: one line, then halt. With a command line it greets by that name.
#include "../lib/guest.h"

int main(uint64_t memory_bytes, const char *command_line)
{
	put_text("hello from the guest");
	if (*command_line) {
		put_text(", ");
		put_text(command_line);
	}
	put_text(" (");
	put_dec(memory_bytes >> 20);
	put_text(" MiB)\n");
	__asm__ volatile("cli; hlt");
	return 1; // a halt with interrupts off ends the run: not reached
}
