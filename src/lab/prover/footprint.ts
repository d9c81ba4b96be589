// What handlers and CPUs touch, word by word: before a step that touches nothing of it an injection, or another CPU's turn, comes to the same as
// behind that step, and is left out. Footprints are found as they grow: a search that leaves out by what is known, and learns more, is made
// again with what it learnt, until it learns nothing.
import type { AccessWatch, ResidueMachine } from "../../residue/index.ts";

/** Read, or written, by a handler that was injected. */
const HANDLER_READ = 1;
const HANDLER_WRITE = 2;
/** By a CPU: two bits each. */
const CPU_SHIFT = 2;
const ANY_CPU_READ = 0b01010101 << CPU_SHIFT;
const ANY_CPU_WRITE = 0b10101010 << CPU_SHIFT;
const BITS = 10;
const PAGE = 4096;

/** What was learnt: words with the bits that they got, packed in numbers, sorted. */
export type Learnt = readonly number[];

export class Footprint implements AccessWatch {
  /** Something of the present step can make a difference to a handler that is injected before it or behind it. */
  isVisible = false;
  /** ... or to another CPU. */
  isShared = false;
  /** Accesses are those of a handler that was injected. */
  isHandler = false;
  private readonly given: Uint16Array;
  private readonly known: Uint16Array;
  private readonly added = new Set<number>();

  constructor(machine: ResidueMachine) {
    const words = machine.memory.size / 4;
    this.given = new Uint16Array(words);
    this.known = new Uint16Array(words);
    for (const cpu of machine.cpus) cpu.watchAccesses(this);
  }

  /** From now on steps are judged by all that is in `learnt`. */
  give(learnt: Learnt): void {
    for (const packed of learnt) {
      const word = Math.floor(packed / 2 ** BITS);
      const bits = packed % 2 ** BITS;
      this.given[word] = (this.given[word] ?? 0) | bits;
      this.known[word] = (this.known[word] ?? 0) | bits;
    }
  }

  /** Takes what was learnt since it was last taken. */
  takeLearnt(): Learnt {
    const learnt = [...this.added].sort((a, b) => a - b);
    this.added.clear();
    return learnt;
  }

  /** The next step begins. */
  nextStep(): void {
    this.isVisible = false;
    this.isShared = false;
  }

  access(cpu: Parameters<AccessWatch["access"]>[0], va: number, pa: number, bytes: number, isWrite: boolean): void {
    // A stack is its owner's; what handlers leave below the pointer is of no consequence.
    if (Math.floor(va / PAGE) === Math.floor(cpu.state.rsp / PAGE)) return;
    const shift = CPU_SHIFT + 2 * cpu.id;
    const own = 3 << shift;
    const bits = ((isWrite ? 2 : 1) << shift) | (this.isHandler ? (isWrite ? HANDLER_WRITE : HANDLER_READ) : 0);
    const last = (pa + bytes - 1) >>> 2;
    for (let word = pa >>> 2; word <= last; word++) {
      const given = this.given[word] ?? 0;
      if ((given & (isWrite ? HANDLER_READ | HANDLER_WRITE : HANDLER_WRITE)) !== 0) this.isVisible = true;
      if ((given & ~own & (isWrite ? ANY_CPU_READ | ANY_CPU_WRITE : ANY_CPU_WRITE)) !== 0) this.isShared = true;
      const known = this.known[word] ?? 0;
      if ((known & bits) === bits) continue;
      this.known[word] = known | bits;
      this.added.add(word * 2 ** BITS + bits);
    }
  }

  /** A register that handlers read or change, an interrupt that is sent, what a core's structures hold. */
  register(): void {
    this.isVisible = true;
    this.isShared = true;
  }
}
