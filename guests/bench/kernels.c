#include "kernels.h"

static uint64_t random_state;

static void seed(uint64_t s) { random_state = s; }

/** xorshift64*: deterministic, the same in guest and native. */
static uint64_t next_random(void)
{
	uint64_t x = random_state;
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	random_state = x;
	return x * 0x2545f4914f6cdd1dull;
}

#define SORT_ITEMS 4096
static uint32_t items[SORT_ITEMS];

uint64_t k_sort(uint64_t n)
{
	uint64_t sum = 0;
	seed(1);
	for (uint64_t round = 0; round < n; round++) {
		for (int i = 0; i < SORT_ITEMS; i++)
			items[i] = (uint32_t)next_random();
		for (int gap = SORT_ITEMS / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11) {
			for (int i = gap; i < SORT_ITEMS; i++) {
				uint32_t moving = items[i];
				int j = i;
				for (; j >= gap && items[j - gap] > moving; j -= gap)
					items[j] = items[j - gap];
				items[j] = moving;
			}
		}
		for (int i = 0; i < SORT_ITEMS; i++)
			sum = sum * 31 + items[i];
	}
	return sum;
}

#define CRC_BYTES 65536
static uint32_t crc_table[256];
static uint8_t crc_data[CRC_BYTES];

uint64_t k_crc(uint64_t n)
{
	seed(2);
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
		crc_table[i] = c;
	}
	for (int i = 0; i < CRC_BYTES; i++)
		crc_data[i] = (uint8_t)(next_random() >> 32);
	uint32_t crc = 0xffffffffu;
	for (uint64_t round = 0; round < n; round++)
		for (int i = 0; i < CRC_BYTES; i++)
			crc = crc_table[(crc ^ crc_data[i]) & 0xff] ^ (crc >> 8);
	return crc ^ 0xffffffffu;
}

#define NODES 16384
static struct node {
	struct node *next;
	uint64_t value;
	uint64_t pad[6];
} nodes[NODES];

uint64_t k_chase(uint64_t n)
{
	seed(3);
	static uint32_t order[NODES];
	for (uint32_t i = 0; i < NODES; i++)
		order[i] = i;
	for (uint32_t i = NODES - 1; i > 0; i--) { // Sattolo: one cycle through all nodes
		uint32_t j = (uint32_t)((next_random() >> 33) % i);
		uint32_t t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < NODES; i++) {
		nodes[order[i]].next = &nodes[order[(i + 1) % NODES]];
		nodes[order[i]].value = next_random();
	}
	uint64_t sum = 0;
	const struct node *at = &nodes[0];
	for (uint64_t i = 0; i < n * NODES; i++) {
		sum += at->value ^ i;
		at = at->next;
	}
	return sum;
}

#define SIDE 48
static int32_t left[SIDE][SIDE], right[SIDE][SIDE], product[SIDE][SIDE];

uint64_t k_imatrix(uint64_t n)
{
	seed(4);
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j++) {
			left[i][j] = (int32_t)(next_random() >> 40);
			right[i][j] = (int32_t)(next_random() >> 40);
		}
	uint64_t sum = 0;
	for (uint64_t round = 0; round < n; round++) {
		for (int i = 0; i < SIDE; i++)
			for (int j = 0; j < SIDE; j++) {
				int32_t s = 0;
				for (int k = 0; k < SIDE; k++)
					s = (int32_t)((uint32_t)s + (uint32_t)left[i][k] * (uint32_t)right[k][j]);
				product[i][j] = s;
			}
		left[round % SIDE][round % 7] ^= product[round % SIDE][round % 11];
		sum += (uint32_t)product[round % SIDE][round % SIDE];
	}
	return sum;
}

uint64_t k_branchy(uint64_t n)
{
	uint64_t sum = 0;
	for (uint64_t start = 1; start <= n * 1000; start++) {
		uint64_t x = start;
		uint64_t length = 0;
		while (x != 1) {
			if (x & 1)
				x = 3 * x + 1;
			else
				x >>= 1;
			length++;
		}
		sum += length * (start & 15);
	}
	return sum;
}

#define CODE_BYTES 4096
static uint8_t bytecode[CODE_BYTES];

uint64_t k_dispatch(uint64_t n)
{
	static const void *const labels[8] = { &&op_add, &&op_xor, &&op_rot, &&op_sub, &&op_mul, &&op_swap, &&op_skip, &&op_or };
	seed(5);
	for (int i = 0; i < CODE_BYTES; i++)
		bytecode[i] = (uint8_t)((next_random() >> 40) & 7);
	uint64_t a = 1, b = 2, rounds = n;
	unsigned pc = 0;
#define NEXT() goto *labels[bytecode[pc++ & (CODE_BYTES - 1)]]
#define COUNTED() do { if ((pc & (CODE_BYTES - 1)) == 0 && rounds-- == 0) return a ^ b; NEXT(); } while (0)
	NEXT();
op_add:
	a += b;
	COUNTED();
op_xor:
	b ^= a >> 3;
	COUNTED();
op_rot:
	a = (a << 7) | (a >> 57);
	COUNTED();
op_sub:
	b -= a;
	COUNTED();
op_mul:
	a *= 0x9e3779b97f4a7c15ull;
	COUNTED();
op_swap : {
	uint64_t t = a;
	a = b;
	b = t;
	COUNTED();
}
op_skip:
	b++;
	COUNTED();
op_or:
	a |= b & 0xff;
	COUNTED();
}

#define COPY_WORDS 4096
static uint64_t source[COPY_WORDS + 64], target[COPY_WORDS + 64];

uint64_t k_memcopy(uint64_t n)
{
	seed(6);
	for (int i = 0; i < COPY_WORDS + 64; i++)
		source[i] = next_random();
	uint64_t sum = 0;
	for (uint64_t round = 0; round < n; round++) {
		const uint64_t *from = source + (round & 63);
		uint64_t *to = target + ((round * 7) & 63);
		for (int i = 0; i < COPY_WORDS; i++) {
			to[i] = from[i];
			__asm__ volatile("" ::: "memory"); // or gcc makes it one call of memcpy
		}
		source[round & 63] += target[(round * 13) & (COPY_WORDS - 1)];
		sum += target[(round * 5) & (COPY_WORDS - 1)];
	}
	return sum;
}

const struct kernel kernels[KERNEL_COUNT] = {
	{ "sort", k_sort, 20 },       { "crc", k_crc, 60 },           { "chase", k_chase, 100 },       { "imatrix", k_imatrix, 200 },
	{ "branchy", k_branchy, 100 }, { "dispatch", k_dispatch, 600 }, { "memcopy", k_memcopy, 8000 },
};
