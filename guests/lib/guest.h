// What a guest has instead of an operating system: two ports to write to, one to leave by, and VMCALL. See ../README.md.
#ifndef GUEST_H
#define GUEST_H
#include <stddef.h>
#include <stdint.h>

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4

// Hypercall numbers (Linux: include/uapi/linux/kvm_para.h).
#define KVM_HC_VAPIC_POLL_IRQ 1

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return ((uint64_t)hi << 32) | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

/** One hypercall with one argument: number in RAX, argument in RBX, result in RAX. */
static inline uint64_t hypercall1(uint64_t nr, uint64_t a0)
{
	uint64_t result;
	__asm__ volatile("vmcall" : "=a"(result) : "a"(nr), "b"(a0) : "memory");
	return result;
}

/** Ends the run with `status`. */
_Noreturn void guest_exit(int status);

void put_char(char c);
void put_text(const char *text);
void put_dec(uint64_t value);
/** `digits` hexadecimal digits, no prefix. */
void put_hex(uint64_t value, int digits);

/** The decimal number at the start of `text`, or `otherwise` if there is none. */
uint64_t parse_dec(const char *text, uint64_t otherwise);

/** True if both texts are equal. */
int same_text(const char *a, const char *b);

#endif
