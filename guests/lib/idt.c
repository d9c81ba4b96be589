#include "idt.h"

#define KERNEL_CS 0x08
#define INTERRUPT_GATE 0x8e // present, DPL 0, 64-bit interrupt gate

struct gate {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t ist;
	uint8_t type;
	uint16_t offset_middle;
	uint32_t offset_high;
	uint32_t zero;
};

static struct gate idt[32];
extern char exception_entries[];
volatile struct exception last_exception = { .vector = 256 };
void *volatile resume_at;

void idt_load(void)
{
	for (int i = 0; i < 32; i++) {
		uint64_t entry = (uint64_t)exception_entries + 16 * (uint64_t)i;
		idt[i] = (struct gate){ (uint16_t)entry, KERNEL_CS, 0, INTERRUPT_GATE, (uint16_t)(entry >> 16), (uint32_t)(entry >> 32), 0 };
	}
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) descriptor = { sizeof(idt) - 1, (uint64_t)idt };
	__asm__ volatile("lidt %0" : : "m"(descriptor));
}
