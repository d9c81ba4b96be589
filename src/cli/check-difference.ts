// `cordon check --diff A --with B`: two presets or command lines beside each other.
import { type Configuration, eventLines, judgeSide, operationNames, type Side, type TransitionCounts } from "../lab/index.ts";
import { table } from "./table.ts";

function costText(cost: TransitionCounts | undefined): string {
  if (cost === undefined) return "not possible twice";
  const { transitions, controlFlushes, dataFlushes, returnStackFills } = cost;
  return `${transitions} / ${controlFlushes} / ${dataFlushes} / ${returnStackFills}`;
}

/** What `loser` violates and `other` does not, with the shortest witness. */
function lostText(configuration: Configuration, loser: Side, other: Side): string {
  const kept = new Set(other.verdict.result.found.map(({ finding }) => finding.signature));
  const names = operationNames(configuration);
  const lost = loser.verdict.result.found.filter(({ finding }) => !kept.has(finding.signature));
  if (lost.length === 0) return `\n${loser.name}: loses nothing that ${other.name} keeps\n`;
  const stories = lost.map(({ path, finding }) => `  ${finding.message}\n${eventLines(names, path, "    ")}`);
  return `\n${loser.name} loses:\n${stories.join("")}`;
}

/** Prints what two presets or command lines differ in. @returns the exit status: that of the worse verdict */
export async function checkDifference(configuration: Configuration, one: string, other: string): Promise<number> {
  const a = await judgeSide(configuration, one);
  const b = await judgeSide(configuration, other);
  const operations = [...new Set([...a.costs.keys(), ...b.costs.keys()])];
  const rows = operations.map((operation) => {
    const [x, y] = [costText(a.costs.get(operation)), costText(b.costs.get(operation))];
    return [operation, x, y, x === y ? "" : "differs"];
  });
  const verdicts = [a, b].map(({ name, verdict }) => `${name}: ${verdict.outcome}, ${verdict.result.states} states\n`).join("");
  const head = "each operation, the second time: transitions / prediction barriers / data flushes / return-stack fills";
  process.stdout.write(`${verdicts}\n${head}\n${table(["operation", one, other, ""], rows)}\n`);
  process.stdout.write(lostText(configuration, a, b) + lostText(configuration, b, a));
  const outcomes = [a.verdict.outcome, b.verdict.outcome];
  return outcomes.includes("refuted") ? 1 : outcomes.includes("incomplete") ? 3 : 0;
}
