#include "attack.h"

static int starts_with(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return 0;
	return 1;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

uint64_t argument(const char *command_line, const char *key, uint64_t otherwise)
{
	for (const char *at = command_line; *at; at++) {
		if ((at != command_line && at[-1] != ' ') || !starts_with(at, key))
			continue;
		const char *text = at;
		while (*text && *text != '=')
			text++;
		if (*text++ != '=')
			continue;
		if (!starts_with(text, "0x"))
			return parse_dec(text, otherwise);
		uint64_t value = 0;
		for (text += 2; digit(*text) >= 0; text++)
			value = value << 4 | (uint64_t)digit(*text);
		return value;
	}
	return otherwise;
}

int decided(const uint8_t votes[16], int enough)
{
	int best = 0, second = 1;
	if (votes[1] > votes[0])
		best = 1, second = 0;
	for (int i = 2; i < 16; i++) {
		if (votes[i] > votes[best])
			second = best, best = i;
		else if (votes[i] > votes[second])
			second = i;
	}
	return votes[best] >= enough && votes[best] > votes[second] ? best : -1;
}

void report(const struct guess *guesses, int length, int enough)
{
	int recovered = 0;
	for (int i = 0; i < length; i++)
		recovered += decided(guesses[i].votes[0], enough) >= 0 && decided(guesses[i].votes[1], enough) >= 0;
	put_text("recovered ");
	put_dec((uint64_t)recovered);
	put_text(" of ");
	put_dec((uint64_t)length);
	put_char(':');
	for (int i = 0; i < length; i++) {
		int low = decided(guesses[i].votes[0], enough), high = decided(guesses[i].votes[1], enough);
		put_char(' ');
		if (low < 0 || high < 0)
			put_text("??");
		else
			put_hex((uint64_t)(high << 4 | low), 2);
	}
	put_char('\n');
}
