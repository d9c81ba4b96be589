// The source of every choice of the harness: the same seed gives the same cases on any host. (mulberry32, by Tommy Ettinger: 32 bits of
// state, passes gjrand; quality beyond that is not needed here.)

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 .. 2^32-1 */
  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** 0 .. n-1 */
  below(n: number): number {
    return this.u32() % n;
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(list: readonly T[]): T {
    const found = list[this.below(list.length)];
    if (found === undefined) throw new RangeError("nothing to pick from");
    return found;
  }
}

/** A seed for case `index` of a run: neighbours share nothing. */
export function caseSeed(runSeed: number, index: number): number {
  return new Random((Math.imul(runSeed, 0x9e3779b1) ^ index) >>> 0).u32();
}
