// Integer arithmetic that WebAssembly has no instruction for: 128-bit products and quotients, rotates through carry, double shifts.
// Pure functions over i64; the op table names them.

export function swapBytes16(a: i64): i64 {
  return ((a & 0xff) << 8) | ((a >> 8) & 0xff);
}

export function swapBytes32(a: i64): i64 {
  return bswap<u32>(a as u32) as i64;
}

export function swapBytes64(a: i64): i64 {
  return bswap<u64>(a as u64) as i64;
}

/** XLAT: an address plus an unsigned byte. */
export function addAddress(a: i64, b: i64): i64 {
  return a + b;
}

export function multiplyHighUnsigned(a: i64, b: i64): i64 {
  const al = (a as u64) & 0xffffffff;
  const ah = (a as u64) >> 32;
  const bl = (b as u64) & 0xffffffff;
  const bh = (b as u64) >> 32;
  const low = al * bl;
  const middle = ah * bl + (low >> 32);
  const other = al * bh + (middle & 0xffffffff);
  return (ah * bh + (middle >> 32) + (other >> 32)) as i64;
}

export function multiplyHighSigned(a: i64, b: i64): i64 {
  return multiplyHighUnsigned(a, b) - (a < 0 ? b : 0) - (b < 0 ? a : 0);
}

/** Quotient of high:low by `divisor`; the caller has checked high < divisor, so it fits. */
export function divideUnsigned128(high: i64, low: i64, divisor: i64): i64 {
  if (high === 0) return ((low as u64) / (divisor as u64)) as i64;
  // Schoolbook with 32-bit digits on the normalized divisor (Knuth, TAOCP vol. 2, 4.3.1, algorithm D for two digits).
  const shift = clz<u64>(divisor as u64);
  const d = (divisor as u64) << shift;
  const d1 = d >> 32;
  const d0 = d & 0xffffffff;
  const upper = shift === 0 ? (high as u64) : ((high as u64) << shift) | ((low as u64) >> (64 - shift));
  const lower = (low as u64) << shift;
  const l1 = lower >> 32;
  const l0 = lower & 0xffffffff;
  let q1 = upper / d1;
  let rest = upper - q1 * d1;
  while (q1 >> 32 !== 0 || q1 * d0 > ((rest << 32) | l1)) {
    q1 -= 1;
    rest += d1;
    if (rest >> 32 !== 0) break;
  }
  const next = ((upper << 32) | l1) - q1 * d;
  let q0 = next / d1;
  rest = next - q0 * d1;
  while (q0 >> 32 !== 0 || q0 * d0 > ((rest << 32) | l0)) {
    q0 -= 1;
    rest += d1;
    if (rest >> 32 !== 0) break;
  }
  return ((q1 << 32) + q0) as i64;
}

/** 1 when IDIV of high:low by `divisor` raises #DE: division by zero, or a quotient outside the signed range. */
export function divideSignedOverflows(high: i64, low: i64, divisor: i64): i64 {
  if (divisor === 0) return 1;
  const negative = high < 0 !== divisor < 0;
  const magnitude = (divisor < 0 ? -divisor : divisor) as u64;
  const lowMagnitude = (high < 0 ? -low : low) as u64;
  const highMagnitude = (high < 0 ? ~high + ((low === 0) as i64) : high) as u64;
  if (highMagnitude >= magnitude) return 1;
  const quotient = divideUnsigned128(highMagnitude as i64, lowMagnitude as i64, magnitude as i64) as u64;
  return (quotient > (i64.MAX_VALUE as u64) + (negative as u64)) as i64;
}

/** Quotient of IDIV; the caller has checked that it does not overflow. */
export function divideSigned128(high: i64, low: i64, divisor: i64): i64 {
  const negative = high < 0 !== divisor < 0;
  const lowMagnitude = high < 0 ? -low : low;
  const highMagnitude = high < 0 ? ~high + ((low === 0) as i64) : high;
  const quotient = divideUnsigned128(highMagnitude, lowMagnitude, divisor < 0 ? -divisor : divisor);
  return negative ? -quotient : quotient;
}

/** Signed division that does not trap on the most negative number (32-bit IDIV reports overflow itself). */
export function divideSigned64(a: i64, b: i64): i64 {
  return b === -1 ? -a : a / b;
}

/** RCL by `count` (masked to 5 or 6 bits, not yet modulo width + 1). `a` is zero-extended. */
export function rclResult(width: i64, a: i64, count: i64, carry: i64): i64 {
  let value = a as u64;
  let c = carry as u64;
  const top = (width - 1) as u64;
  for (let n = count % (width + 1); n > 0; n--) {
    const out = (value >> top) & 1;
    value = (value << 1) | c;
    if (width < 64) value &= ((1 as u64) << (width as u64)) - 1;
    c = out;
  }
  return value as i64;
}

export function rclCarry(width: i64, a: i64, count: i64, carry: i64): i64 {
  const n = count % (width + 1);
  if (n === 0) return carry;
  return (((a as u64) >> ((width - n) as u64)) & 1) as i64;
}

export function rcrResult(width: i64, a: i64, count: i64, carry: i64): i64 {
  let value = a as u64;
  let c = carry as u64;
  const top = (width - 1) as u64;
  for (let n = count % (width + 1); n > 0; n--) {
    const out = value & 1;
    value = (value >> 1) | (c << top);
    c = out;
  }
  return value as i64;
}

export function rcrCarry(width: i64, a: i64, count: i64, carry: i64): i64 {
  const n = count % (width + 1);
  if (n === 0) return carry;
  return (((a as u64) >> ((n - 1) as u64)) & 1) as i64;
}

/** SHLD: `a` and `filler` are zero-extended. 16-bit counts above 16 are undefined: the filler is rotated in, as AMD and Intel parts do. */
export function shldResult(width: i64, a: i64, filler: i64, count: i64): i64 {
  if (count === 0) return a;
  if (width === 64) return (((a as u64) << (count as u64)) | ((filler as u64) >> ((64 - count) as u64))) as i64;
  if (count > width) return shldResult(width, filler, a, count - width);
  return (a << count) | (((filler as u64) >> ((width - count) as u64)) as i64);
}

export function shldCarry(width: i64, a: i64, filler: i64, count: i64): i64 {
  if (count === 0) return 0;
  if (count > width) return (((filler as u64) >> ((2 * width - count) as u64)) & 1) as i64;
  return (((a as u64) >> ((width - count) as u64)) & 1) as i64;
}

export function shrdResult(width: i64, a: i64, filler: i64, count: i64): i64 {
  if (count === 0) return a;
  if (width === 64) return (((a as u64) >> (count as u64)) | ((filler as u64) << ((64 - count) as u64))) as i64;
  if (count > width) return shrdResult(width, filler, a, count - width);
  return (((a as u64) >> (count as u64)) as i64) | (filler << (width - count));
}

export function shrdCarry(width: i64, a: i64, filler: i64, count: i64): i64 {
  if (count === 0) return 0;
  if (count > width) return (((filler as u64) >> ((count - width - 1) as u64)) & 1) as i64;
  return (((a as u64) >> ((count - 1) as u64)) & 1) as i64;
}
