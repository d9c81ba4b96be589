// How the abstract machine goes back: every change of its state leaves here what was there before, words of memory and of registers as
// pairs, everything else by the object that knows how to put it back. Going back costs what going forward changed. Nothing is kept
// while there is no mark to go back to.
import { assert } from "../hardware/index.ts";

/** State that is no word: it puts back what it told the log. */
export interface Undoable {
  undo(key: number, old: unknown): void;
}

/** In the place of a slot: the change is the newest of `targets`. */
const OBJECT = -1;
/** Slots below this are the kinds (`unhashed`) of words, from the other end. */
const FIRST_KIND = -2;

export class UndoLog {
  /** Changes whenever there is a new mark or the state has gone back: what was told to the log before counts no more as told. */
  epoch = 0;
  /** There is a mark. */
  isKept = false;
  length = 0;
  private pairs = new Int32Array(1 << 16);
  private readonly targets: Undoable[] = [];
  private readonly keys: number[] = [];
  private readonly olds: unknown[] = [];

  /** `words[slot]` was `old`. */
  word(slot: number, old: number): void {
    if (!this.isKept) return;
    this.push(slot, old);
  }

  /** The kind of the word at `slot` was `old`. */
  kind(slot: number, old: number): void {
    if (this.isKept) this.push(FIRST_KIND - slot, old);
  }

  /** `target.undo(key, old)` puts the state back. */
  object(target: Undoable, key: number, old: unknown): void {
    if (!this.isKept) return;
    this.push(OBJECT, 0);
    this.targets.push(target);
    this.keys.push(key);
    this.olds.push(old);
  }

  /** Undoes everything since `length` was `position`. */
  goBackTo(position: number, words: Int32Array, kinds: Uint8Array): void {
    assert(position <= this.length, () => "a mark of the undo log that lies ahead");
    const { pairs } = this;
    for (let at = this.length - 2; at >= position; at -= 2) {
      const slot = pairs[at] ?? 0;
      if (slot >= 0) words[slot] = pairs[at + 1] ?? 0;
      else if (slot === OBJECT) this.undoObject();
      else {
        const word = FIRST_KIND - slot;
        kinds[word] = ((kinds[word] ?? 0) & ~1) | (pairs[at + 1] ?? 0);
      }
    }
    this.length = position;
    this.epoch++;
  }

  /** Forgets everything. */
  clear(): void {
    this.length = 0;
    this.targets.length = 0;
    this.keys.length = 0;
    this.olds.length = 0;
    this.isKept = false;
    this.epoch++;
  }

  private undoObject(): void {
    const target = this.targets.pop();
    const key = this.keys.pop();
    const old = this.olds.pop();
    assert(target !== undefined && key !== undefined, () => "the undo log lost an object");
    target.undo(key, old);
  }

  private push(slot: number, old: number): void {
    if (this.length + 2 > this.pairs.length) {
      const larger = new Int32Array(this.pairs.length * 2);
      larger.set(this.pairs);
      this.pairs = larger;
    }
    this.pairs[this.length++] = slot;
    this.pairs[this.length++] = old;
  }
}
