// Physical memory that can go back. While tracking is on, every write appends the old word to an undo log and changes a 64-bit hash by
// the difference: going back costs what going forward did, and the hash of the state is always at hand. What each frame holds (ground
// truth, beside memory) is kept, undone and hashed in the same way; and behind both lie the words of the CPUs' registers, which have a
// hash of their own.
import {
  assert,
  OWNER_NONE,
  type Owner,
  PAGE_SIZE,
  type Pfn,
  type PhysAddr,
  PhysicalMemory,
  PTE_ACCESSED,
  PTE_DIRTY,
  PTE_PRESENT,
} from "../hardware/index.ts";
import { StateHash } from "./state-hash.ts";
import { UndoLog } from "./undo-log.ts";

/** A state to go back to: marks are taken back in the reverse order, each any number of times. */
export type Mark = number & { readonly __brand: "Mark" };

/** Words of a mark: positions and hashes. */
const MARK_WORDS = 6;
/** Room for the registers of one CPU, in words. */
const REGISTER_WORDS = 256;
/** Bytes that are compared as one. */
const COMPARED_BYTES = 256;
const NO_BYTES = Buffer.alloc(0);

/** Kinds of words: hashed or not, which goes back; and whether somebody watches them, which stays. */
const HASHED = 0;
/** Of a word that is an entry of page tables: a translation was made from it; what it maps changed. */
const CACHED = 1;
const CHANGED = 2;
const PAGE_SHIFT = 12;
const UNHASHED = 1;
const WATCHED = 2;

export class TrackedMemory extends PhysicalMemory {
  /** RAM; the owner of each frame; when it last changed; registers. */
  readonly words: Int32Array;
  /** Of what is no memory: registers, and what the objects of CPUs hold. */
  readonly stateHash = new StateHash();
  readonly log = new UndoLog();
  /**
   * Ownership changes so far, in changes of any frame: tells a reused frame from what it was. It only orders, and goes back with the
   * rest.
   */
  changes = 0;
  /** Changes with the words that are watched. */
  private watched = 0;
  /** While true every change is hashed, and undone at need. */
  isTracking = false;
  /** An entry of page tables changed from which a translation was made, whenever. */
  hasChangedCached = false;
  private entries: Uint8Array | undefined;
  private readonly kinds: Uint8Array;
  /** Pages that ever had a word that is not hashed. */
  private readonly hasUnhashed: Uint8Array;
  private readonly contents = new StateHash();
  private readonly firstFrame: number;
  private readonly firstChange: number;
  private readonly firstRegister: number;
  private nextRegister: number;
  private readonly marks: number[] = [];
  /** The same bytes, and a copy of some, for changes that are found by comparing. */
  private readonly raw: Buffer;
  private spare = Buffer.alloc(PAGE_SIZE);

  constructor(bytes: number, cpus = 1) {
    assert(bytes % PAGE_SIZE === 0 && bytes < 2 ** 32, () => `not a memory size for the abstract machine: ${bytes}`);
    const frames = bytes / PAGE_SIZE;
    const words = bytes / 4 + 2 * frames + REGISTER_WORDS * (cpus + 1);
    const buffer = new ArrayBuffer(words * 4);
    super(new Uint8Array(buffer, 0, bytes));
    this.words = new Int32Array(buffer);
    this.raw = Buffer.from(buffer, 0, bytes);
    this.kinds = new Uint8Array(words);
    this.hasUnhashed = new Uint8Array(frames);
    this.firstFrame = bytes / 4;
    this.firstChange = this.firstFrame + frames;
    this.firstRegister = this.firstChange + frames;
    this.nextRegister = this.firstRegister;
  }

  /** Starts hashing and undoing from the present contents. */
  startTracking(): void {
    this.isTracking = true;
    this.log.clear();
    this.marks.length = 0;
    this.contents.reset();
    this.addContents(this.contents);
  }

  /** Adds what memory and frames' labels hold to `hash`, word by word. */
  addContents(hash: StateHash): void {
    const { words, kinds } = this;
    for (let slot = 0; slot < this.firstChange; slot++) {
      const word = words[slot] ?? 0;
      if (word !== 0 && ((kinds[slot] ?? 0) & UNHASHED) === 0) hash.toggle(slot, word);
    }
  }

  /** The same of registers. */
  addRegisters(hash: StateHash): void {
    for (let slot = this.firstRegister; slot < this.nextRegister; slot++) hash.toggle(slot, this.words[slot] ?? 0);
  }

  /** The hash of memory and labels, as 16 hex digits; equal contents have equal hashes. Only while tracking. */
  hash(): string {
    assert(this.isTracking, () => "memory is not tracked");
    const { low, high } = this.contents;
    return (high >>> 0).toString(16).padStart(8, "0") + (low >>> 0).toString(16).padStart(8, "0");
  }

  get low(): number {
    return this.contents.low;
  }

  get high(): number {
    return this.contents.high;
  }

  /** The state now. Whoever keeps state beside this object marks it too. */
  mark(): Mark {
    assert(this.isTracking, () => "memory is not tracked");
    const { contents, stateHash, log } = this;
    this.marks.push(log.length, contents.low, contents.high, stateHash.low, stateHash.high, this.changes);
    log.isKept = true;
    log.epoch++;
    return (this.marks.length - MARK_WORDS) as Mark; // position in the list
  }

  /** Undoes everything since `mark`, which stays good for going back again; later ones are forgotten. */
  rewindTo(mark: Mark): void {
    const { contents, stateHash, marks } = this;
    assert(mark + MARK_WORDS <= marks.length, () => "a mark that lies ahead");
    this.log.goBackTo(marks[mark] ?? 0, this.words, this.kinds);
    contents.low = marks[mark + 1] ?? 0;
    contents.high = marks[mark + 2] ?? 0;
    stateHash.low = marks[mark + 3] ?? 0;
    stateHash.high = marks[mark + 4] ?? 0;
    this.changes = marks[mark + 5] ?? 0;
    this.watched++;
    marks.length = mark + MARK_WORDS;
  }

  /** How many marks there were when `mark` was made. */
  markNumber(mark: Mark): number {
    return mark / MARK_WORDS;
  }

  frameOwner(pfn: number): Owner {
    return (pfn < this.firstChange - this.firstFrame ? (this.words[this.firstFrame + pfn] ?? OWNER_NONE) : OWNER_NONE) as Owner;
  }

  /** Value of `changes` when the frame last changed hands. */
  frameChangedAt(pfn: number): number {
    return this.words[this.firstChange + pfn] ?? 0;
  }

  setFrameOwner(pfn: Pfn, label: Owner): void {
    assert(pfn >= 0 && pfn < this.firstChange - this.firstFrame, () => `frame outside memory: ${pfn}`);
    const slot = this.firstFrame + pfn;
    const old = this.words[slot] ?? 0;
    const before = this.words[this.firstChange + pfn] ?? 0;
    this.words[slot] = label;
    this.words[this.firstChange + pfn] = ++this.changes;
    if (!this.isTracking) return;
    this.log.word(slot, old);
    this.log.word(this.firstChange + pfn, before);
    this.contents.toggle(slot, old);
    this.contents.toggle(slot, label);
  }

  /** Reserves `count` words for registers, all zero. @returns the slot of the first */
  reserveRegisters(count: number): number {
    const first = this.nextRegister;
    this.nextRegister += count;
    assert(this.nextRegister <= this.words.length, () => "no room for registers");
    return first;
  }

  /** Writes a register's word. */
  setRegister(slot: number, value: number): void {
    const old = this.words[slot] ?? 0;
    const next = value | 0;
    if (old === next) return;
    this.words[slot] = next;
    if (!this.isTracking) return;
    this.log.word(slot, old);
    this.stateHash.toggle(slot, old);
    this.stateHash.toggle(slot, next);
  }

  override read32(pa: PhysAddr): number {
    return (pa & 3) === 0 ? (this.words[pa >>> 2] ?? 0) >>> 0 : super.read32(pa);
  }

  override readWord(pa: PhysAddr): number {
    if ((pa & 3) !== 0) return super.readWord(pa);
    const slot = pa >>> 2;
    return (this.words[slot + 1] ?? 0) * 2 ** 32 + ((this.words[slot] ?? 0) >>> 0);
  }

  override write8(pa: PhysAddr, value: number): void {
    const slot = pa >>> 2;
    const old = this.words[slot] ?? 0;
    super.write8(pa, value);
    if (this.isTracking) this.note(slot, old);
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
    if (this.isTracking) this.note(slot, old);
  }

  override write32(pa: PhysAddr, value: number): void {
    const slot = pa >>> 2;
    const old = this.words[slot] ?? 0;
    if ((pa & 3) === 0) {
      this.words[slot] = value;
      if (this.isTracking) this.note(slot, old);
      return;
    }
    const next = this.words[slot + 1] ?? 0;
    super.write32(pa, value);
    if (!this.isTracking) return;
    this.note(slot, old);
    this.note(slot + 1, next);
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
    if (!this.isTracking) {
      change();
      return;
    }
    const start = pa & ~3;
    const end = (pa + bytes + 3) & ~3;
    const length = end - start;
    const { raw } = this;
    let copy = this.spare;
    if (length > copy.length) copy = Buffer.alloc(length);
    // Not while it is used: `change` may come here again.
    this.spare = NO_BYTES;
    raw.copy(copy, 0, start, end);
    change();
    for (let at = 0; at < length; at += COMPARED_BYTES) {
      const size = Math.min(COMPARED_BYTES, length - at);
      if (raw.compare(copy, at, at + size, start + at, start + at + size) === 0) continue;
      for (let word = at; word < at + size; word += 4) this.note((start + word) >>> 2, copy.readInt32LE(word));
    }
    this.spare = copy;
  }

  /** Changes with the words that are watched; NaN while changes are not followed. */
  get watchedChanges(): number {
    return this.isTracking ? this.watched : Number.NaN;
  }

  /** From now on `watchedChanges` changes whenever the word at `pa` may have; for whoever would read it again and again. */
  watch(pa: PhysAddr): void {
    const slot = pa >>> 2;
    this.kinds[slot] = (this.kinds[slot] ?? 0) | WATCHED;
  }

  /** The words of `[pa, pa + bytes)`, which lie in one page, only count or label: states are not told apart by them from now on. */
  unhash(pa: PhysAddr, bytes: number): void {
    this.hasUnhashed[pa >>> PAGE_SHIFT] = 1;
    for (let slot = pa >>> 2; slot < (pa + bytes + 3) >>> 2; slot++) this.setKind(slot, UNHASHED);
  }

  /** What was there is gone: the words of `[pa, pa + bytes)` mean something again. */
  rehash(pa: PhysAddr, bytes: number): void {
    if (this.hasUnhashed[pa >>> PAGE_SHIFT] === 0) return;
    for (let slot = pa >>> 2; slot < (pa + bytes + 3) >>> 2; slot++) this.setKind(slot, HASHED);
  }

  isHashed(pa: PhysAddr): boolean {
    return ((this.kinds[pa >>> 2] ?? HASHED) & UNHASHED) === HASHED;
  }

  /** From now on it is noticed when an entry of page tables changes that was or will be cached. */
  watchEntries(): void {
    this.entries ??= new Uint8Array(this.size / 4);
  }

  /** A translation was made from the entry at physical address `leaf`. */
  cached(leaf: number): void {
    if (this.entries === undefined) return;
    const slot = leaf >>> 2;
    this.entries[slot] = (this.entries[slot] ?? 0) | CACHED;
    if (this.entries[slot] === (CACHED | CHANGED)) this.hasChangedCached = true;
  }

  /** What was in `slot`, if it was an entry that a TLB may hold, is not what it holds any more. */
  private entryChanged(entries: Uint8Array, slot: number, old: number, now: number): void {
    const isHigh = (slot & 1) === 1;
    const entry = isHigh ? slot - 1 : slot;
    const isPresent = ((isHigh ? (this.words[entry] ?? 0) : old) & PTE_PRESENT) !== 0;
    if (!isPresent || (!isHigh && ((old ^ now) & ~(PTE_ACCESSED | PTE_DIRTY)) === 0)) return;
    const known = entries[entry] ?? 0;
    if ((known & CACHED) !== 0) this.hasChangedCached = true;
    // The upper half of a word that is no entry says nothing about one that it will be.
    if (!isHigh) entries[entry] = known | CHANGED;
  }

  private setKind(slot: number, kind: number): void {
    const before = this.kinds[slot] ?? HASHED;
    const old = before & UNHASHED;
    if (old === kind) return;
    this.kinds[slot] = (before & WATCHED) | kind;
    if (!this.isTracking) return;
    this.log.kind(slot, old);
    this.contents.toggle(slot, this.words[slot] ?? 0);
  }

  private note(slot: number, old: number): void {
    const now = this.words[slot] ?? 0;
    if (now === old) return;
    this.log.word(slot, old);
    if (this.entries !== undefined) this.entryChanged(this.entries, slot, old, now);
    const kind = this.kinds[slot] ?? 0;
    if (kind !== 0) {
      if ((kind & WATCHED) !== 0) this.watched++;
      if ((kind & UNHASHED) !== 0) return;
    }
    this.contents.toggle(slot, old);
    this.contents.toggle(slot, now);
  }
}
