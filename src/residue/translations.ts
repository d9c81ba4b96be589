// The TLB of the abstract machine: unbounded, so that a translation that was used stays until something invalidates it. That is the
// worst case that the manuals allow, and what a forgotten flush has to be checked against. SDM vol. 3, 5.10.
import { type Level, levelSize } from "../hardware/index.ts";

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
  /** Ownership changes of frames before the translation was made. */
  readonly madeAt: number;
}

type Table = Map<number, Translation>;

const FRONT = 512;
const LEVELS: readonly Level[] = [1, 2, 3];
const NO_PAGE = Number.NaN;

function key(va: number, level: Level): number {
  return Math.floor(va / levelSize(level)) * 4 + level;
}

export class Translations {
  private global: Table = new Map();
  private byPcid = new Map<number, Table>();
  // A direct-mapped cache of the maps for the current PCID, dropped whenever they change by more than an insertion.
  private readonly frontPage = new Float64Array(FRONT).fill(NO_PAGE);
  private readonly front: (Translation | undefined)[] = new Array<Translation | undefined>(FRONT).fill(undefined);
  private frontPcid = -1;

  find(va: number, pcid: number): Translation | undefined {
    if (pcid !== this.frontPcid) this.dropFront(pcid);
    const page = Math.floor(va / 4096);
    const slot = page & (FRONT - 1);
    if (this.frontPage[slot] === page) return this.front[slot];
    const own = this.byPcid.get(pcid);
    for (const level of LEVELS) {
      const k = key(va, level);
      const found = own?.get(k) ?? this.global.get(k);
      if (found !== undefined) {
        this.frontPage[slot] = page;
        this.front[slot] = found;
        return found;
      }
    }
    return undefined;
  }

  insert(va: number, pcid: number, translation: Translation): void {
    let table = this.global;
    if (!translation.isGlobal) {
      const own = this.byPcid.get(pcid);
      if (own === undefined) {
        table = new Map();
        this.byPcid.set(pcid, table);
      } else table = own;
    }
    table.set(key(va, translation.level), translation);
    this.frontPage[Math.floor(va / 4096) & (FRONT - 1)] = NO_PAGE;
  }

  /** INVLPG: the address in one PCID, and global entries. */
  invalidate(va: number, pcid: number, withGlobal: boolean): void {
    const own = this.byPcid.get(pcid);
    for (const level of LEVELS) {
      own?.delete(key(va, level));
      if (withGlobal) this.global.delete(key(va, level));
    }
    this.dropFront(-1);
  }

  invalidatePcid(pcid: number): void {
    this.byPcid.delete(pcid);
    this.dropFront(-1);
  }

  invalidateAll(withGlobal: boolean): void {
    this.byPcid.clear();
    if (withGlobal) this.global.clear();
    this.dropFront(-1);
  }

  copyFrom(other: Translations): void {
    this.global = new Map(other.global);
    this.byPcid = new Map([...other.byPcid].map(([pcid, table]) => [pcid, new Map(table)]));
    this.dropFront(-1);
  }

  /** Entries as text, sorted: for state hashes. */
  canonical(): string {
    const rows: string[] = [];
    const add = (pcid: number, table: Table): void => {
      for (const [k, t] of table)
        rows.push(
          `${pcid}:${k}:${t.frame}:${t.isWritable ? "w" : "r"}${t.isUser ? "u" : ""}${t.isExecutable ? "x" : ""}${t.isDirty ? "d" : ""}`,
        );
    };
    add(-1, this.global);
    for (const [pcid, table] of this.byPcid) add(pcid, table);
    return rows.sort().join(" ");
  }

  private dropFront(pcid: number): void {
    this.frontPage.fill(NO_PAGE);
    this.frontPcid = pcid;
  }
}
