// Where the stacks of returns to 16-bit stack segments are. IRET to such a segment restores 16 bits of RSP; the upper ones stay what they
// were in the kernel, and user code sees bits 31:16. So that it sees its own, the return is made from a stack whose address has the user's
// bits there: every address of the area whose bits 15:0 are the CPU's slot shows the same 64 bytes, read-only. Kernel: espfix_64.c.
import { PAGE_SIZE, perCpu, type VirtAddr, virtual } from "../../hardware/index.ts";

/** Kernel: ESPFIX_BASE_ADDR, 0xffffff0000000000: a root entry of its own. */
export const ESPFIX_BASE_ADDR = -0x0100_0000_0000 as VirtAddr;
/** An address of the area, shifted right so far, has this value. */
export const ESPFIX_TOP_SHIFT = 39;
export const ESPFIX_TOP_BITS = -2;
/** Kernel: ESPFIX_STACK_SIZE. Room for one register and the frame of IRET. */
export const ESPFIX_STACK_BYTES = 64;
export const ESPFIX_STACKS_PER_PAGE = PAGE_SIZE / ESPFIX_STACK_BYTES;

/** Address of this CPU's stack in the area, with zeroes in bits 31:16 (kernel: espfix_stack). */
export const espfixStack = perCpu("espfix_stack", virtual);
/** The same bytes, writable (kernel: espfix_waddr). */
export const espfixWaddr = perCpu("espfix_waddr", virtual);

/** True for an address of the area. */
export function isEspfixAddress(address: number): boolean {
  return Math.floor(address / 2 ** ESPFIX_TOP_SHIFT) === ESPFIX_TOP_BITS;
}
