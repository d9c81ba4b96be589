// What a machine needs of a kernel to run it, without importing it: the bytes of its text, where its traps are and what handles
// them, what its stubs do when there are no instructions (abstract machine, meter), and the first function.
import type { PhysAddr, VirtAddr } from "./addresses.ts";
import type { Puppet } from "./puppet.ts";

/** What a stub does, in steps of the seam; takes RDI, RSI, RDX, RCX as numbers, returns RAX. */
export type StubEffect = (a0: number, a1: number, a2: number, a3: number) => number;

/**
 * Machine code of the kernel that matters: `symbol` names it in the image, `effect` does the same in steps (`ret` excepted: the machine
 * returns). Effects reach registers by cpu.readRegister() and cpu.writeRegister().
 *
 * Entry stubs (those the IDT or LSTAR point to, and ret_from_fork) also have an effect. It begins after the hardware's part (frame
 * pushed, or RCX and R11 set) and leaves out swapgs: it saves the registers where the program does and moves RSP, calls the trap's
 * handler, and ends with `return tail()`. `tail` restores the registers from RSP and moves RSP to the hardware's frame, or loads the
 * user's RSP for SYSRETQ; it returns which instruction comes next: LEAVE_IRETQ or LEAVE_SYSRETQ. It stands alone because a path that
 * goes on from a cut point runs it after `resume`.
 */
export interface Stub {
  readonly symbol: string;
  readonly effect: StubEffect;
  readonly tail?: () => number;
}

/** What an entry stub's effect returns: the instruction with which it leaves. */
export const LEAVE_IRETQ = 0;
export const LEAVE_SYSRETQ = 1;

// Stubs whose work is in the structures of the core rather than in memory or registers, known by name to machines without instructions.
/** 32 calls that overwrite the return stack. */
export const STUB_FILL_RETURN_BUFFER = "fill_return_buffer";
/** Reads 64 KiB: what L1D held is gone. */
export const STUB_L1D_FLUSH_SOFTWARE = "l1d_flush_software";
/** VERW with MD_CLEAR: overwrites fill and store buffers. */
export const STUB_CLEAR_CPU_BUFFERS = "clear_cpu_buffers";

export interface KernelImage {
  /** Virtual address of the first byte; `physicalBase` is where it is loaded. */
  readonly base: VirtAddr;
  readonly physicalBase: PhysAddr;
  readonly bytes: Uint8Array;
  readonly symbols: ReadonlyMap<string, VirtAddr>;
  /** Trap instructions by address: the name of the handler. `stub_return` is the seam's own: it ends callStub(). */
  readonly traps: ReadonlyMap<VirtAddr, string>;
  readonly handlers: ReadonlyMap<string, () => void>;
  readonly stubs: ReadonlyMap<string, Stub>;
  /** Functions of the puppets that the kernel may load, by name. */
  readonly puppets: ReadonlyMap<string, Puppet>;
  /** Symbol of the code at which the boot CPU starts (its trap's handler is the kernel's first function). */
  readonly entrySymbol: string;
}

/** The trap that ends a stub call: the machine returns to the kernel function that called the stub. */
export const STUB_RETURN = "stub_return";
