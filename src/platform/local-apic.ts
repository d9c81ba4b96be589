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
  readonly spurious: number;
  readonly lvtTimer: number;
  readonly deadline: number;
  readonly isNmiPending: boolean;
  readonly messages: readonly Message[];
}

export class LocalApic {
  /** IRR (words 0..7) and ISR (words 8..15), one bit per vector. */
  private readonly words = new Uint32Array(16);
  private messages: Message[] = [];
  /** Spurious-interrupt vector register. */
  spurious = SIVR_RESET;
  /** LVT timer entry: vector, mask, mode. */
  lvtTimer = LVT_MASKED;
  /** IA32_TSC_DEADLINE; infinity: disarmed. */
  deadline = Number.POSITIVE_INFINITY;
  isNmiPending = false;

  /** Power-up state; what is on its way is lost. */
  reset(): void {
    this.words.fill(0);
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
    this.words[word] = ((this.words[word] ?? 0) | (1 << (vector & 31))) >>> 0;
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
    this.words[word] = ((this.words[word] ?? 0) & ~bit) >>> 0;
    this.words[8 + word] = ((this.words[8 + word] ?? 0) | bit) >>> 0;
  }

  /** End of interrupt: the highest vector in service is done. */
  endOfInterrupt(): void {
    const vector = this.highest(8);
    if (vector < 0) return;
    const word = 8 + (vector >> 5);
    this.words[word] = ((this.words[word] ?? 0) & ~(1 << (vector & 31))) >>> 0;
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
    return {
      words: this.words.slice(),
      spurious: this.spurious,
      lvtTimer: this.lvtTimer,
      deadline: this.deadline,
      isNmiPending: this.isNmiPending,
      messages: [...this.messages],
    };
  }

  restore(state: LocalApicState): void {
    this.words.set(state.words);
    this.spurious = state.spurious;
    this.lvtTimer = state.lvtTimer;
    this.deadline = state.deadline;
    this.isNmiPending = state.isNmiPending;
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
