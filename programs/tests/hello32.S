# A 32-bit program: write and exit through INT 0x80, then through SYSENTER as the vDSO would (AT_SYSINFO is not needed: the kernel returns
# to its own landing pad, so the second call is INT 0x80 too where the CPU has none).
	.code32
	.globl _start
_start:
	mov $4, %eax
	mov $1, %ebx
	mov $text, %ecx
	mov $text_end - text, %edx
	int $0x80
	cmp $text_end - text, %eax
	jne bad
	mov $9999, %eax
	int $0x80
	cmp $-38, %eax
	jne bad
	mov $1, %eax
	mov $32, %ebx
	int $0x80
bad:
	mov $1, %eax
	mov $1, %ebx
	int $0x80
	hlt
	.data
text:	.ascii "hello from 32-bit code\n"
text_end:
	.section .note.GNU-stack,"",@progbits
