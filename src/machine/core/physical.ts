// Simulated physical memory as the MMU reaches it. Addresses beyond the installed memory read as all ones and swallow writes, as an
// unclaimed bus does.
import { BOUNCE_REGION, PHYSICAL_REGION, SHARED_PHYSICAL_BYTES } from "./layout.gen.ts";

// @inline
export function isInstalled(pa: u64): bool {
  return pa < load<u64>(SHARED_PHYSICAL_BYTES);
}

/** Host address of a physical address that is installed. */
// @inline
export function hostOf(pa: u64): u32 {
  return PHYSICAL_REGION + (pa as u32);
}

/** Physical address of a host address inside physical memory. */
// @inline
export function physicalOf(host: u32): u64 {
  return (host - PHYSICAL_REGION) as u64;
}

// @inline
export function readPhysical64(pa: u64): u64 {
  return isInstalled(pa) ? load<u64>(hostOf(pa)) : u64.MAX_VALUE;
}

/** Sets bits of an 8-byte entry (accessed, dirty). */
export function orPhysical64(pa: u64, bits: u64): void {
  if (isInstalled(pa)) store<u64>(hostOf(pa), load<u64>(hostOf(pa)) | bits);
}

/** True for host addresses of the bounce page, which stand for no physical address. */
// @inline
export function isBounce(host: u32): bool {
  return host - BOUNCE_REGION < 4096;
}
