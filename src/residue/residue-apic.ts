// The local APIC of a CPU of the abstract machine: its registers are words that are hashed and go back.
import { LOCAL_APIC_WORDS, LocalApic } from "../platform/index.ts";
import type { TrackedMemory } from "./tracked-memory.ts";

const WORD_BYTES = 4;

export class ResidueApic extends LocalApic {
  private readonly memory: TrackedMemory;
  private readonly first: number;

  constructor(memory: TrackedMemory) {
    const first = memory.reserveRegisters(LOCAL_APIC_WORDS);
    super(new Uint32Array(memory.words.buffer, first * WORD_BYTES, LOCAL_APIC_WORDS));
    this.memory = memory;
    this.first = first;
  }

  protected override setWord(index: number, value: number): void {
    this.memory.setRegister(this.first + index, value);
  }

  /** `vector` waits for its acknowledgement. */
  isRequested(vector: number): boolean {
    return ((this.words[vector >> 5] ?? 0) & (1 << (vector & 31))) !== 0;
  }

  /** True if anything is requested. */
  get isRequesting(): boolean {
    const { words } = this;
    for (let index = 0; index < 8; index++) if (words[index] !== 0) return true;
    return false;
  }
}
