// In which order the witnesses of a mutant are tried: first what refuted this very mutant last time, then by what a refutation is expected to
// cost: time divided by how likely it is, learnt from the mutants of the same function and file. The order changes time, never a verdict,
// but where the time for a mutant ends first.

interface Tally {
  tried: number;
  refuted: number;
}

/** A test beside the file refutes sooner than one of the same room, and that sooner than one at the other end of the kernel. */
const LIKELY_BESIDE = 0.4;
const LIKELY_NEAR = 0.3;
const LIKELY_FAR = 0.12;
/** Folders that make a room of the kernel: src/kernel/NAME. */
const ROOM_DEPTH = 3;
/** Weight of what is assumed against what was seen, in trials. */
const ASSUMED_TRIALS = 3;

export class WitnessOrder {
  private readonly tallies = new Map<string, Tally>();

  /** `place`: file and function of a mutant. */
  record(witness: string, file: string, where: string, isRefuted: boolean): void {
    for (const key of [`${witness}#${file}`, `${witness}#${file}#${where}`]) {
      const tally = this.tallies.get(key) ?? { tried: 0, refuted: 0 };
      tally.tried++;
      if (isRefuted) tally.refuted++;
      this.tallies.set(key, tally);
    }
  }

  order(
    witnesses: readonly string[],
    file: string,
    where: string,
    last: string | undefined,
    cost: (witness: string) => number,
  ): readonly string[] {
    const rank = new Map(witnesses.map((w) => [w, w === last ? -1 : cost(w) / this.likelihood(w, file, where)]));
    return [...witnesses].sort((a, b) => (rank.get(a) ?? 0) - (rank.get(b) ?? 0) || (a < b ? -1 : 1));
  }

  private likelihood(witness: string, file: string, where: string): number {
    const ofFile = this.tallies.get(`${witness}#${file}`) ?? { tried: 0, refuted: 0 };
    const ofFunction = this.tallies.get(`${witness}#${file}#${where}`) ?? { tried: 0, refuted: 0 };
    const assumed = assumedLikelihood(witness, file);
    const fromFile = (ofFile.refuted + ASSUMED_TRIALS * assumed) / (ofFile.tried + ASSUMED_TRIALS);
    return (ofFunction.refuted + ASSUMED_TRIALS * fromFile) / (ofFunction.tried + ASSUMED_TRIALS);
  }
}

function assumedLikelihood(witness: string, file: string): number {
  const [of, at] = [witness.split("/").slice(0, -1), file.split("/").slice(0, -1)];
  if (of.join("/") === at.join("/")) return LIKELY_BESIDE;
  const isSameRoom = at.length >= ROOM_DEPTH && of.slice(0, ROOM_DEPTH).join("/") === at.slice(0, ROOM_DEPTH).join("/");
  return isSameRoom ? LIKELY_NEAR : LIKELY_FAR;
}
