// What firmware hands to the kernel, at fixed physical addresses in reserved low memory, and how it starts the other CPUs: the
// multiprocessor wakeup mailbox of ACPI (6.4, 5.2.12.19), which starts them in 64-bit mode.
//
// A CPU starts with paging on (CR3 = `early_top_pgt` of the image), EFER.{SCE,LME,LMA,NXE}, CR0.{PE,WP,PG,NE,ET,MP}, CR4.{PAE,PGE},
// flat 64-bit segments, interrupts off, RIP = the entry, RSP = 0 (the entry code loads its own), RDI = the CPU's number.

/** u64: bytes of RAM, contiguous from physical 0. */
export const BOOT_MEMORY_BYTES = 0x9000;
/** u32: number of logical CPUs. */
export const BOOT_CPUS = 0x9008;
/** u32: length of the command line in bytes, at most 2048. */
export const BOOT_COMMAND_LINE_LENGTH = 0x900c;
/** u64: physical address of the initial RAM disk, page-aligned (boot protocol: ramdisk_image). Meaningless where its length is 0. */
export const BOOT_INITRD = 0x9010;
/** u64: its length in bytes (boot protocol: ramdisk_size). */
export const BOOT_INITRD_BYTES = 0x9018;
/** The command line, ASCII. */
export const BOOT_COMMAND_LINE = 0x9100;
/** Mailbox. u16 at +0: command (1 = wake up; firmware writes 0 when done); u32 at +4: APIC id; u64 at +8: virtual address of the entry. */
export const BOOT_WAKEUP_MAILBOX = 0xa000;
/**
 * Firmware ACPI control structure, with the field that matters: u64 at +24, where the boot CPU goes on after sleep state S3. It is in 64-bit
 * mode then, as a CPU that starts: the address is virtual, as the mailbox's.
 */
export const BOOT_FACS = 0xb000;
export const FACS_WAKING_VECTOR = 24;
/** RAM below this is firmware's: reserved, never allocated, holds no secrets (a zero page-table entry names frame 0). */
export const LOW_MEMORY_RESERVED = 0x100000;
/** Symbol of the page tables in the image with which every CPU starts. */
export const EARLY_PAGE_TABLE_SYMBOL = "early_top_pgt";
