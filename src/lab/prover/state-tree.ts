// The states that were found, as a tree: each knows its parent, the event that led to it and its hash, nothing else. A state is reached again by
// executing the events on its way.
import type { EventCode } from "./event-code.ts";

const FIRST_CAPACITY = 1 << 12;
const FIRST_POOL = 1 << 14;

function grown<T extends Int32Array | Uint32Array | Float64Array>(array: T, larger: T): T {
  larger.set(array);
  return larger;
}

export class StateTree {
  /** Number of states; the root is 0. */
  size = 0;
  private parents = new Int32Array(FIRST_CAPACITY);
  private lows = new Int32Array(FIRST_CAPACITY);
  private highs = new Int32Array(FIRST_CAPACITY);
  /** Where the code of the event begins in the pool; that of state n ends where that of n + 1 begins. */
  private starts = new Uint32Array(FIRST_CAPACITY + 1);
  private pool = new Uint32Array(FIRST_POOL);

  /** Bytes of all arrays. */
  get bytes(): number {
    return this.parents.byteLength * 4 + this.pool.byteLength;
  }

  /** Appends a state; the root has parent -1 and no event. @returns its number */
  add(parent: number, event: EventCode, low: number, high: number): number {
    const index = this.size;
    if (index === this.parents.length) this.growStates();
    const start = this.starts[index] ?? 0;
    while (start + event.length > this.pool.length) this.pool = grown(this.pool, new Uint32Array(this.pool.length * 2));
    event.forEach((word, i) => {
      this.pool[start + i] = word;
    });
    this.parents[index] = parent;
    this.lows[index] = low;
    this.highs[index] = high;
    this.starts[index + 1] = start + event.length;
    this.size++;
    return index;
  }

  parent(index: number): number {
    return this.parents[index] ?? -1;
  }

  low(index: number): number {
    return this.lows[index] ?? 0;
  }

  high(index: number): number {
    return this.highs[index] ?? 0;
  }

  event(index: number): EventCode {
    return Array.from(this.pool.subarray(this.starts[index] ?? 0, this.starts[index + 1] ?? 0));
  }

  /** Events from the root to the state. */
  path(index: number): EventCode[] {
    const path: EventCode[] = [];
    for (let at = index; at > 0; at = this.parent(at)) path.push(this.event(at));
    return path.reverse();
  }

  /** For a checkpoint: everything, in a fixed order. */
  save(): readonly Uint8Array[] {
    const { size } = this;
    return [
      this.parents.subarray(0, size),
      this.lows.subarray(0, size),
      this.highs.subarray(0, size),
      this.starts.subarray(0, size + 1),
      this.pool.subarray(0, this.starts[size] ?? 0),
    ].map((array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
  }

  /** Makes the tree of `size` states from what `save()` gave, in one row of bytes. */
  static load(bytes: Uint8Array, size: number): StateTree | undefined {
    const words = new Uint32Array(new Uint8Array(bytes).buffer, 0, Math.floor(bytes.byteLength / 4));
    const fixed = 4 * size + 1;
    if (size < 1 || words.length < fixed || words.length - fixed !== words[fixed - 1]) return undefined;
    const tree = new StateTree();
    const signed = new Int32Array(words.buffer);
    for (let i = 0; i < size; i++) {
      const start = words[3 * size + i] ?? 0;
      const end = words[3 * size + i + 1] ?? 0;
      const parent = signed[i] ?? -1;
      if (end < start || parent >= i || (i > 0 && parent < 0)) return undefined;
      tree.add(parent, Array.from(words.subarray(fixed + start, fixed + end)), signed[size + i] ?? 0, signed[2 * size + i] ?? 0);
    }
    return tree;
  }

  private growStates(): void {
    const capacity = this.parents.length * 2;
    this.parents = grown(this.parents, new Int32Array(capacity));
    this.lows = grown(this.lows, new Int32Array(capacity));
    this.highs = grown(this.highs, new Int32Array(capacity));
    this.starts = grown(this.starts, new Uint32Array(capacity + 1));
  }
}
