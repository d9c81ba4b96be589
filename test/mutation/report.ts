// docs/mutation.md: how much is refuted, by file, and each change that is not, with the reason.
import type { Candidate, Collection } from "./collection.ts";
import { type Explanation, explanationOf, isExcused } from "./explanations.ts";
import { MUTATIONS } from "./mutant.ts";
import { isRefuted, type Result } from "./results.ts";
import { SEED_HUNKS_WITHOUT_STATEMENTS } from "./seed-hunks.ts";
import { AIMS, GROUPS, type Group, LEFT_OUT } from "./targets.ts";

export interface Judged {
  readonly candidate: Candidate;
  /** Undefined: not run yet. */
  readonly result: Result | undefined;
  readonly explanation: Explanation | undefined;
}

export interface Score {
  readonly mutants: number;
  readonly run: number;
  readonly refuted: number;
  readonly excused: number;
  /** Not refuted and not excused. */
  readonly open: number;
  /** Refuted of those that are run and not excused, in per cent. */
  readonly percent: number;
}

export function judge(
  candidates: readonly Candidate[],
  resultOf: (candidate: Candidate) => Result | undefined,
  explanations: readonly Explanation[],
): readonly Judged[] {
  return candidates.map((candidate) => {
    const result = resultOf(candidate);
    const isOpen = result !== undefined && !isRefuted(result.verdict);
    return { candidate, result, explanation: isOpen ? explanationOf(candidate.mutant, explanations) : undefined };
  });
}

export function scoreOf(judged: readonly Judged[]): Score {
  const run = judged.filter(({ result }) => result !== undefined);
  const refuted = run.filter(({ result }) => result !== undefined && isRefuted(result.verdict)).length;
  const excused = run.filter(({ explanation }) => isExcused(explanation)).length;
  const counted = run.length - excused;
  const percent = counted === 0 ? 100 : (100 * refuted) / counted;
  return { mutants: judged.length, run: run.length, refuted, excused, open: counted - refuted, percent };
}

/** Whether what was run reaches its aims, in every group of which something was run. */
export function meetsAims(judged: readonly Judged[], groups: readonly Group[]): boolean {
  return groups.every((group) => {
    const score = scoreOf(judged.filter(({ candidate }) => candidate.group === group));
    return score.run === 0 || score.percent >= AIMS[group];
  });
}

const GROUP_TITLES: Readonly<Record<Group, string>> = {
  seed: "the published change of KVM",
  asi: "src/kernel/asi",
  entry: "src/kernel/entry",
  kvm: "the rest of src/kernel/kvm",
};

export function reportText(collection: Collection, judged: readonly Judged[]): string {
  const total = scoreOf(judged);
  const groups = GROUPS.filter((group) => judged.some(({ candidate }) => candidate.group === group));
  const minutes = Math.round(judged.reduce((sum, { result }) => sum + (result?.milliseconds ?? 0), 0) / 60_000);
  return `${[
    "# Mutation",
    "",
    "`npm run mutate` changes the kernel in one place at a time and looks for a witness that notices: a test, quickest first, of those that",
    "execute the place. What nothing notices is listed below with its reason. Written by the command; the reasons are kept in",
    "`test/mutation/explanations.json`.",
    "",
    `${total.run} of ${total.mutants} mutants run, in ${minutes} minutes of one core. Changes: ${MUTATIONS.join(", ")}.`,
    `Not counted: ${collection.equal} that change nothing in the program, ${collection.invalid} that are no program.`,
    "",
    "| | mutants | run | refuted | excused | open | score | aim |",
    "|---|---|---|---|---|---|---|---|",
    ...groups.map((group) => {
      const score = scoreOf(judged.filter(({ candidate }) => candidate.group === group));
      return `| ${GROUP_TITLES[group]} | ${numbers(score)} | ${AIMS[group] === 0 ? "" : `${AIMS[group]} %`} |`;
    }),
    "",
    "Score: refuted, of those that were run and are not excused. Excused: equivalent (no run can tell), cost only (right, at another cost,",
    "which the flush count shows), report only (what is traced or counted for reports). A hang counts as refuted.",
    "",
    "Not mutated:",
    "- types, imports, declarations as such, comments, tests",
    "- assertions: `assert`, `fail`, `throw`, and an `if` that only fails",
    ...Object.entries(LEFT_OUT).map(([file, why]) => `- \`${file}\`: ${why}`),
    ...Object.entries(SEED_HUNKS_WITHOUT_STATEMENTS).map(([hunk, why]) => `- of the published change, ${hunk}: ${why}`),
    "",
    "## By file",
    "",
    "| file | mutants | run | refuted | excused | open | score |",
    "|---|---|---|---|---|---|---|",
    ...filesOf(judged).map(([file, of]) => `| ${file} | ${numbers(scoreOf(of))} |`),
    "",
    "## What nothing refutes",
    "",
    ...filesOf(judged).flatMap(([file, of]) => survivorsOf(file, of)),
  ].join("\n")}\n`;
}

function numbers(score: Score): string {
  const percent = score.run === 0 ? "" : `${score.percent.toFixed(1)} %`;
  return `${score.mutants} | ${score.run} | ${score.refuted} | ${score.excused} | ${score.open} | ${percent}`;
}

function filesOf(judged: readonly Judged[]): readonly (readonly [string, readonly Judged[]])[] {
  const files = [...new Set(judged.map(({ candidate }) => candidate.mutant.file))].sort();
  return files.map((file) => [file, judged.filter(({ candidate }) => candidate.mutant.file === file)]);
}

function survivorsOf(file: string, judged: readonly Judged[]): readonly string[] {
  const lines = judged.flatMap(({ candidate, result, explanation }) => {
    if (result === undefined || isRefuted(result.verdict)) return [];
    const { where, mutation, text } = candidate.mutant;
    const reason = explanation === undefined ? `${result.verdict}; not explained` : `${explanation.kind}: ${explanation.why}`;
    return [`- ${where}: ${mutation} \`${text.replaceAll("`", "'")}\`: ${reason}`];
  });
  return lines.length === 0 ? [] : [`### ${file}`, "", ...lines, ""];
}
