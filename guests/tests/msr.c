// Reads and writes the MSRs that a 64-bit guest uses, and reports those that do not hold what was written.
#include "../lib/guest.h"

// SDM volume 4, chapter 2.
#define MSR_EFER 0xc0000080
#define MSR_LSTAR 0xc0000082
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103
#define EFER_LME_LMA 0x500

static int check(const char *name, uint32_t msr, uint64_t value)
{
	wrmsr(msr, value);
	uint64_t got = rdmsr(msr);
	if (got == value)
		return 0;
	put_text(name);
	put_text(" holds ");
	put_hex(got, 16);
	put_text(", written was ");
	put_hex(value, 16);
	put_char('\n');
	return 1;
}

int main(void)
{
	int wrong = 0;
	wrong += (rdmsr(MSR_EFER) & EFER_LME_LMA) != EFER_LME_LMA;
	wrong += check("LSTAR", MSR_LSTAR, 0xffffffff81000000);
	wrong += check("FS_BASE", MSR_FS_BASE, 0x1234567000);
	wrong += check("GS_BASE", MSR_GS_BASE, 0xffff888000001000);
	wrong += check("KERNEL_GS_BASE", MSR_KERNEL_GS_BASE, 0x7fffffff0000);
	wrong += check("TSC_AUX", MSR_TSC_AUX, 3);
	__asm__ volatile("swapgs");
	wrong += rdmsr(MSR_GS_BASE) != 0x7fffffff0000;
	wrong += rdmsr(MSR_KERNEL_GS_BASE) != 0xffff888000001000;
	uint32_t aux;
	__asm__ volatile("rdtscp" : "=c"(aux) : : "rax", "rdx");
	wrong += aux != 3;
	put_text(wrong ? "msr: wrong\n" : "msr: all as written\n");
	return wrong != 0;
}
