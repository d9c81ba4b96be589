// All cases of a run, from one seed: the same seed gives the same cases, in the same order.
import type { Case } from "./case.ts";
import { DIRECTED } from "./directed-cases.ts";
import { caseSeed, Random } from "./random.ts";
import { loopCase, sequenceCase } from "./sequence-cases.ts";
import { SINGLE_FORMS, singleCase } from "./single-cases.ts";

export interface Amount {
  /** Cases of each form of each instruction. */
  readonly perForm: number;
  /** Cases of each directed kind. */
  readonly perDirected: number;
  readonly sequences: number;
  readonly loops: number;
}

/** What vectors.bin.gz was made with: 100,000 cases and some. */
export const RECORDED_SEED = 20261;
export const RECORDED_AMOUNT: Amount = { perForm: 170, perDirected: 50, sequences: 5000, loops: 1000 };

/** Draws of a form before we say that it cannot be made: high-byte registers beside REX are redrawn, nothing fails this often. */
const MAX_DRAWS = 400;

export function generate(seed: number, amount: Amount): Case[] {
  const random = new Random(seed);
  const cases: Case[] = [];
  const nextSeed = (): number => caseSeed(seed, cases.length);
  for (const single of SINGLE_FORMS) {
    for (let i = 0; i < amount.perForm; i++) {
      let made: Case | null = null;
      for (let draw = 0; draw < MAX_DRAWS && made === null; draw++) made = singleCase(random, single, nextSeed());
      if (made === null) throw new Error(`no case of ${single.form.name} could be made`);
      cases.push(made);
    }
  }
  for (const kind of DIRECTED) {
    for (let i = 0; i < amount.perDirected; i++) cases.push(kind.make(random, nextSeed()));
  }
  for (let i = 0; i < amount.sequences; i++) cases.push(sequenceCase(random, 2 + random.below(11), nextSeed()));
  for (let i = 0; i < amount.loops; i++) cases.push(loopCase(random, 1 + random.below(6), nextSeed()));
  return cases;
}
