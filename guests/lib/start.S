# The entry of every guest: the monitor starts it in 64-bit mode with RDI = bytes of guest memory, RSI = command line, and RSP as at a
# call. main's result is the exit status; exit() does not return.
	.section .text.start, "ax"
	.globl	_start
_start:
	xorl	%ebp, %ebp
	subq	$8, %rsp
	call	main
	movl	%eax, %edi
	call	guest_exit
