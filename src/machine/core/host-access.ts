// Kernel memory as TypeScript kernel code reaches it: supervisor accesses with the current CR3, through the same MMU and soft TLB as
// instructions. Addresses come as f64 (a sign-extended 48-bit number), because a BigInt at the boundary costs four times as much.
// An access that fails sets ACCESS_STATUS to 1 and returns 0; the host clears it. The common case is one compare and one load.
import { hostGeneration } from "./context.ts";
import { BOUNCE_REGION, CPU_ACCESS_HIGH, CPU_ACCESS_STATUS, CPU_CONTEXT_BASE, SOFT_ADDEND, SOFT_READ, SOFT_WRITE } from "./layout.gen.ts";
import { commitBounceAs, findForRead, slowReadForWriteAs, softEntry } from "./memory.ts";
import { portHostAccess } from "./port.gen.ts";

/** Host address to read from; 0 with ACCESS_STATUS set. */
// @inline
function forRead(va: i64, bytes: u32): u32 {
  const entry = softEntry(va);
  const page = ((va + (bytes as i64) - 1) & ~0xfff) as u64;
  // Kernel addresses never need SMAP lifted, so their generation is the plain supervisor one.
  if (va < 0 && load<u64>(entry, SOFT_READ) === (page | (load<u32>(CPU_CONTEXT_BASE) as u64)))
    return (va as u32) + load<u32>(entry, SOFT_ADDEND);
  const host = findForRead(va, bytes, hostGeneration(va));
  if (host === 0) store<u32>(CPU_ACCESS_STATUS, 1);
  return host;
}

/** Host address for a read-modify-write; 0 with ACCESS_STATUS set. */
// @inline
function forWrite(va: i64, bytes: u32): u32 {
  const entry = softEntry(va);
  const page = ((va + (bytes as i64) - 1) & ~0xfff) as u64;
  if (va < 0 && load<u64>(entry, SOFT_WRITE) === (page | (load<u32>(CPU_CONTEXT_BASE) as u64)))
    return (va as u32) + load<u32>(entry, SOFT_ADDEND);
  const host = slowReadForWriteAs(va, bytes, hostGeneration(va));
  if (host === 0) store<u32>(CPU_ACCESS_STATUS, 1);
  return host;
}

// @inline
function settle(host: u32, va: i64, bytes: u32): void {
  if (host === BOUNCE_REGION) commitBounceAs(va, bytes, hostGeneration(va));
}

export function load8(address: f64): u32 {
  const host = forRead(address as i64, 1);
  if (host === 0) return 0;
  portHostAccess(host, 1, false);
  return load<u8>(host);
}

export function load16(address: f64): u32 {
  const host = forRead(address as i64, 2);
  if (host === 0) return 0;
  portHostAccess(host, 2, false);
  return load<u16>(host);
}

export function load32(address: f64): u32 {
  const host = forRead(address as i64, 4);
  if (host === 0) return 0;
  portHostAccess(host, 4, false);
  return load<u32>(host);
}

/** Low half; the high one is in ACCESS_HIGH. */
export function load64(address: f64): u32 {
  const host = forRead(address as i64, 8);
  if (host === 0) return 0;
  portHostAccess(host, 8, false);
  store<u32>(CPU_ACCESS_HIGH, load<u32>(host, 4));
  return load<u32>(host);
}

/** The 64-bit value as a signed number: exact for pointers and whatever else is below 2^53. */
export function loadNumber(address: f64): f64 {
  const host = forRead(address as i64, 8);
  if (host === 0) return 0;
  portHostAccess(host, 8, false);
  return load<i64>(host) as f64;
}

// @inline
function storeBytes(address: f64, bytes: u32, value: i64): void {
  const va = address as i64;
  const host = forWrite(va, bytes);
  if (host === 0) return;
  portHostAccess(host, bytes, true);
  switch (bytes) {
    case 1:
      store<u8>(host, value as u8);
      break;
    case 2:
      store<u16>(host, value as u16);
      break;
    case 4:
      store<u32>(host, value as u32);
      break;
    default:
      store<i64>(host, value);
      break;
  }
  settle(host, va, bytes);
}

export function store8(address: f64, value: u32): void {
  storeBytes(address, 1, value as i64);
}

export function store16(address: f64, value: u32): void {
  storeBytes(address, 2, value as i64);
}

export function store32(address: f64, value: u32): void {
  storeBytes(address, 4, value as i64);
}

export function store64(address: f64, low: u32, high: u32): void {
  storeBytes(address, 8, (low as i64) | ((high as i64) << 32));
}

export function storeNumber(address: f64, value: f64): void {
  storeBytes(address, 8, value as i64);
}

/** Read-modify-write in one instruction: 0 add, 1 or, 2 and, 3 exchange, 4 xor. */
function combine(op: i32, old: u64, operand: u64): u64 {
  switch (op) {
    case 0:
      return old + operand;
    case 1:
      return old | operand;
    case 2:
      return old & operand;
    case 3:
      return operand;
    default:
      return old ^ operand;
  }
}

/** Returns the old value. */
export function rmw8(op: i32, address: f64, operand: u32): u32 {
  const va = address as i64;
  const host = forWrite(va, 1);
  if (host === 0) return 0;
  portHostAccess(host, 1, true);
  const old = load<u8>(host);
  store<u8>(host, combine(op, old as u64, operand as u64) as u8);
  settle(host, va, 1);
  return old;
}

export function rmw16(op: i32, address: f64, operand: u32): u32 {
  const va = address as i64;
  const host = forWrite(va, 2);
  if (host === 0) return 0;
  portHostAccess(host, 2, true);
  const old = load<u16>(host);
  store<u16>(host, combine(op, old as u64, operand as u64) as u16);
  settle(host, va, 2);
  return old;
}

export function rmw32(op: i32, address: f64, operand: u32): u32 {
  const va = address as i64;
  const host = forWrite(va, 4);
  if (host === 0) return 0;
  portHostAccess(host, 4, true);
  const old = load<u32>(host);
  store<u32>(host, combine(op, old as u64, operand as u64) as u32);
  settle(host, va, 4);
  return old;
}

/** Returns the low half of the old value; the high one is in ACCESS_HIGH. */
export function rmw64(op: i32, address: f64, low: u32, high: u32): u32 {
  const va = address as i64;
  const host = forWrite(va, 8);
  if (host === 0) return 0;
  portHostAccess(host, 8, true);
  const old = load<u64>(host);
  store<u64>(host, combine(op, old, (low as u64) | ((high as u64) << 32)));
  store<u32>(CPU_ACCESS_HIGH, (old >> 32) as u32);
  settle(host, va, 8);
  return old as u32;
}

/** As rmw64, for values that are numbers: addition and exchange. Returns the old value. */
export function rmwNumber(op: i32, address: f64, operand: f64): f64 {
  const va = address as i64;
  const host = forWrite(va, 8);
  if (host === 0) return 0;
  portHostAccess(host, 8, true);
  const old = load<i64>(host);
  store<u64>(host, combine(op, old as u64, operand as i64 as u64));
  settle(host, va, 8);
  return old as f64;
}

/** Returns the old value; the exchange happened when it equals `expected`. */
export function compareExchange32(address: f64, expected: u32, replacement: u32): u32 {
  const va = address as i64;
  const host = forWrite(va, 4);
  if (host === 0) return 0;
  portHostAccess(host, 4, true);
  const old = load<u32>(host);
  if (old === expected) store<u32>(host, replacement);
  settle(host, va, 4);
  return old;
}

export function compareExchangeNumber(address: f64, expected: f64, replacement: f64): f64 {
  const va = address as i64;
  const host = forWrite(va, 8);
  if (host === 0) return 0;
  portHostAccess(host, 8, true);
  const old = load<i64>(host);
  if (old === (expected as i64)) store<i64>(host, replacement as i64);
  settle(host, va, 8);
  return old as f64;
}

/** Low half of the old value; the high one is in ACCESS_HIGH. */
export function compareExchange64(address: f64, expectedLow: u32, expectedHigh: u32, low: u32, high: u32): u32 {
  const va = address as i64;
  const host = forWrite(va, 8);
  if (host === 0) return 0;
  portHostAccess(host, 8, true);
  const old = load<u64>(host);
  if (old === ((expectedLow as u64) | ((expectedHigh as u64) << 32))) store<u64>(host, (low as u64) | ((high as u64) << 32));
  store<u32>(CPU_ACCESS_HIGH, (old >> 32) as u32);
  settle(host, va, 8);
  return old as u32;
}
