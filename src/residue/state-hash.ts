// A 64-bit hash of a set of items (a place and what it holds), as chess engines keep it: an item that changes is taken out and put in again by
// XOR, so that the hash costs what changes, and equal sets have equal hashes in whatever order they came about. Two 32-bit lanes that are
// mixed independently: two different states have the same hash with a probability of about 2^-64.

const OTHER_HALF = 0x5bd1e995;
const scratch = new Float64Array(1);
const halves = new Int32Array(scratch.buffer);

export class StateHash {
  low = 0;
  high = 0;

  reset(): void {
    this.low = 0;
    this.high = 0;
  }

  /** Puts the item in, or takes it out: the same. Zero is nothing. */
  toggle(place: number, word: number): void {
    if (word === 0) return;
    let a = Math.imul(word, 0x85ebca6b) ^ Math.imul(place, 0x9e3779b1);
    a = Math.imul(a ^ (a >>> 15), 0x2c1b3c6d);
    a = Math.imul(a ^ (a >>> 12), 0x297a2d39);
    let b = Math.imul(place, 0xc2b2ae35) + Math.imul(word, 0x27d4eb2f);
    b = Math.imul(b ^ (b >>> 16), 0x21f0aaad);
    b = Math.imul(b ^ (b >>> 15), 0x735a2d97);
    this.low ^= a ^ (a >>> 15);
    this.high ^= b ^ (b >>> 15);
  }

  /** The same for an item of which each lane has a digest of its own. */
  toggleDigests(low: number, high: number): void {
    this.low ^= low;
    this.high ^= high;
  }

  /** The same for any number. */
  toggleNumber(place: number, value: number): void {
    if (value === 0) return;
    if (value === (value | 0)) {
      this.toggle(place, value);
      return;
    }
    scratch[0] = value;
    this.toggle(place, combine(halves[0] ?? 0, halves[1] ?? 0));
    this.toggle(place ^ OTHER_HALF, combine(halves[1] ?? 0, halves[0] ?? 0));
  }
}

/** One word of two, order told apart. */
export function combine(first: number, second: number): number {
  let h = Math.imul(first ^ (first >>> 16), 0x85ebca6b) + 0x9e3779b9;
  h = Math.imul(h ^ second ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** One word of any number. */
export function wordOf(value: number): number {
  if (value === (value | 0)) return value;
  scratch[0] = value;
  return combine(halves[0] ?? 0, halves[1] ?? 0);
}

/** Another, for the other lane: numbers that the one confuses, this one does not. */
export function otherWordOf(value: number): number {
  if (value === (value | 0)) return value;
  scratch[0] = value;
  return combine((halves[1] ?? 0) ^ OTHER_HALF, halves[0] ?? 0);
}

/** One word of a name; the same in every process. */
export function wordOfText(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return combine(h, text.length);
}
