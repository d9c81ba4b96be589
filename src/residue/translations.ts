// The TLB of the abstract machine: unbounded, so that a translation that was used stays until something invalidates it. That is the
// worst case that the manuals allow, and what a forgotten flush has to be checked against. SDM vol. 3, 5.10. Entries are immutable and
// tables are replaced as wholes, so that invalidating much costs little, back and forth.
import { type Level, levelSize } from "../hardware/index.ts";
import { combine, StateHash, wordOf, wordOfText } from "./state-hash.ts";
import type { TrackedMemory } from "./tracked-memory.ts";
import type { Undoable } from "./undo-log.ts";

export interface Translation {
  readonly frame: number;
  readonly level: Level;
  readonly isWritable: boolean;
  readonly isUser: boolean;
  readonly isExecutable: boolean;
  readonly isGlobal: boolean;
  /** The dirty bit is known to be set: a write need not walk again. */
  readonly isDirty: boolean;
  /** Physical address of the leaf entry it came from. */
  readonly leaf: number;
  /** Low half of that entry as it was. */
  readonly low: number;
  /** Ownership changes of frames before the translation was made: orders it, and is not hashed (see `Translations.revoke`). */
  readonly madeAt: number;
  /**
   * What has happened since that a later use would be judged by: bits for the address spaces from which its range was taken away, and
   * whether its frame changed hands.
   */
  readonly past: number;
}

const FRONT = 1024;
const LEVELS: readonly Level[] = [1, 2, 3];
const NO_PAGE = Number.NaN;
/** Stands for the table of global entries among those of PCIDs. */
const GLOBAL = -1;
const PCID_LIMIT = 4096;
/** Its frame has changed hands; the other bits of `past` stand for address spaces. */
const REUSED = 1 << 31;
const SPACE_BITS = 31;
const PAGE = 4096;
const ENTRY_BYTES = 8;
/** Ranges of more pages than this are looked for entry by entry. */
const FEW_PAGES = 64;

function key(va: number, level: Level): number {
  return Math.floor(va / levelSize(level)) * 4 + level;
}

/** What a lane of the hash has of an entry; `seed` begins it. */
function digest(seed: number, k: number, t: Translation): number {
  const rights =
    (t.isWritable ? 1 : 0) | (t.isUser ? 2 : 0) | (t.isExecutable ? 4 : 0) | (t.isGlobal ? 8 : 0) | (t.isDirty ? 16 : 0) | (t.level << 5);
  let h = combine(seed, k | 0);
  h = combine(h, Math.floor(k / 2 ** 32) ^ rights);
  h = combine(h, t.frame / PAGE);
  h = combine(h, t.leaf / ENTRY_BYTES);
  h = combine(h, t.low);
  return combine(h, t.past);
}

/** The entries of one PCID, or the global ones. */
class Table implements Undoable {
  readonly entries = new Map<number, Translation>();
  readonly sum = new StateHash();
  private readonly place: number;
  private readonly pcid: number;
  private readonly owner: Translations;

  constructor(place: number, pcid: number, owner: Translations) {
    this.place = place;
    this.pcid = pcid;
    this.owner = owner;
  }

  /** Puts `next` in the place of what is there; undefined takes it out. */
  put(k: number, next: Translation | undefined): void {
    const old = this.swap(k, next);
    this.owner.changed(this, k, old);
    this.toggle(this.owner.hash, k, old);
    this.toggle(this.owner.hash, k, next);
  }

  undo(k: number, old: unknown): void {
    this.swap(k, old as Translation | undefined); // as put() told it
    this.owner.dropEntry(k, this.pcid);
  }

  addTo(hash: StateHash): void {
    for (const [k, translation] of this.entries) this.toggle(hash, k, translation);
  }

  private swap(k: number, next: Translation | undefined): Translation | undefined {
    const old = this.entries.get(k);
    if (next === undefined) this.entries.delete(k);
    else this.entries.set(k, next);
    this.toggle(this.sum, k, old);
    this.toggle(this.sum, k, next);
    return old;
  }

  private toggle(hash: StateHash, k: number, translation: Translation | undefined): void {
    if (translation !== undefined && (this.owner.isExact || translation.past !== 0))
      hash.toggleDigests(digest(this.place, k, translation), digest(~this.place, k, translation));
  }
}

export class Translations implements Undoable {
  private readonly tables = new Map<number, Table>();
  private readonly memory: TrackedMemory;
  private readonly place: number;
  /**
   * States are told apart by every cached translation. Else only by those that were taken away: sound as long as no entry of the tables that
   * was ever cached changes (`TrackedMemory.hasChangedCached`).
   */
  isExact = true;
  /** Pages of frames that an entry of the smallest size has ever had. */
  private readonly everMapped: Uint8Array;
  // A direct-mapped cache of the tables, dropped whenever they change by more than an insertion.
  private readonly frontPage = new Float64Array(FRONT).fill(NO_PAGE);
  private readonly frontSince = new Int32Array(FRONT);
  /** Entries of the cache that are of another generation are none. */
  private generation = 1;
  private readonly front: (Translation | undefined)[] = new Array<Translation | undefined>(FRONT).fill(undefined);

  constructor(memory: TrackedMemory, cpu: number) {
    this.memory = memory;
    this.place = combine(wordOfText("translations"), cpu);
    this.everMapped = new Uint8Array(memory.size / PAGE);
  }

  get hash(): StateHash {
    return this.memory.stateHash;
  }

  /** Tells the undo log that `table` had `old` at `k`. */
  changed(table: Undoable, k: number, old: unknown): void {
    this.memory.log.object(table, k, old);
  }

  find(va: number, pcid: number): Translation | undefined {
    const page = Math.floor(va / PAGE);
    const tag = page * PCID_LIMIT + pcid;
    const slot = (page ^ (pcid << 6)) & (FRONT - 1);
    if (this.frontPage[slot] === tag && this.frontSince[slot] === this.generation) return this.front[slot];
    const own = this.tables.get(pcid)?.entries;
    const global = this.tables.get(GLOBAL)?.entries;
    for (const level of LEVELS) {
      const k = key(va, level);
      const found = own?.get(k) ?? global?.get(k);
      if (found !== undefined) {
        this.frontPage[slot] = tag;
        this.frontSince[slot] = this.generation;
        this.front[slot] = found;
        return found;
      }
    }
    return undefined;
  }

  insert(va: number, pcid: number, translation: Translation): void {
    this.tableOf(translation.isGlobal ? GLOBAL : pcid).put(key(va, translation.level), translation);
    this.memory.cached(translation.leaf);
    if (translation.level === 1) this.everMapped[Math.floor(translation.frame / PAGE)] = 1;
    // The place may hold another entry for the page: larger, or global.
    this.frontPage[(Math.floor(va / PAGE) ^ (pcid << 6)) & (FRONT - 1)] = NO_PAGE;
    if (translation.isGlobal || translation.level !== 1) this.dropFront();
  }

  /** INVLPG: the address in one PCID, and global entries. */
  invalidate(va: number, pcid: number, withGlobal: boolean): void {
    for (const id of withGlobal ? [pcid, GLOBAL] : [pcid]) {
      const table = this.tables.get(id);
      if (table === undefined) continue;
      for (const level of LEVELS) {
        const k = key(va, level);
        if (!table.entries.has(k)) continue;
        table.put(k, undefined);
        this.dropEntry(k, id);
      }
    }
  }

  invalidatePcid(pcid: number): void {
    const table = this.tables.get(pcid);
    if (table === undefined || table.entries.size === 0) return;
    this.tables.delete(pcid);
    this.changed(this, pcid, table);
    this.hash.toggleDigests(table.sum.low, table.sum.high);
    this.dropFront();
  }

  invalidateAll(withGlobal: boolean): void {
    for (const pcid of this.tables.keys()) if (withGlobal || pcid !== GLOBAL) this.invalidatePcid(pcid);
  }

  undo(pcid: number, old: unknown): void {
    if (old === undefined) this.tables.delete(pcid);
    else this.tables.set(pcid, old as Table); // as invalidatePcid() told it
    this.dropFront();
  }

  /**
   * What took `[start, end)` of address space `space` away has returned (0: addresses of the kernel's half): entries that are older and
   * are used there from now on are wrong (S8). When an entry was made is not hashed, what follows from it is: this.
   */
  revoke(space: number, start: number, end: number): void {
    const bit = 1 << ((wordOf(space) >>> 0) % SPACE_BITS);
    for (const table of this.tables.values()) {
      if (end - start <= FEW_PAGES * PAGE) this.revokePages(table, bit, start, end);
      else
        this.markPast(
          table,
          bit,
          (k, t) => Math.floor(k / 4) * levelSize(t.level) < end && (Math.floor(k / 4) + 1) * levelSize(t.level) > start,
        );
    }
  }

  private revokePages(table: Table, bit: number, start: number, end: number): void {
    const keys = new Set<number>();
    for (let va = start; va < end; va += PAGE) for (const level of LEVELS) keys.add(key(va, level));
    for (const k of keys) {
      const found = table.entries.get(k);
      if (found !== undefined && (found.past & bit) === 0) table.put(k, { ...found, past: found.past | bit });
    }
    this.dropFront();
  }

  /** Frame `pfn` changes hands. */
  reused(pfn: number): void {
    if (this.everMapped[pfn] !== 1) return;
    for (const table of this.tables.values()) this.markPast(table, REUSED, (_, t) => t.level === 1 && t.frame === pfn * PAGE);
  }

  private markPast(table: Table, bit: number, concerns: (k: number, translation: Translation) => boolean): void {
    for (const [k, found] of table.entries) {
      if ((found.past & bit) !== 0 || !concerns(k, found)) continue;
      table.put(k, { ...found, past: found.past | bit });
      this.dropFront();
    }
  }

  /** Adds all entries to `hash`. */
  addTo(hash: StateHash): void {
    for (const table of this.tables.values()) table.addTo(hash);
  }

  /** The entry `k` of a PCID has changed: what the cache has for its page is dropped, or everything if it may concern more pages. */
  dropEntry(k: number, pcid: number): void {
    const page = Math.floor(k / 4);
    if (pcid === GLOBAL || k - page * 4 !== 1) this.dropFront();
    else this.frontPage[(page ^ (pcid << 6)) & (FRONT - 1)] = NO_PAGE;
  }

  dropFront(): void {
    this.generation = (this.generation + 1) | 0;
  }

  private tableOf(pcid: number): Table {
    let table = this.tables.get(pcid);
    if (table === undefined) {
      table = new Table(combine(this.place, pcid), pcid, this);
      this.tables.set(pcid, table);
      this.changed(this, pcid, undefined);
    }
    return table;
  }
}
