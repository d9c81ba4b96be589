// Prints what CPUID says: the highest leaves, the vendor, and the family, model and stepping. Tests compare it with the CPU model.
#include "../lib/guest.h"

static void put_chars(uint32_t four)
{
	for (int i = 0; i < 4; i++)
		put_char((char)(four >> (8 * i)));
}

int main(void)
{
	uint32_t r[4];
	cpuid(0, 0, r);
	put_text("max ");
	put_hex(r[0], 8);
	put_text("\nvendor ");
	put_chars(r[1]);
	put_chars(r[3]);
	put_chars(r[2]);
	cpuid(1, 0, r);
	uint32_t family = (r[0] >> 8) & 15, model = (r[0] >> 4) & 15;
	if (family == 6 || family == 15)
		model |= ((r[0] >> 16) & 15) << 4;
	if (family == 15)
		family += (r[0] >> 20) & 255;
	put_text("\nfamily ");
	put_dec(family);
	put_text(" model ");
	put_dec(model);
	put_text(" stepping ");
	put_dec(r[0] & 15);
	put_text("\nhypervisor ");
	put_dec(r[2] >> 31);
	cpuid(0x80000000, 0, r);
	put_text("\nextended max ");
	put_hex(r[0], 8);
	put_text("\n");
	return 0;
}
