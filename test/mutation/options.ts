// The command line of `npm run mutate`.
import type { Group } from "./targets.ts";

export interface MutateOptions {
  readonly groups: readonly Group[];
  /** Parts of paths of source files; empty for all. */
  readonly only: readonly string[];
  /** Every n-th mutant. */
  readonly sample: number;
  readonly jobs: number;
  /** What one mutant may cost, in seconds. */
  readonly budget: number;
  /** Forget all results. */
  readonly isFresh: boolean;
  /** Run those again that no witness refuted and no explanation excuses. */
  readonly again: boolean;
  /** Run nothing; write the report of what is known. */
  readonly reportOnly: boolean;
}

export class UsageError extends Error {}

export const USAGE = `npm run mutate -- [options]: changes the kernel one statement at a time and looks for a test that notices.
  --seed-hunks   only the statements of the published change of KVM
  --kvm          besides, all of src/kernel/kvm
  --only FILE    only source files whose path contains FILE; may be repeated
  --sample N     only every N-th mutant
  --jobs N       at the same time (2)
  --budget N     seconds for one mutant (60); what takes longer is "over budget", and --again tries it again
  --again        those once more that nothing refuted and nothing excuses
  --fresh        forget earlier results
  --report       run nothing, write docs/mutation.md from what is known`;

const MOST_JOBS = 64;
const LARGEST_BUDGET = 60;

export function parseOptions(args: readonly string[]): MutateOptions {
  const only: string[] = [];
  let [sample, jobs, budget] = [1, 2, LARGEST_BUDGET];
  const flags = new Set<string>();
  for (let i = 0; i < args.length; i++) {
    const name = args[i] ?? "";
    const value = (): string => {
      const given = args[++i];
      if (given === undefined) throw new UsageError(`${name} needs a value`);
      return given;
    };
    if (name === "--only") only.push(value());
    else if (name === "--sample") sample = count(name, value(), Number.MAX_SAFE_INTEGER);
    else if (name === "--jobs") jobs = count(name, value(), MOST_JOBS);
    else if (name === "--budget") budget = count(name, value(), LARGEST_BUDGET);
    else if (["--seed-hunks", "--kvm", "--fresh", "--again", "--report"].includes(name)) flags.add(name);
    else throw new UsageError(`unknown option ${name}\n${USAGE}`);
  }
  if (flags.has("--seed-hunks") && flags.has("--kvm")) throw new UsageError("--seed-hunks and --kvm exclude each other");
  return {
    groups: flags.has("--seed-hunks") ? ["seed"] : ["seed", "asi", "entry", ...(flags.has("--kvm") ? (["kvm"] as const) : [])],
    only,
    sample,
    jobs,
    budget,
    isFresh: flags.has("--fresh"),
    again: flags.has("--again"),
    reportOnly: flags.has("--report"),
  };
}

function count(name: string, text: string, most: number): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1 || value > most) throw new UsageError(`${name}: not a number from 1 to ${most}: ${text}`);
  return value;
}
