# Entry of a 64-bit program: argc, argv and envp lie on the stack as the ABI says; main's result is the exit status.
	.globl _start
_start:
	xor %ebp, %ebp
	mov (%rsp), %rdi
	lea 8(%rsp), %rsi
	lea 16(%rsp,%rdi,8), %rdx
	and $-16, %rsp
	call main
	mov %eax, %edi
	mov $231, %eax
	syscall
	hlt

# long syscall6(number, a, b, c, d, e, f)
	.globl syscall6
syscall6:
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	mov %rcx, %rdx
	mov %r8, %r10
	mov %r9, %r8
	mov 8(%rsp), %r9
	syscall
	ret

# int thread_create(int (*run)(void *), void *argument, void *stack_top, int *tid): clone() of a thread that calls run and exits; tid is
# set by the kernel at once and cleared, with a futex wake, at the thread's end.
	.globl thread_create
thread_create:
	sub $16, %rdx
	mov %rdi, (%rdx)
	mov %rsi, 8(%rdx)
	mov $0x350f00, %edi	# VM FS FILES SIGHAND THREAD SYSVSEM PARENT_SETTID CHILD_CLEARTID (and 0x40000)
	mov %rdx, %rsi
	mov %rcx, %rdx
	mov %rcx, %r10
	xor %r8d, %r8d
	mov $56, %eax
	syscall
	test %eax, %eax
	jnz 1f
	xor %ebp, %ebp
	pop %rax
	pop %rdi
	call *%rax
	mov %eax, %edi
	mov $60, %eax
	syscall
	hlt
1:	ret

# What a signal handler returns to.
	.globl restore_rt
restore_rt:
	mov $15, %eax
	syscall
	hlt

	.section .note.GNU-stack,"",@progbits
