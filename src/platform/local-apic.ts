// A logical CPU's local APIC in x2APIC mode (SDM vol. 3, 12): what is requested, what is in service, the TSC-deadline timer, and
// messages that are still on their way. It decides nothing about delivery: the CPU asks it at its delivery points.

/** Spurious-interrupt vector register, bit 8: the APIC is enabled. SDM vol. 3, 12.9. */
const SIVR_APIC_ENABLED = 1 << 8;
const LVT_MASKED = 1 << 16;
/** Value of SIVR after reset. */
const SIVR_RESET = 0xff;
/** Vectors below 16 are illegal in interrupt messages. */
const FIRST_LEGAL_VECTOR = 16;

/** A message that arrives at `time`: a vector, or an NMI (vector 2 with `isNmi`). */
interface Message {
  readonly time: number;
  readonly vector: number;
  readonly isNmi: boolean;
}

export interface LocalApicState {
  readonly words: Uint32Array;
  readonly messages: readonly Message[];
}

// Words behind IRR and ISR: the spurious-interrupt vector register, the LVT timer entry, whether an NMI came, IA32_TSC_DEADLINE's halves.
const SPURIOUS = 16;
const LVT_TIMER = 17;
const NMI = 18;
const DEADLINE_LOW = 19;
const DEADLINE_HIGH = 20;
export const LOCAL_APIC_WORDS = 21;
/** High half of a deadline that never comes. */
const NEVER = 0xffffffff;

export class LocalApic {
  /** IRR (words 0..7) and ISR (words 8..15), one bit per vector; then the other registers. */
  protected readonly words: Uint32Array;
  private messages: Message[] = [];

  /** `words`: where its registers are kept, all zero. */
  constructor(words: Uint32Array = new Uint32Array(LOCAL_APIC_WORDS)) {
    this.words = words;
    words[SPURIOUS] = SIVR_RESET;
    words[LVT_TIMER] = LVT_MASKED;
    words[DEADLINE_HIGH] = NEVER;
  }

  /** Every change of a register. */
  protected setWord(index: number, value: number): void {
    this.words[index] = value;
  }

  /** Spurious-interrupt vector register. */
  get spurious(): number {
    return this.words[SPURIOUS] ?? 0;
  }

  set spurious(value: number) {
    this.setWord(SPURIOUS, value);
  }

  /** LVT timer entry: vector, mask, mode. */
  get lvtTimer(): number {
    return this.words[LVT_TIMER] ?? 0;
  }

  set lvtTimer(value: number) {
    this.setWord(LVT_TIMER, value);
  }

  get isNmiPending(): boolean {
    return this.words[NMI] !== 0;
  }

  set isNmiPending(value: boolean) {
    this.setWord(NMI, value ? 1 : 0);
  }

  /** IA32_TSC_DEADLINE; infinity: disarmed. */
  get deadline(): number {
    const high = this.words[DEADLINE_HIGH] ?? 0;
    return high === NEVER ? Number.POSITIVE_INFINITY : high * 2 ** 32 + (this.words[DEADLINE_LOW] ?? 0);
  }

  set deadline(value: number) {
    const isNever = !Number.isFinite(value);
    this.setWord(DEADLINE_LOW, isNever ? 0 : value >>> 0);
    this.setWord(DEADLINE_HIGH, isNever ? NEVER : Math.floor(value / 2 ** 32));
  }

  /** Power-up state; what is on its way is lost. */
  reset(): void {
    for (let index = 0; index < SPURIOUS; index++) this.setWord(index, 0);
    this.messages = [];
    this.spurious = SIVR_RESET;
    this.lvtTimer = LVT_MASKED;
    this.deadline = Number.POSITIVE_INFINITY;
    this.isNmiPending = false;
  }

  get isEnabled(): boolean {
    return (this.spurious & SIVR_APIC_ENABLED) !== 0;
  }

  /** Sends a message that arrives at `time`. */
  send(time: number, vector: number, isNmi: boolean): void {
    const message = { time, vector, isNmi };
    let at = this.messages.length;
    while (at > 0 && (this.messages[at - 1]?.time ?? 0) > time) at--;
    this.messages.splice(at, 0, message);
  }

  /** When the next message arrives or the timer fires; infinity: nothing is on its way. */
  get nextArrival(): number {
    const first = this.messages[0];
    return first !== undefined && first.time < this.deadline ? first.time : this.deadline;
  }

  /** Takes in everything that has arrived by `now`. */
  collect(now: number): void {
    while (this.messages.length > 0) {
      const first = this.messages[0];
      if (first === undefined || first.time > now) break;
      this.messages.shift();
      if (first.isNmi) this.isNmiPending = true;
      else this.request(first.vector);
    }
    if (now >= this.deadline) {
      // SDM vol. 3, 12.5.4.1: the timer fires once and disarms itself.
      this.deadline = Number.POSITIVE_INFINITY;
      if ((this.lvtTimer & LVT_MASKED) === 0) this.request(this.lvtTimer & 0xff);
    }
  }

  /** Sets a vector's request bit, unless the APIC is disabled or the vector illegal. */
  request(vector: number): void {
    if (!this.isEnabled || vector < FIRST_LEGAL_VECTOR) return;
    const word = vector >> 5;
    this.setWord(word, ((this.words[word] ?? 0) | (1 << (vector & 31))) >>> 0);
  }

  /** The vector that would be delivered now, or -1: the highest request whose class is above the processor priority. */
  pending(taskPriority: number): number {
    const vector = this.highest(0);
    if (vector < 0) return -1;
    const servicing = this.highest(8);
    const priority = Math.max(taskPriority & 15, servicing < 0 ? 0 : servicing >> 4);
    return vector >> 4 > priority ? vector : -1;
  }

  /** Moves `vector` from requested to in service (the acknowledge cycle). */
  acknowledge(vector: number): void {
    const bit = 1 << (vector & 31);
    const word = vector >> 5;
    this.setWord(word, ((this.words[word] ?? 0) & ~bit) >>> 0);
    this.setWord(8 + word, ((this.words[8 + word] ?? 0) | bit) >>> 0);
  }

  /** End of interrupt: the highest vector in service is done. */
  endOfInterrupt(): void {
    const vector = this.highest(8);
    if (vector < 0) return;
    const word = 8 + (vector >> 5);
    this.setWord(word, ((this.words[word] ?? 0) & ~(1 << (vector & 31))) >>> 0);
  }

  /** 32 bits of the request register (`index` 0..7). */
  requestWord(index: number): number {
    return this.words[index & 7] ?? 0;
  }

  /** 32 bits of the in-service register. */
  serviceWord(index: number): number {
    return this.words[8 + (index & 7)] ?? 0;
  }

  save(): LocalApicState {
    return { words: this.words.slice(), messages: [...this.messages] };
  }

  restore(state: LocalApicState): void {
    for (const [index, word] of state.words.entries()) this.setWord(index, word);
    this.messages = [...state.messages];
  }

  /** Highest vector set in the eight words from `first` on, or -1. */
  private highest(first: 0 | 8): number {
    for (let word = 7; word >= 0; word--) {
      const bits = this.words[first + word] ?? 0;
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
    }
    return -1;
  }
}
