// What a machine needs of a kernel to run it, without importing it: the bytes of its text, where its traps are and what handles
// them, what its stubs do when there are no instructions (abstract machine, meter), and the first function.
import type { PhysAddr, VirtAddr } from "./addresses.ts";
import type { Puppet } from "./puppet.ts";

/** What a stub does, in steps of the seam; takes RDI, RSI, RDX, RCX as numbers, returns RAX. */
export type StubEffect = (a0: number, a1: number, a2: number, a3: number) => number;

/**
 * Machine code of the kernel that matters: `symbol` names it in the image, `effect` does the same in steps. Entry stubs (those the
 * IDT or LSTAR point to) also have an effect: it saves the registers where the program does, calls the trap's handler, restores.
 */
export interface Stub {
  readonly symbol: string;
  readonly effect: StubEffect;
}

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
