// The states that were seen, by 64-bit hashes in an open-addressing table: hash compaction. Two states that share a hash are taken for one,
// with the probability that `collisionProbability` states.
const EMPTY = 0;
const FIRST_CAPACITY = 1 << 12;
/** Of the slots, at most this share is in use. */
const LOAD = 0.6;
const HASH_BITS = 64;
const BYTES_PER_SLOT = 8;

export class Visited {
  private low = new Int32Array(FIRST_CAPACITY);
  private high = new Int32Array(FIRST_CAPACITY);
  private hasZero = false;
  size = 0;

  /** Bytes of the table. */
  get bytes(): number {
    return this.low.length * BYTES_PER_SLOT;
  }

  has(low: number, high: number): boolean {
    if (low === EMPTY && high === EMPTY) return this.hasZero;
    return this.slotOf(low, high) >= 0;
  }

  /** @returns true when the state was not there before. */
  add(low: number, high: number): boolean {
    if (low === EMPTY && high === EMPTY) {
      if (this.hasZero) return false;
      this.hasZero = true;
      this.size++;
      return true;
    }
    const slot = this.slotOf(low, high);
    if (slot >= 0) return false;
    this.low[~slot] = low;
    this.high[~slot] = high;
    this.size++;
    if (this.size > this.low.length * LOAD) this.grow();
    return true;
  }

  clear(): void {
    this.low.fill(EMPTY);
    this.high.fill(EMPTY);
    this.hasZero = false;
    this.size = 0;
  }

  /** Its slot, or the complement of the free slot where it would stand. */
  private slotOf(low: number, high: number): number {
    const mask = this.low.length - 1;
    for (let slot = (low ^ Math.imul(high, 0x9e3779b1)) & mask; ; slot = (slot + 1) & mask) {
      const l = this.low[slot];
      const h = this.high[slot];
      if (l === low && h === high) return slot;
      if (l === EMPTY && h === EMPTY) return ~slot;
    }
  }

  private grow(): void {
    const { low, high } = this;
    this.low = new Int32Array(low.length * 2);
    this.high = new Int32Array(low.length * 2);
    for (let i = 0; i < low.length; i++) {
      const l = low[i] ?? 0;
      const h = high[i] ?? 0;
      if (l === EMPTY && h === EMPTY) continue;
      const slot = ~this.slotOf(l, h);
      this.low[slot] = l;
      this.high[slot] = h;
    }
  }
}

/** Probability that among `states` different states any two share a hash: below n^2 / 2^65. */
export function collisionProbability(states: number): number {
  return Math.min(1, (states * states) / 2 ** (HASH_BITS + 1));
}
