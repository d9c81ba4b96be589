# The 32 exception entries. Each pushes its number (and a zero where the CPU pushes no error code); the common part records what happened
# and goes on at resume_at, with the stack as it was at the fault.
	.text
	.altmacro
	.macro	entry n
	.align	16
	.if	\n == 8 || (\n >= 10 && \n <= 14) || \n == 17 || \n == 21 || \n == 29 || \n == 30
	.else
	pushq	$0
	.endif
	pushq	$\n
	jmp	common
	.endm

	.globl	exception_entries
	.align	16
exception_entries:
	.set	i, 0
	.rept	32
	entry	%i
	.set	i, i + 1
	.endr

# On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS.
common:
	pushq	%rax
	movq	8(%rsp), %rax
	movq	%rax, last_exception
	movq	16(%rsp), %rax
	movq	%rax, last_exception+8
	movq	24(%rsp), %rax
	movq	%rax, last_exception+16
	movq	%cr2, %rax
	movq	%rax, last_exception+24
	movq	resume_at, %rax
	movq	%rax, 24(%rsp)
	popq	%rax
	addq	$16, %rsp
	iretq
	.section .note.GNU-stack, "", @progbits
