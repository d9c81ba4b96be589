// Guest exits as fast as they come: N hypercalls that the kernel answers without the monitor. N is the command line, else 1000.
#include "../lib/guest.h"

int main(uint64_t memory_bytes, const char *command_line)
{
	(void)memory_bytes;
	uint64_t n = parse_dec(command_line, 1000);
	uint64_t failed = 0;
	for (uint64_t i = 0; i < n; i++)
		failed += hypercall1(KVM_HC_VAPIC_POLL_IRQ, i) != 0;
	put_dec(n);
	put_text(" hypercalls, ");
	put_dec(failed);
	put_text(" failed\n");
	return failed != 0;
}
