// The few functions that guests share; gcc may also call memcpy and memset for structures, so they are here.
#include "guest.h"

void *memcpy(void *to, const void *from, size_t n)
{
	void *result = to;
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return result;
}

void *memset(void *to, int value, size_t n)
{
	void *result = to;
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
	return result;
}

_Noreturn void guest_exit(int status)
{
	outb(DEBUG_EXIT, (uint8_t)status);
	for (;;) // a monitor without that port: halt ends the run too
		__asm__ volatile("cli; hlt");
}

void put_char(char c)
{
	while (!(inb(COM1 + 5) & 0x20)) // LSR: transmitter holding register empty
		;
	outb(COM1, (uint8_t)c);
}

void put_text(const char *text)
{
	while (*text)
		put_char(*text++);
}

void put_dec(uint64_t value)
{
	char digits[20];
	int n = 0;
	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	while (n)
		put_char(digits[--n]);
}

void put_hex(uint64_t value, int digits)
{
	while (digits--)
		put_char("0123456789abcdef"[(value >> (4 * digits)) & 15]);
}

uint64_t parse_dec(const char *text, uint64_t otherwise)
{
	if (*text < '0' || *text > '9')
		return otherwise;
	uint64_t value = 0;
	while (*text >= '0' && *text <= '9')
		value = value * 10 + (uint64_t)(*text++ - '0');
	return value;
}

int same_text(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}
