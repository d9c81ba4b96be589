// Addresses are branded numbers, so that a physical address never goes where a virtual one belongs. A virtual address is the
// sign-extended 48-bit value (negative in the kernel half): exact in a double, no allocation, ordered as the hardware orders it
// within a half. Bitwise operators of JavaScript cut to 32 bits: use the functions here for anything above 4 GiB.
import { assert } from "./assert.ts";

export type Brand<T, B extends string> = T & { readonly __brand: B };

/** Host-physical address in bytes; below 2^52. */
export type PhysAddr = Brand<number, "PhysAddr">;
/** Guest-physical address in bytes; below 2^52. */
export type GuestPhysAddr = Brand<number, "GuestPhysAddr">;
/** Virtual address, canonical, sign-extended from bit 47: -2^47 .. 2^47-1. */
export type VirtAddr = Brand<number, "VirtAddr">;
/** Host page frame number: physical address / 4096. */
export type Pfn = Brand<number, "Pfn">;
/** Guest frame number. */
export type Gfn = Brand<number, "Gfn">;
/** Number of a logical CPU, from 0. */
export type CpuId = Brand<number, "CpuId">;
/** Process-context identifier, 0..4095. */
export type Pcid = Brand<number, "Pcid">;
/**
 * A value of CR3 without its NOFLUSH bit (63): page-table root plus PCID, below 2^52, so that two can be compared with `===`.
 */
export type Cr3 = Brand<number, "Cr3">;
/** Virtual address of a structure `S` in kernel memory, or NULL. */
export type Ptr<S extends string> = VirtAddr & { readonly __target: S };

export const PAGE_SIZE = 4096;
export const LARGE_PAGE_SIZE = 2 ** 21;
export const HUGE_PAGE_SIZE = 2 ** 30;
export const CACHE_LINE_BYTES = 64;

export function physAddr(n: number): PhysAddr {
  assert(Number.isSafeInteger(n) && n >= 0 && n < 2 ** 52, () => `not a physical address: ${n}`);
  return n as PhysAddr;
}

export function guestPhysAddr(n: number): GuestPhysAddr {
  assert(Number.isSafeInteger(n) && n >= 0 && n < 2 ** 52, () => `not a guest-physical address: ${n}`);
  return n as GuestPhysAddr;
}

export function virtAddr(n: number): VirtAddr {
  assert(Number.isInteger(n) && n >= -(2 ** 47) && n < 2 ** 47, () => `not a canonical virtual address: ${n}`);
  return n as VirtAddr;
}

export function cpuId(n: number): CpuId {
  assert(Number.isInteger(n) && n >= 0 && n < 256, () => `not a CPU number: ${n}`);
  return n as CpuId;
}

export function pcid(n: number): Pcid {
  assert(Number.isInteger(n) && n >= 0 && n < 4096, () => `not a PCID: ${n}`);
  return n as Pcid;
}

/** A kernel pointer to structure `S`. NULL is 0. */
export function ptr<S extends string>(n: number): Ptr<S> {
  return virtAddr(n) as Ptr<S>;
}

/** NULL of any pointer type. */
export const NULL = 0 as Ptr<never>;

/** Builds a CR3 value from a page-aligned root and a PCID (kernel: `build_cr3()`). */
export function cr3(root: PhysAddr, id: Pcid): Cr3 {
  assert(root % PAGE_SIZE === 0, () => `CR3 root not page aligned: ${root}`);
  return (root + id) as Cr3;
}

export function cr3Root(value: Cr3): PhysAddr {
  return (Math.floor(value / PAGE_SIZE) * PAGE_SIZE) as PhysAddr; // not %, which is a call in every engine
}

export function cr3Pcid(value: Cr3): Pcid {
  return (value - Math.floor(value / PAGE_SIZE) * PAGE_SIZE) as Pcid;
}

/** `va + bytes`; keeps the brand. Wrapping out of the canonical range is a bug of the caller. */
export function addVirt(va: VirtAddr, bytes: number): VirtAddr {
  return (va + bytes) as VirtAddr;
}

export function addPhys(pa: PhysAddr, bytes: number): PhysAddr {
  return (pa + bytes) as PhysAddr;
}

/** Rounds down to a page boundary (exact for negative and large values alike). */
export function pageDown<T extends number>(address: T): T {
  return (Math.floor(address / PAGE_SIZE) * PAGE_SIZE) as T;
}

export function pageUp<T extends number>(address: T): T {
  return (Math.ceil(address / PAGE_SIZE) * PAGE_SIZE) as T;
}

export function isPageAligned(n: number): boolean {
  return n % PAGE_SIZE === 0;
}

export function pfnOf(pa: PhysAddr): Pfn {
  return Math.floor(pa / PAGE_SIZE) as Pfn;
}

export function pfnToPhys(pfn: Pfn): PhysAddr {
  return (pfn * PAGE_SIZE) as PhysAddr;
}

export function gfnOf(gpa: GuestPhysAddr): Gfn {
  return Math.floor(gpa / PAGE_SIZE) as Gfn;
}

/** True for the kernel half of the address space. */
export function isKernelAddress(va: VirtAddr): boolean {
  return va < 0;
}

/** Low and high 32 bits (unsigned) of a number in -2^53..2^53 as the hardware holds it in 64 bits. */
export function low32(n: number): number {
  return n >>> 0;
}

export function high32(n: number): number {
  return Math.floor(n / 2 ** 32) >>> 0;
}

/** The canonical (sign-extended) number of a 64-bit value given as two halves: exact for addresses and values below 2^53. */
export function fromHalves(low: number, high: number): number {
  return (high | 0) * 2 ** 32 + (low >>> 0);
}

/** The unsigned number of two halves: exact below 2^53. */
export function unsignedFromHalves(low: number, high: number): number {
  return (high >>> 0) * 2 ** 32 + (low >>> 0);
}

/** The usual spelling of an address or 64-bit value: 0xffff888000001000. */
export function hex(value: number): string {
  const low = low32(value).toString(16);
  const high = high32(value);
  return high === 0 ? `0x${low}` : `0x${high.toString(16)}${low.padStart(8, "0")}`;
}
