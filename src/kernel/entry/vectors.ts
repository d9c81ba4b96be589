// Interrupt vectors and segment selectors. Only constants.

/** Kernel: asm/irq_vectors.h. */
export const SPURIOUS_APIC_VECTOR = 0xff;
export const RESCHEDULE_VECTOR = 0xfd;
export const CALL_FUNCTION_VECTOR = 0xfc;
export const REBOOT_VECTOR = 0xf8;
export const LOCAL_TIMER_VECTOR = 0xec;
export const IRQ_WORK_VECTOR = 0xf6;
export const IA32_SYSCALL_VECTOR = 0x80;

/** Selectors of the GDT. Kernel: asm/segment.h. */
export const __KERNEL32_CS = 0x08;
export const __KERNEL_CS = 0x10;
export const __KERNEL_DS = 0x18;
export const __USER32_CS = 0x23;
export const __USER_DS = 0x2b;
export const __USER_CS = 0x33;
export const GDT_ENTRY_TSS = 0x40;
/** Two slots: a descriptor of the LDT is 16 bytes. */
export const GDT_ENTRY_LDT = 0x50;
/** Three slots for 32-bit thread-local storage. */
export const GDT_ENTRY_TLS_MIN = 0x60;

/** Interrupt stacks of the TSS (from 1). */
export const IST_INDEX_DF = 1;
export const IST_INDEX_NMI = 2;
export const IST_INDEX_DB = 3;
export const IST_INDEX_MCE = 4;
