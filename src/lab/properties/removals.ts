// What S8 has to remember: which ranges of which address space were taken away, and when that had returned. A translation that is older
// and is still used afterwards is a forgotten flush.
import type { Ptr } from "../../hardware/index.ts";
import type { Journal } from "./journal.ts";

/** Removals that are remembered; a translation that outlives more of them than this is not judged by them. */
const CAPACITY = 1 << 13;
const MASK = CAPACITY - 1;

/** Removals in the order in which they returned. */
export class Removals {
  private readonly mms = new Float64Array(CAPACITY);
  private readonly starts = new Float64Array(CAPACITY);
  private readonly ends = new Float64Array(CAPACITY);
  private readonly times = new Float64Array(CAPACITY);
  private count = 0;
  private readonly journal: Journal;

  constructor(journal: Journal) {
    this.journal = journal;
  }

  /** `[start, end)` of `mm` (NULL: the kernel's half) is gone from every TLB, at `time`. */
  add(mm: Ptr<"mm_struct">, start: number, end: number, time: number): void {
    const at = this.count & MASK;
    const { mms, starts, ends, times, count } = this;
    const before = [mms[at] ?? 0, starts[at] ?? 0, ends[at] ?? 0, times[at] ?? 0] as const;
    this.journal.changed(() => {
      [mms[at], starts[at], ends[at], times[at]] = before;
      this.count = count;
    });
    this.count++;
    this.mms[at] = mm;
    this.starts[at] = start;
    this.ends[at] = end;
    this.times[at] = time;
  }

  /** True if `address` of `mm` was taken away after `madeAt`. Addresses of the kernel's half are everybody's. */
  covers(mm: Ptr<"mm_struct">, address: number, madeAt: number): boolean {
    const first = Math.max(0, this.count - CAPACITY);
    for (let i = this.count - 1; i >= first; i--) {
      const at = i & MASK;
      if ((this.times[at] ?? 0) <= madeAt) return false;
      const isOurs = address < 0 ? this.mms[at] === 0 : this.mms[at] === mm;
      if (isOurs && address >= (this.starts[at] ?? 0) && address < (this.ends[at] ?? 0)) return true;
    }
    return false;
  }
}
