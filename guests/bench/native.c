// The native peer: the same kernels.c, compiled with the guest's flags, timed. Prints "name n checksum nanoseconds" per kernel (the
// best of five runs). Arguments: kernel names; none: all.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "kernels.h"

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	for (int i = 0; i < KERNEL_COUNT; i++) {
		int wanted = argc == 1;
		for (int a = 1; a < argc; a++)
			wanted |= strcmp(argv[a], kernels[i].name) == 0;
		if (!wanted)
			continue;
		uint64_t best = UINT64_MAX, sum = 0;
		for (int run = 0; run < 5; run++) {
			uint64_t start = now();
			sum = kernels[i].run(kernels[i].default_n);
			uint64_t took = now() - start;
			best = took < best ? took : best;
		}
		printf("%s %" PRIu64 " %016" PRIx64 " %" PRIu64 "\n", kernels[i].name, kernels[i].default_n, sum, best);
	}
	return 0;
}
