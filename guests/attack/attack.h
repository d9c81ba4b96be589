// What both attackers share: time, flushing, the command line, and how a result is printed. They decide from measured times alone.
#ifndef ATTACK_H
#define ATTACK_H
#include "../lib/guest.h"

#define LINE 64
#define PAGE 4096

/** Cycles now; earlier loads are complete (SDM volume 2, RDTSCP), later ones have not begun. */
static inline uint64_t timestamp(void)
{
	uint32_t lo, hi, aux;
	__asm__ volatile("rdtscp\n\tlfence" : "=a"(lo), "=d"(hi), "=c"(aux) : : "memory");
	return ((uint64_t)hi << 32) | lo;
}

static inline void touch(const volatile void *address) { (void)*(const volatile uint8_t *)address; }
static inline void flush(const volatile void *address) { __asm__ volatile("clflush (%0)" : : "r"(address) : "memory"); }
static inline void fence(void) { __asm__ volatile("mfence\n\tlfence" : : : "memory"); }

/** Cycles that one load of `address` takes. */
static inline uint64_t load_time(const volatile void *address)
{
	uint64_t start = timestamp();
	touch(address);
	return timestamp() - start;
}

/** Waits until what is on its way from memory has arrived: a fence does not wait for loads that never happened. */
static inline void settle(void)
{
	uint64_t start = timestamp();
	while (timestamp() - start < 1000)
		;
}

/** The hexadecimal or decimal number behind `key=` in the command line, or `otherwise`. Hexadecimal begins with 0x. */
uint64_t argument(const char *command_line, const char *key, uint64_t otherwise);

/** Ways to read a byte's two halves: what the attacker believes, and how sure it is. */
struct guess {
	uint8_t votes[2][16];
};

/** The nibble with the most votes if it has at least `enough` and more than any other, else -1. */
int decided(const uint8_t votes[16], int enough);

/** Prints "recovered N of LENGTH: xx xx ?? ...". Bytes with an undecided half are ??. */
void report(const struct guess *guesses, int length, int enough);

#endif
