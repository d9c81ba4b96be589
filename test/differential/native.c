// Runs instruction sequences on the processor it is started on. Records come on standard input, results go to standard output, both
// in the format of native.ts. Code, data and context lie at fixed low addresses, so that a case needs no relocation; a case ends by a
// jump to `finish`, or by a signal, which is the fault it raised.
//
//   gcc -O2 -o native test/differential/native.c
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

// Must equal the constants in case.ts.
#define CODE_BASE 0x100000ul
#define CODE_BYTES 0x2000
#define DATA_BASE 0x200000ul
#define DATA_BYTES 0x2000
#define HOT_OFFSET 0xc00
#define HOT_BYTES 0x800
#define GS_BASE 0x40ul
#define CODE_MAX 248
#define CONTEXT_BASE 0x300000ul

#define NO_FAULT 0xff
#define TIMEOUT 0xfe

struct input {
	uint16_t code_offset;
	uint8_t code_bytes;
	uint8_t reserved[5];
	uint8_t code[CODE_MAX];
	uint64_t registers[16];
	uint64_t flags;
	uint8_t hot[HOT_BYTES];
};

// At CONTEXT_BASE, reached by absolute addresses from code that has no register to spare.
struct context {
	uint64_t registers[16]; // 0x000
	uint64_t flags;         // 0x080
	uint64_t host_rsp;      // 0x088
	uint64_t entry;         // 0x090
	uint64_t rip;           // 0x098
	uint64_t outcome;       // 0x0a0
	uint64_t error_code;    // 0x0a8
	uint64_t cr2;           // 0x0b0
};
static struct context *const context = (struct context *)CONTEXT_BASE;

void run_case(void);
extern char finish[], resume_host[];

__asm__(
	".text\n"
	".globl run_case\n"
	"run_case:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rsp, 0x300088\n"
	"	pushq 0x300080; popfq\n"
	"	mov 0x300000, %rax; mov 0x300008, %rcx; mov 0x300010, %rdx; mov 0x300018, %rbx\n"
	"	mov 0x300028, %rbp; mov 0x300030, %rsi; mov 0x300038, %rdi\n"
	"	mov 0x300040, %r8; mov 0x300048, %r9; mov 0x300050, %r10; mov 0x300058, %r11\n"
	"	mov 0x300060, %r12; mov 0x300068, %r13; mov 0x300070, %r14; mov 0x300078, %r15\n"
	"	mov 0x300020, %rsp\n"
	"	jmp *0x300090\n"
	".globl finish\n"
	"finish:\n"
	"	mov %rax, 0x300000; mov %rcx, 0x300008; mov %rdx, 0x300010; mov %rbx, 0x300018\n"
	"	mov %rsp, 0x300020; mov %rbp, 0x300028; mov %rsi, 0x300030; mov %rdi, 0x300038\n"
	"	mov %r8, 0x300040; mov %r9, 0x300048; mov %r10, 0x300050; mov %r11, 0x300058\n"
	"	mov %r12, 0x300060; mov %r13, 0x300068; mov %r14, 0x300070; mov %r15, 0x300078\n"
	"	mov 0x300088, %rsp\n"
	"	pushfq; popq 0x300080\n"
	".globl resume_host\n"
	"resume_host:\n"
	"	cld\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

static const int greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				 REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

static void on_fault(int number, siginfo_t *info, void *opaque)
{
	ucontext_t *u = opaque;
	(void)info;
	for (int i = 0; i < 16; i++)
		context->registers[i] = (uint64_t)u->uc_mcontext.gregs[greg_of[i]];
	context->flags = (uint64_t)u->uc_mcontext.gregs[REG_EFL];
	context->rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
	context->outcome = number == SIGALRM ? TIMEOUT : (uint64_t)u->uc_mcontext.gregs[REG_TRAPNO];
	context->error_code = (uint64_t)u->uc_mcontext.gregs[REG_ERR];
	context->cr2 = (uint64_t)u->uc_mcontext.gregs[REG_CR2];
	u->uc_mcontext.gregs[REG_RIP] = (greg_t)resume_host;
	u->uc_mcontext.gregs[REG_RSP] = (greg_t)context->host_rsp;
	u->uc_mcontext.gregs[REG_EFL] = 0x202;
}

static void map(uint64_t base, size_t bytes, int protection)
{
	if (mmap((void *)base, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)base) {
		perror("native: mmap");
		exit(1);
	}
}

static void put(const void *data, size_t bytes) { fwrite(data, 1, bytes, stdout); }

/** What differs between data memory and what the case was given, as runs of {u16 offset, u8 length, bytes}. */
static void put_changes(const uint8_t *before)
{
	static uint8_t runs[DATA_BYTES * 4];
	const uint8_t *after = (const uint8_t *)DATA_BASE;
	size_t used = 0;
	uint16_t count = 0;
	for (int i = 0; i < DATA_BYTES;) {
		if (after[i] == before[i]) {
			i++;
			continue;
		}
		int n = 1;
		while (n < 255 && i + n < DATA_BYTES && after[i + n] != before[i + n])
			n++;
		uint16_t offset = (uint16_t)i;
		memcpy(runs + used, &offset, 2);
		runs[used + 2] = (uint8_t)n;
		memcpy(runs + used + 3, after + i, (size_t)n);
		used += 3 + (size_t)n;
		count++;
		i += n;
	}
	put(&count, 2);
	put(runs, used);
}

static void run(const struct input *in)
{
	static uint8_t before[DATA_BYTES];
	uint8_t *code = (uint8_t *)CODE_BASE + in->code_offset;
	// jmp *0(%rip), then the address: ends the case without touching a register or a flag.
	static const uint8_t leave[6] = { 0xff, 0x25, 0, 0, 0, 0 };
	uint64_t target = (uint64_t)finish;
	memcpy(code, in->code, in->code_bytes);
	memcpy(code + in->code_bytes, leave, 6);
	memcpy(code + in->code_bytes + 6, &target, 8);
	memset(before, 0, sizeof(before));
	memcpy(before + HOT_OFFSET, in->hot, HOT_BYTES);
	memcpy((void *)DATA_BASE, before, DATA_BYTES);
	memcpy(context->registers, in->registers, sizeof(in->registers));
	context->flags = in->flags;
	context->entry = (uint64_t)code;
	context->rip = 0;
	context->outcome = NO_FAULT;
	context->error_code = 0;
	context->cr2 = 0;
	struct itimerval limit = { { 0, 0 }, { 1, 0 } };
	setitimer(ITIMER_REAL, &limit, NULL);
	run_case();
	uint8_t outcome = (uint8_t)context->outcome;
	put(&outcome, 1);
	put(&context->rip, 8);
	put(&context->error_code, 8);
	put(&context->cr2, 8);
	put(context->registers, sizeof(context->registers));
	put(&context->flags, 8);
	put_changes(before);
}

/** The processor's name, 64 bytes, zero-padded: the first thing written. */
static void put_processor(void)
{
	uint32_t name[16] = { 0 };
	for (uint32_t i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &name[4 * i], &name[4 * i + 1], &name[4 * i + 2], &name[4 * i + 3]);
	uint32_t a = 0, b, c, d;
	__get_cpuid(1, &a, &b, &c, &d);
	char text[64] = { 0 };
	snprintf(text, sizeof(text), "%.40s (CPUID.1.EAX %08x)", (char *)name, a);
	put(text, sizeof(text));
}

int main(void)
{
	static struct input in;
	static uint8_t alternate[65536];
	map(CODE_BASE, CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC);
	map(DATA_BASE, DATA_BYTES, PROT_READ | PROT_WRITE);
	map(CONTEXT_BASE, 4096, PROT_READ | PROT_WRITE);
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
	sigaltstack(&stack, NULL);
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM };
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
	syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE);
	put_processor();
	while (fread(&in, sizeof(in), 1, stdin) == 1)
		run(&in);
	return 0;
}
