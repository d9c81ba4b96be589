// Physical memory that can go back. While tracking is on, every write appends the old word to an undo log and changes a 64-bit hash by
// the difference, as chess engines do: going back costs what going forward did, and the hash of the state is always at hand. What each
// frame holds (ground truth, beside memory) is kept, undone and hashed in the same way.
import { assert, OWNER_NONE, type Owner, PAGE_SIZE, type Pfn, type PhysAddr, PhysicalMemory } from "../hardware/index.ts";

/** A position in the undo log, with the hash that belongs to it. */
export interface MemoryMark {
  readonly length: number;
  readonly low: number;
  readonly high: number;
}

export class TrackedMemory extends PhysicalMemory {
  private readonly words: Int32Array;
  /** Owner label of each frame. */
  private readonly frames: Int32Array;
  /** When each frame last changed hands, in changes of any frame: tells a reused frame from what it was. */
  private readonly changed: Int32Array;
  /** Ownership changes so far; never goes back. */
  changes = 0;
  private tracking = false;
  // Pairs (slot, old word); slots beyond the words of memory are frames' labels and times of change.
  private undo = new Int32Array(1 << 16);
  private length = 0;
  private low = 0;
  private high = 0;

  constructor(bytes: number) {
    assert(bytes % PAGE_SIZE === 0 && bytes < 2 ** 32, () => `not a memory size for the abstract machine: ${bytes}`);
    const buffer = new ArrayBuffer(bytes);
    super(new Uint8Array(buffer));
    this.words = new Int32Array(buffer);
    this.frames = new Int32Array(bytes / PAGE_SIZE);
    this.changed = new Int32Array(bytes / PAGE_SIZE);
  }

  /** Starts hashing and undoing from the present contents. */
  startTracking(): void {
    this.tracking = true;
    this.length = 0;
    this.low = 0;
    this.high = 0;
    for (let slot = 0; slot < this.words.length; slot++) {
      const word = this.words[slot] ?? 0;
      if (word !== 0) this.mixIn(slot, word);
    }
    for (let pfn = 0; pfn < this.frames.length; pfn++) {
      const label = this.frames[pfn] ?? 0;
      if (label !== 0) this.mixIn(this.words.length + pfn, label);
    }
  }

  /** The hash of memory and labels, as 16 hex digits; equal contents have equal hashes. Only while tracking. */
  hash(): string {
    assert(this.tracking, () => "memory is not tracked");
    return (this.high >>> 0).toString(16).padStart(8, "0") + (this.low >>> 0).toString(16).padStart(8, "0");
  }

  mark(): MemoryMark {
    assert(this.tracking, () => "memory is not tracked");
    return { length: this.length, low: this.low, high: this.high };
  }

  /** Undoes everything since `mark`. */
  rewindTo(mark: MemoryMark): void {
    assert(mark.length <= this.length, () => "a mark of the undo log that lies ahead");
    const { undo, words, frames, changed } = this;
    for (let at = this.length - 2; at >= mark.length; at -= 2) {
      const slot = undo[at] ?? 0;
      const old = undo[at + 1] ?? 0;
      if (slot < words.length) words[slot] = old;
      else if (slot < words.length + frames.length) frames[slot - words.length] = old;
      else changed[slot - words.length - frames.length] = old;
    }
    this.length = mark.length;
    this.low = mark.low;
    this.high = mark.high;
  }

  frameOwner(pfn: number): Owner {
    return (this.frames[pfn] ?? OWNER_NONE) as Owner;
  }

  /** Value of `changes` when the frame last changed hands. */
  frameChangedAt(pfn: number): number {
    return this.changed[pfn] ?? 0;
  }

  setFrameOwner(pfn: Pfn, label: Owner): void {
    const old = this.frames[pfn];
    assert(old !== undefined, () => `frame outside memory: ${pfn}`);
    const before = this.changed[pfn] ?? 0;
    this.frames[pfn] = label;
    this.changed[pfn] = ++this.changes;
    if (!this.tracking) return;
    const slot = this.words.length + pfn;
    this.remember(slot, old);
    this.remember(slot + this.frames.length, before);
    this.mixIn(slot, old);
    this.mixIn(slot, label);
  }

  override write8(pa: PhysAddr, value: number): void {
    const slot = pa >>> 2;
    const old = this.words[slot] ?? 0;
    super.write8(pa, value);
    if (this.tracking) this.note(slot, old);
  }

  override write16(pa: PhysAddr, value: number): void {
    if ((pa & 3) === 3) {
      this.write8(pa, value & 0xff);
      this.write8((pa + 1) as PhysAddr, (value >>> 8) & 0xff);
      return;
    }
    const slot = pa >>> 2;
    const old = this.words[slot] ?? 0;
    super.write16(pa, value);
    if (this.tracking) this.note(slot, old);
  }

  override write32(pa: PhysAddr, value: number): void {
    const slot = pa >>> 2;
    const old = this.words[slot] ?? 0;
    const next = this.words[slot + 1] ?? 0;
    super.write32(pa, value);
    if (!this.tracking) return;
    this.note(slot, old);
    if ((pa & 3) !== 0) this.note(slot + 1, next);
  }

  override writeWord(pa: PhysAddr, value: number): void {
    this.write32(pa, value >>> 0);
    this.write32((pa + 4) as PhysAddr, Math.floor(value / 2 ** 32) >>> 0);
  }

  fill(pa: PhysAddr, value: number, bytes: number): void {
    this.external(pa, bytes, () => this.bytes.fill(value, pa, pa + bytes));
  }

  copyWithin(to: PhysAddr, from: PhysAddr, bytes: number): void {
    this.external(to, bytes, () => this.bytes.copyWithin(to, from, from + bytes));
  }

  writeBytes(pa: PhysAddr, source: Uint8Array): void {
    this.external(pa, source.byteLength, () => this.bytes.set(source, pa));
  }

  /** Runs `change`, which may write anything in `[pa, pa + bytes)` behind this object's back, and notes what it changed. */
  external(pa: PhysAddr, bytes: number, change: () => void): void {
    assert(this.has(pa, bytes), () => `physical range outside memory: ${pa} + ${bytes}`);
    if (!this.tracking) {
      change();
      return;
    }
    const first = pa >>> 2;
    const last = (pa + bytes + 3) >>> 2;
    const before = this.words.slice(first, last);
    change();
    for (let i = 0; i < before.length; i++) this.note(first + i, before[i] ?? 0);
  }

  private note(slot: number, old: number): void {
    const now = this.words[slot] ?? 0;
    if (now === old) return;
    this.remember(slot, old);
    this.mixIn(slot, old);
    this.mixIn(slot, now);
  }

  private remember(slot: number, old: number): void {
    if (this.length + 2 > this.undo.length) {
      const larger = new Int32Array(this.undo.length * 2);
      larger.set(this.undo);
      this.undo = larger;
    }
    this.undo[this.length++] = slot;
    this.undo[this.length++] = old;
  }

  /** Adds or removes (the same: XOR) the share of one word; zero words have none. */
  private mixIn(slot: number, word: number): void {
    if (word === 0) return;
    let a = Math.imul(word, 0x85ebca6b) ^ Math.imul(slot, 0x9e3779b1);
    a = Math.imul(a ^ (a >>> 15), 0x2c1b3c6d);
    a = Math.imul(a ^ (a >>> 12), 0x297a2d39);
    let b = Math.imul(slot, 0xc2b2ae35) + Math.imul(word, 0x27d4eb2f);
    b = Math.imul(b ^ (b >>> 16), 0x21f0aaad);
    b = Math.imul(b ^ (b >>> 15), 0x735a2d97);
    this.low ^= a ^ (a >>> 15);
    this.high ^= b ^ (b >>> 15);
  }
}
