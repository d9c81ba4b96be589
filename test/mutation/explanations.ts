// Why a mutant that no witness refutes is none to worry about, as data beside this file: written by people, kept by every new report.
import { readFileSync } from "node:fs";
import type { Mutant } from "./mutant.ts";

export const KINDS = ["equivalent", "cost only", "report only", "missing test"] as const;
/**
 * `equivalent`: no run can tell. `cost only`: right, but dearer or cheaper by what the flush count shows. `report only`: what is traced or
 * counted for reports changes. `missing test`: a run could tell, and no test does.
 */
export type Kind = (typeof KINDS)[number];

export interface Explanation {
  readonly file: string;
  /** The function; `*` for all of the file. */
  readonly where: string;
  /** `*` for any. */
  readonly mutation: string;
  /** How the changed text begins; `*` for any. */
  readonly text: string;
  readonly kind: Kind;
  readonly why: string;
}

export function readExplanations(path: string): readonly Explanation[] {
  const read: unknown = JSON.parse(readFileSync(path, "utf8"));
  if (!Array.isArray(read)) throw new Error(`${path}: a list is expected`);
  return read.map((one: unknown, index) => {
    if (isExplanation(one)) return one;
    throw new Error(`${path}: entry ${index} has not file, where, mutation, text, why and a kind of ${KINDS.join(", ")}`);
  });
}

function isExplanation(value: unknown): value is Explanation {
  if (typeof value !== "object" || value === null) return false;
  const fields: Readonly<Record<string, unknown>> = { ...value };
  const isText = ["file", "where", "mutation", "text", "why"].every((name) => typeof fields[name] === "string");
  return isText && "kind" in value && (KINDS as readonly unknown[]).includes(value.kind);
}

/** The first that fits. */
export function explanationOf(mutant: Mutant, explanations: readonly Explanation[]): Explanation | undefined {
  return explanations.find(
    (one) =>
      one.file === mutant.file &&
      (one.where === "*" || one.where === mutant.where) &&
      (one.mutation === "*" || one.mutation === mutant.mutation) &&
      (one.text === "*" || mutant.text.startsWith(one.text)),
  );
}

/** Whether the mutant is taken out of the score: nothing that a test could refute. */
export function isExcused(explanation: Explanation | undefined): boolean {
  return explanation !== undefined && explanation.kind !== "missing test";
}
