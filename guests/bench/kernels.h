// Seven integer kernels. Each does work in proportion to `n` and returns a checksum of all it computed, so that none of it is dead.
// The same file is compiled for the guest and, with the same flags, for the native peer.
#ifndef KERNELS_H
#define KERNELS_H
#include <stdint.h>

uint64_t k_sort(uint64_t n);     // shell sort of 4096 numbers: compares, moves, predictable inner branches
uint64_t k_crc(uint64_t n);      // CRC-32 by table over 64 KiB: a dependent chain of table loads
uint64_t k_chase(uint64_t n);    // pointer chase through 16384 nodes of one line each: load latency
uint64_t k_imatrix(uint64_t n);  // 48 x 48 integer matrix product: multiplies and strided loads
uint64_t k_branchy(uint64_t n);  // Collatz lengths: unpredictable branches
uint64_t k_dispatch(uint64_t n); // a bytecode interpreter of 8 operations: indirect branches
uint64_t k_memcopy(uint64_t n);  // word-wise copies of 32 KiB at odd distances: loads and stores

struct kernel {
	const char *name;
	uint64_t (*run)(uint64_t n);
	uint64_t default_n; // 10 to 35 million instructions
};
#define KERNEL_COUNT 7
extern const struct kernel kernels[KERNEL_COUNT];

#endif
