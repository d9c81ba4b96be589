// What came of each mutant, a line each, appended as it comes: a run that is killed goes on where it was. The last line may be torn, and
// is then left out. A result counts as long as the mutated file is what it was.
import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";

export const VERDICTS = ["killed", "timeout", "survived", "not executed", "over budget"] as const;
/** `not executed`: no witness executes what is changed. `over budget`: the time for one mutant was over before all witnesses had run. */
export type Verdict = (typeof VERDICTS)[number];

export interface Result {
  readonly key: string;
  /** Of the source that was mutated. */
  readonly hash: string;
  readonly verdict: Verdict;
  /** What refuted it, and which test of it. */
  readonly witness?: string;
  readonly by?: string;
  /** Witnesses that were run. */
  readonly tried: number;
  readonly milliseconds: number;
}

export function isRefuted(verdict: Verdict): boolean {
  return verdict === "killed" || verdict === "timeout";
}

export class Results {
  private readonly latest = new Map<string, Result>();
  private readonly path: string;

  constructor(path: string) {
    this.path = path;
    if (!existsSync(path)) return;
    for (const line of readFileSync(path, "utf8").split("\n")) {
      const result = parse(line);
      if (result !== undefined) this.latest.set(result.key, result);
    }
  }

  /** What came of a mutant of the source with this hash. */
  of(key: string, hash: string): Result | undefined {
    const result = this.latest.get(key);
    return result?.hash === hash ? result : undefined;
  }

  /** What refuted it last, whatever the source was then. */
  lastWitness(key: string): string | undefined {
    return this.latest.get(key)?.witness;
  }

  add(result: Result): void {
    this.latest.set(result.key, result);
    mkdirSync(dirname(this.path), { recursive: true });
    // The line break comes first, so that a torn line before it stays alone.
    appendFileSync(this.path, `\n${JSON.stringify(result)}`);
  }
}

function parse(line: string): Result | undefined {
  if (line === "") return undefined;
  try {
    const value: unknown = JSON.parse(line);
    return isResult(value) ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function isResult(value: unknown): value is Result {
  if (typeof value !== "object" || value === null) return false;
  return "key" in value && "hash" in value && "verdict" in value && (VERDICTS as readonly unknown[]).includes(value.verdict);
}
